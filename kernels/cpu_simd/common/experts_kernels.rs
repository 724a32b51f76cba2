//! Registration of one pattern of stacked matrices in every way the tree can compute
//! it.

use super::experts;
use super::experts_q8;
use super::plumbing::SimdKernel;
use super::q_scheme::Q16;
use crate::BACKEND;
use graph::{Activation, OpKind};
use registry::{Act, KernelSpec, Pattern};

/// Largest |Δ|: sums over blocks are f32 in another order than the oracle's.
const PRODUCTS: f32 = 5e-5;

/// Where a product of clipped factors follows, all outputs are of a few tens, and
/// the rounding of sums that were far larger shows in those that ended near zero.
const CLIPPED: f32 = 2e-4;

const fn tolerance(pattern: &Pattern) -> f32 {
    let last = &pattern.ops[pattern.ops.len() - 1].kind;
    match last {
        OpKind::GatedMul(Activation::SwigluOai) => CLIPPED,
        _ => PRODUCTS,
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
            tolerance: tolerance(pattern),
        },
        fits: experts::block_fits,
        workspace: experts_q8::workspace,
        record: experts_q8::record,
    }
}

/// Registers `int8` for each block scheme, one for all stacks of the pattern.
macro_rules! int8_experts {
    ($pattern:expr, rank $rank:expr) => {
        use $crate::common::experts_kernels as kernels;
        use $crate::common::plumbing::SimdKernel;

        macro_rules! every {
            ($name:ident $scheme:literal) => {
                static $name: SimdKernel = kernels::int8($pattern, &[$scheme], $rank);
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
    };
}
pub(crate) use int8_experts;
