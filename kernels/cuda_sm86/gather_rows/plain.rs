//! op: gather_rows. See `plain.cu`.

use crate::common::args::Args;
use crate::common::launch::{Plain, Result, Step, blocks, ptx};
use registry::Pattern;

fn record(step: &mut Step<'_>) -> Result<()> {
    let (x, y) = (step.input(0)?, step.output());
    let len = step.row_len();
    let mut args = Args::default();
    args.tensor(step, x)?;
    args.tensor(step, y)?;
    args.count(step, step.rows_from())?;
    args.step(step, step.problem.step.logit_rows())?;
    args.u32s(step, &[len, x.row_stride(), y.row_stride()])?;
    let grid = [blocks(len, 128), step.max_rows(), 1];
    step.launch("gather_rows", &args, grid, 128)
}

static F32: Plain = Plain::new(
    &Pattern::GATHER_ROWS,
    &["f32"],
    "plain",
    ptx!("gather_rows.plain"),
    record,
);
registry::register!(F32);
