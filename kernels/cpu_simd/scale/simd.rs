//! scale / f32 / simd (cpu_simd)
//! op:        y = factor·x
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
    let Op::Scale { factor } = step.problem.ops[0].op else {
        return Err(step.refuse("not a scale"));
    };
    pointwise::record(step, Map::Scale(factor))
}

static F32: SimdKernel = SimdKernel::new(&Pattern::SCALE, &["f32"], "simd", 1e-5, record);
registry::register!(F32);
