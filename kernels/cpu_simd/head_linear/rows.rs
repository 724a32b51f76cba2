//! head_linear / every scheme / rows (cpu_simd)
//! op:        y = x·wᵀ (+ bias) with the matrices of each head
//! shapes:    x [T, heads, K]; w [heads·N, K]; y [T, heads, N]
//! dtypes:    f32 activations; weight rows are decoded to f32
//! partition: threads share the weight rows that are used; see `stacked`
//! source:    written here
//! parity:    2e-5

use crate::common::plumbing::{Result, SimdKernel, Step};
use crate::common::stacked::{self, Users};
use registry::Pattern;

fn record(step: &mut Step<'_>) -> Result<()> {
    stacked::record(step, Users::Own)
}

const fn of(quant: &'static [&'static str]) -> SimdKernel {
    stacked::kernel(&Pattern::HEAD_LINEAR, quant, "rows", record)
}

static F32: SimdKernel = of(&["f32"]);
static F16: SimdKernel = of(&["f16"]);
static BF16: SimdKernel = of(&["bf16"]);
static Q4_0: SimdKernel = of(&["q4_0"]);
static Q4_1: SimdKernel = of(&["q4_1"]);
static Q5_0: SimdKernel = of(&["q5_0"]);
static Q5_1: SimdKernel = of(&["q5_1"]);
static Q8_0: SimdKernel = of(&["q8_0"]);
static Q2_K: SimdKernel = of(&["q2_k"]);
static Q3_K: SimdKernel = of(&["q3_k"]);
static Q4_K: SimdKernel = of(&["q4_k"]);
static Q5_K: SimdKernel = of(&["q5_k"]);
static Q6_K: SimdKernel = of(&["q6_k"]);
static IQ4_NL: SimdKernel = of(&["iq4_nl"]);
static IQ4_XS: SimdKernel = of(&["iq4_xs"]);
static MXFP4: SimdKernel = of(&["mxfp4"]);
static W4_PARO: SimdKernel = of(&["w4_paro"]);
registry::register!(
    F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS,
    MXFP4, W4_PARO
);
