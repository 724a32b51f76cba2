//! op: expert_sum. See `plain.comp`.

use crate::common::launch::{Plain, Result, Step, shader};
use registry::Pattern;

fn record(step: &mut Step<'_>) -> Result<()> {
    let weights = step.input(1)?;
    let experts = weights.shape.iter().skip(1).product();
    let mut args = step.args();
    let x = args.rows(step.input(0)?)?;
    let w = args.rows(weights)?;
    let y = args.rows(step.output())?;
    let meta = args.step(&step.binds.step)?;
    let len = step.row_len();
    args.count(meta, step.problem.outputs[0].rows)?;
    args.u32s(&[len, experts, x.0, x.1, w.0, w.1, y.0, y.1])?;
    step.dispatch(&args, [step.groups_of(len), step.max_rows(), 1])
}

static F32: Plain = Plain::new(
    &Pattern::EXPERT_SUM,
    &["f32"],
    "plain",
    shader!("expert_sum.plain", 4, 9),
    record,
);
registry::register!(F32);
