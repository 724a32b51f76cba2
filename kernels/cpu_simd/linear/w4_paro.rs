//! linear / w4_paro / rows (cpu_simd)
//! op:        y = x·wᵀ + bias
//! shapes:    x [R, …=K]; w [N, K]; bias [N]; y [R, N]
//! dtypes:    f32 activations; weight rows are decoded to f32
//! partition: threads share the weight rows; see `stacked`, of which this is one part
//! source:    written here
//! parity:    2e-5

use crate::common::plumbing::{Result, SimdKernel, Step};
use crate::common::stacked::{self, Users};
use registry::Pattern;

fn record(step: &mut Step<'_>) -> Result<()> {
    stacked::record(step, Users::All)
}

static W4_PARO: SimdKernel = stacked::kernel(&Pattern::LINEAR, &["w4_paro"], record);
registry::register!(W4_PARO);
