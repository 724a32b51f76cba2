//! linear / block schemes / decoded (cpu_simd)
//! op:        y = x·wᵀ + bias
//! shapes:    x [R, …=K]; w [N, K]; bias [N]; y [R, N]
//! dtypes:    f32 activations; weight rows are decoded to f32: for plans that keep
//!            to f32 activations, see `int8` for the ones that do not
//! partition: threads share the weight rows; see `stacked`, of which this is one part
//! source:    written here
//! parity:    2e-5

use crate::common::plumbing::{Result, SimdKernel, Step};
use crate::common::stacked::{self, Users};
use registry::Pattern;

fn record(step: &mut Step<'_>) -> Result<()> {
    stacked::record(step, Users::All)
}

const fn of(quant: &'static [&'static str]) -> SimdKernel {
    stacked::kernel(&Pattern::LINEAR, quant, "decoded", record)
}

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
    Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4, W4_PARO
);
