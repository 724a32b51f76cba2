//! Registration of one pattern of the matrix family in every way the tree can
//! compute it.

use super::layout::{N16, N16K2};
use super::matmul::{self, PackAs};
use super::matmul_f32;
use super::matmul_q8;
#[cfg(target_arch = "x86_64")]
use super::plumbing::{Fits, needs};
use super::plumbing::{SimdKernel, Step};
use super::q_scheme::Q16;
use crate::BACKEND;
#[cfg(target_arch = "x86_64")]
use registry::Problem;
#[cfg(target_arch = "x86_64")]
use registry::RowsFrom;
use registry::{Act, KernelSpec, Pattern};

type Record = fn(&mut Step<'_>) -> super::plumbing::Result<()>;

/// f32 activations: any CPU.
pub const fn packed(
    pattern: &'static Pattern,
    quant: &'static [&'static str],
    rank: i32,
) -> SimdKernel {
    let (record, layouts): (Record, &[&str]) = match quant[0].as_bytes() {
        b"f32" => (matmul_f32::record_f32, &[N16]),
        b"f16" => (matmul_f32::record_f16, &[N16]),
        _ => (matmul_f32::record_bf16, &[N16K2]),
    };
    SimdKernel {
        every_attribute: false,
        spec: KernelSpec {
            backend: BACKEND,
            pattern,
            quant,
            variant: "packed",
            act: Act::F32,
            rank,
            layouts,
            tolerance: 5e-5,
        },
        fits: matmul::fits,
        workspace: |p| matmul::workspace(p, PackAs::F32),
        record,
    }
}

/// Largest |Δ| of a kernel that rounds to bf16 what a norm of the same kernel
/// yields: where the norm's last bit differs from the oracle's, so may the
/// rounding of that activation, by 2⁻⁸ of one of K terms.
#[cfg(target_arch = "x86_64")]
const NORMED_BF16: f32 = 4e-3;

#[cfg(target_arch = "x86_64")]
const fn bf16(
    pattern: &'static Pattern,
    variant: &'static str,
    rank: i32,
    fits: fn(&Problem) -> Fits,
    workspace: fn(&Problem) -> u64,
    record: Record,
) -> SimdKernel {
    let normed = matches!(pattern.ops[0].kind, graph::OpKind::RmsNorm);
    SimdKernel {
        every_attribute: false,
        spec: KernelSpec {
            backend: BACKEND,
            pattern,
            quant: &["bf16"],
            variant,
            act: Act::Bf16,
            rank,
            layouts: &[N16K2],
            tolerance: if normed { NORMED_BF16 } else { 1e-4 },
        },
        fits,
        workspace,
        record,
    }
}

/// bf16 activations by VDPBF16PS.
#[cfg(target_arch = "x86_64")]
pub const fn bf16_dot(pattern: &'static Pattern, rank: i32) -> SimdKernel {
    bf16(
        pattern,
        "bf16_dot",
        rank,
        |p| {
            needs(&p.device, "avx512bf16")?;
            matmul::fits(p)
        },
        |p| matmul::workspace(p, PackAs::Bf16),
        super::matmul_bf16::record_dot,
    )
}

/// bf16 activations in AMX tiles, for more than one row.
#[cfg(target_arch = "x86_64")]
pub const fn amx(pattern: &'static Pattern, rank: i32) -> SimdKernel {
    bf16(
        pattern,
        "amx",
        rank,
        |p| {
            needs(&p.device, "amx")?;
            if p.rows.max == 1 {
                return Err("tiles do not pay for a single row".into());
            }
            matmul::fits(p)
        },
        super::matmul_amx::workspace,
        super::matmul_amx::record,
    )
}

/// bf16 activations in AMX tiles and weights in blocks, which are rounded to bf16
/// too: for rows enough to pay for decoding them.
#[cfg(target_arch = "x86_64")]
pub const fn amx_blocks(
    pattern: &'static Pattern,
    quant: &'static [&'static str],
    rank: i32,
) -> SimdKernel {
    let mut kernel = bf16(
        pattern,
        "amx",
        rank,
        |p| {
            needs(&p.device, "amx")?;
            let (op, input) = matmul::source(p);
            let few = p
                .input(op, input)
                .is_some_and(|(_, x)| x.rows == RowsFrom::Logits);
            if p.rows.max <= 16 || few {
                return Err("decoded tiles do not pay for so few rows".into());
            }
            matmul::block_fits(p)
        },
        super::matmul_amx::workspace,
        super::matmul_amx::record,
    );
    kernel.spec.quant = quant;
    kernel.spec.layouts = &[Q16];
    kernel
}

