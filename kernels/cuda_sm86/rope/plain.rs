//! op: rope. See `plain.cu`.

use crate::common::args::Args;
use crate::common::launch::{Plain, Result, Step, blocks, ptx};
use graph::Op;
use registry::Pattern;

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::Rope(rope) = step.problem.ops[0].op else {
        return Err(step.refuse("not a rope"));
    };
    let dim = step.problem.outputs[0].shape[2];
    let (x, table, y) = (step.input(0)?, step.input(1)?, step.output());
    let len = step.row_len();
    let mut args = Args::default();
    args.tensor(step, x)?;
    args.tensor(step, table)?;
    args.tensor(step, y)?;
    args.count(step, step.rows_from())?;
    let pairing = usize::from(rope.interleaved);
    args.u32s(step, &[len, dim, rope.first, rope.rotary_dim / 2, pairing])?;
    args.u32s(step, &[x.row_stride(), table.row_stride(), y.row_stride()])?;
    let grid = [blocks(len, 128), step.max_rows(), 1];
    step.launch("rope", &args, grid, 128)
}

static F32: Plain = Plain::new(
    &Pattern::ROPE,
    &["f32"],
    "plain",
    ptx!("rope.plain"),
    record,
)
.with_fits(|_| Ok(()))
.with_tolerance(2e-6);
registry::register!(F32);
