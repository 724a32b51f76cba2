//! op: gather_rows. See `plain.comp`.

use crate::common::launch::{Plain, Result, Step, shader};
use registry::Pattern;

fn record(step: &mut Step<'_>) -> Result<()> {
    let mut args = step.args();
    let x = args.rows(step.input(0)?)?;
    let y = args.rows(step.output())?;
    let meta = args.step(&step.binds.step)?;
    let len = step.row_len();
    args.count(meta, step.problem.outputs[0].rows)?;
    let logit_rows = meta + step.problem.step.logit_rows();
    args.u32s(&[len, x.0, x.1, y.0, y.1, logit_rows])?;
    step.dispatch(&args, [step.groups_of(len), step.max_rows(), 1])
}

static F32: Plain = Plain::new(
    &Pattern::GATHER_ROWS,
    &["f32"],
    "plain",
    shader!("gather_rows.plain", 3, 7),
    record,
);
registry::register!(F32);
