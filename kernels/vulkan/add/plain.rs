//! op: add. See `plain.comp`.

use crate::common::launch::{Plain, Result, Step, shader};
use registry::Pattern;

fn record(step: &mut Step<'_>) -> Result<()> {
    let mut args = step.args();
    let a = args.rows(step.input(0)?)?;
    let b = args.rows(step.input(1)?)?;
    let y = args.rows(step.output())?;
    let meta = args.step(&step.binds.step)?;
    let len = step.row_len();
    args.count(meta, step.problem.outputs[0].rows)?;
    args.u32s(&[len, a.0, a.1, b.0, b.1, y.0, y.1])?;
    step.dispatch(&args, [step.groups_of(len), step.max_rows(), 1])
}

static F32: Plain = Plain::new(
    &Pattern::ADD,
    &["f32"],
    "plain",
    shader!("add.plain", 4, 8),
    record,
);
registry::register!(F32);
