//! op: scale. See `plain.comp`.

use crate::common::launch::{Plain, Result, Step, shader};
use crate::common::pointwise;
use graph::Op;
use registry::Pattern;

fn record(step: &mut Step<'_>) -> Result<()> {
    match step.problem.ops[0].op {
        Op::Scale { factor: value } => pointwise::record(step, value),
        _ => Err(step.refuse("not a scale")),
    }
}

static F32: Plain = Plain::new(
    &Pattern::SCALE,
    &["f32"],
    "plain",
    shader!("scale.plain", 3, 7),
    record,
);
registry::register!(F32);