/// Largest |Δ| of the same kernels with int8: a rounding that falls the other way
/// is a step of 1/127 of its block's largest activation.
const NORMED_Q8: f32 = 1.5e-2;

/// As for the tree's other products: sums over blocks are f32 in another order than
/// the oracle's, and where they cancel and two of them are multiplied, the order shows.
const PRODUCTS: f32 = 5e-5;

/// int8 activations and weights in blocks: any CPU.
pub const fn int8(
    pattern: &'static Pattern,
    quant: &'static [&'static str],
    rank: i32,
) -> SimdKernel {
    let normed = matches!(pattern.ops[0].kind, graph::OpKind::RmsNorm);
    SimdKernel {
        every_attribute: false,
        spec: KernelSpec {
            backend: BACKEND,
            pattern,
            quant,
            variant: "int8",
            act: Act::Q8_32,
            rank,
            layouts: &[Q16],
            tolerance: if normed { NORMED_Q8 } else { PRODUCTS },
        },
        fits: matmul::block_fits,
        workspace: matmul_q8::workspace,
        record: matmul_q8::record,
    }
}

/// Registers what `$make` gives for each block scheme, one for all matrices of the
/// pattern, and for the lists of schemes that follow.
macro_rules! block_kernels {
    ($make:path, $pattern:expr, rank $rank:expr $(, $mix:ident = [$($part:literal),+])*) => {
        const _: () = {
            use $crate::common::plumbing::SimdKernel;

            macro_rules! every {
                ($name:ident $scheme:literal) => {
                    static $name: SimdKernel = $make($pattern, &[$scheme], $rank);
                    registry::register!($name);
                };
            }
            every!(Q4_0 "q4_0");
            every!(Q4_1 "q4_1");
            every!(Q5_0 "q5_0");
            every!(Q5_1 "q5_1");
            every!(Q8_0 "q8_0");
            every!(Q2_K "q2_k");
            every!(Q3_K "q3_k");
            every!(Q4_K "q4_k");
            every!(Q5_K "q5_k");
            every!(Q6_K "q6_k");
            every!(IQ4_NL "iq4_nl");
            every!(IQ4_XS "iq4_xs");
            every!(MXFP4 "mxfp4");
            every!(W4_PARO "w4_paro");
            $(
                static $mix: SimdKernel = $make($pattern, &[$($part),+], $rank);
                registry::register!($mix);
            )*
        };
    };
}
pub(crate) use block_kernels;

/// Registers `int8` and, from `rank` on, `amx` for block schemes: see
/// [`block_kernels`].
macro_rules! int8_kernels {
    // Made by the module's own `int8`, and no `amx`.
    (by $module:ident, $pattern:expr, rank $($rest:tt)+) => {
        $crate::common::matmul_kernels::block_kernels! {
            $crate::common::$module::int8, $pattern, rank $($rest)+
        }
    };
    ($pattern:expr, rank $rank:literal $($mixes:tt)*) => {
        $crate::common::matmul_kernels::block_kernels! {
            $crate::common::matmul_kernels::int8, $pattern, rank $rank $($mixes)*
        }
        #[cfg(target_arch = "x86_64")]
        $crate::common::matmul_kernels::block_kernels! {
            $crate::common::matmul_kernels::amx_blocks, $pattern, rank $rank + 20 $($mixes)*
        }
    };
}
pub(crate) use int8_kernels;

/// Registers `packed` for f32, f16 and bf16 weights, and `bf16_dot` and `amx`,
/// from `rank` on.
macro_rules! matmul_kernels {
    ($pattern:expr, rank $rank:expr) => {
        use $crate::common::matmul_kernels as kernels;
        use $crate::common::plumbing::SimdKernel;

        static F32: SimdKernel = kernels::packed($pattern, &["f32"], $rank);
        static F16: SimdKernel = kernels::packed($pattern, &["f16"], $rank);
        static BF16: SimdKernel = kernels::packed($pattern, &["bf16"], $rank);
        registry::register!(F32, F16, BF16);

        #[cfg(target_arch = "x86_64")]
        static BF16_DOT: SimdKernel = kernels::bf16_dot($pattern, $rank + 10);
        #[cfg(target_arch = "x86_64")]
        static AMX: SimdKernel = kernels::amx($pattern, $rank + 20);
        #[cfg(target_arch = "x86_64")]
        registry::register!(BF16_DOT, AMX);
    };
}
pub(crate) use matmul_kernels;
