//! softcap / f32 / simd (cpu_simd)
//! op:        y = cap·tanh(x/cap)
//! shapes:    x, y [R, …]
//! dtypes:    f32
//! partition: threads share runs of 256 elements
//! source:    written here
//! parity:    1e-5

use crate::common::plumbing::{Result, SimdKernel, Step};
use crate::common::pointwise::{self, Map};
use graph::Op;
use registry::Pattern;

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::SoftCap { cap } = step.problem.ops[0].op else {
        return Err(step.refuse("not a softcap"));
    };
    pointwise::record(step, Map::SoftCap(cap))
}

static F32: SimdKernel = SimdKernel::new(&Pattern::SOFTCAP, &["f32"], "simd", 1e-5, record);
registry::register!(F32);
