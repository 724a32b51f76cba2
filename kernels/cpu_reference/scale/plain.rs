//! op: scale. y = factor·x, f32 [R, …].

use crate::common::plumbing::{Plain, Result, Step};
use crate::common::pointwise;
use graph::Op;
use registry::Pattern;

fn record(step: Step<'_>) -> Result<()> {
    let Op::Scale { factor } = step.problem.ops[0].op else {
        return Err(step.refuse("not a scale"));
    };
    pointwise::record(step, move |x| factor * x)
}

static F32: Plain = Plain::new(&Pattern::SCALE, &["f32"], "plain", record);
registry::register!(F32);
