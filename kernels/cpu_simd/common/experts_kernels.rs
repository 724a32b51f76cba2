//! Registration of one pattern of stacked matrices in every way the tree can compute
//! it.

use super::experts_f32;
use super::experts_q8;
use super::experts_sizes;
use super::layout::{N16, N16K2};
use super::matmul::PackAs;
#[cfg(target_arch = "x86_64")]
use super::plumbing::needs;
use super::plumbing::{Result, SimdKernel, Step};
use super::q_scheme::Q16;
use crate::BACKEND;
use registry::{Act, KernelSpec, Pattern};

/// Largest |Δ|: sums over blocks are f32 in another order than the oracle's.
const PRODUCTS: f32 = 5e-5;

/// f32 activations: any CPU.
pub const fn packed(
    pattern: &'static Pattern,
    quant: &'static [&'static str],
    rank: i32,
) -> SimdKernel {
    type Record = fn(&mut Step<'_>) -> Result<()>;
    let (record, layouts): (Record, &[&str]) = match quant[0].as_bytes() {
        b"f32" => (experts_f32::record_f32, &[N16]),
        b"f16" => (experts_f32::record_f16, &[N16]),
        _ => (experts_f32::record_bf16, &[N16K2]),
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
            tolerance: PRODUCTS,
        },
        fits: experts_sizes::fits,
        workspace: |p| experts_sizes::workspace(p, PackAs::F32, 0),
        record,
    }
}

/// bf16 activations by VDPBF16PS.
#[cfg(target_arch = "x86_64")]
pub const fn bf16_dot(pattern: &'static Pattern, rank: i32) -> SimdKernel {
    SimdKernel {
        every_attribute: false,
        spec: KernelSpec {
            backend: BACKEND,
            pattern,
            quant: &["bf16"],
            variant: "bf16_dot",
            act: Act::Bf16,
            rank,
            layouts: &[N16K2],
            tolerance: 1e-4,
        },
        fits: |p| {
            needs(&p.device, "avx512bf16")?;
            experts_sizes::fits(p)
        },
        workspace: |p| experts_sizes::workspace(p, PackAs::Bf16, 0),
        record: experts_f32::record_dot,
    }
}

/// int8 activations and weights in blocks: any CPU.
pub const fn int8(
    pattern: &'static Pattern,
    quant: &'static [&'static str],
    rank: i32,
) -> SimdKernel {
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
            tolerance: PRODUCTS,
        },
        fits: experts_sizes::block_fits,
        workspace: experts_q8::workspace,
        record: experts_q8::record,
    }
}

/// Registers `packed` for f32, f16 and bf16 weights, and `bf16_dot` below it: where a
/// router is near a tie, what rounds in the layers before it picks other experts.
macro_rules! plain_experts {
    ($pattern:expr, rank $rank:expr) => {
        use $crate::common::experts_kernels as kernels;
        use $crate::common::plumbing::SimdKernel;

        static F32: SimdKernel = kernels::packed($pattern, &["f32"], $rank);
        static F16: SimdKernel = kernels::packed($pattern, &["f16"], $rank);
        static BF16: SimdKernel = kernels::packed($pattern, &["bf16"], $rank);
        registry::register!(F32, F16, BF16);

        #[cfg(target_arch = "x86_64")]
        static BF16_DOT: SimdKernel = kernels::bf16_dot($pattern, $rank - 5);
        #[cfg(target_arch = "x86_64")]
        registry::register!(BF16_DOT);
    };
}
pub(crate) use plain_experts;
