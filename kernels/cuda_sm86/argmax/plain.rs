//! op: argmax. See `plain.cu`.

use crate::common::args::Args;
use crate::common::launch::{Plain, Result, Step, ptx, reduce_threads};
use registry::Pattern;

fn record(step: &mut Step<'_>) -> Result<()> {
    let (x, ids) = (step.input(0)?, step.output());
    let len: usize = x.shape.iter().skip(1).product();
    let mut args = Args::default();
    args.tensor(step, x)?;
    args.tensor(step, ids)?;
    args.count(step, step.rows_from())?;
    args.u32s(step, &[len, x.row_stride(), ids.row_stride()])?;
    let grid = [1, step.max_rows(), 1];
    step.launch("argmax", &args, grid, reduce_threads(len))
}

static F32: Plain = Plain::new(
    &Pattern::ARGMAX,
    &["f32"],
    "plain",
    ptx!("argmax.plain"),
    record,
);
registry::register!(F32);
