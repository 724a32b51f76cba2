//! op: rope_table. See `plain.cu`.

use crate::common::args::Args;
use crate::common::launch::{Plain, Result, Step, blocks, ptx};
use graph::Op;
use registry::Pattern;

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::RopeTable { attention_factor } = step.problem.ops[0].op else {
        return Err(step.refuse("not a rope_table"));
    };
    let (freq, table) = (step.input(0)?, step.output());
    let half = freq.shape[0];
    let mut args = Args::default();
    args.tensor(step, freq)?;
    args.tensor(step, table)?;
    args.count(step, step.rows_from())?;
    args.step(step, step.problem.step.positions())?;
    args.u32s(step, &[half, table.row_stride()])?;
    args.f32(attention_factor);
    let grid = [blocks(half, 64), step.max_rows(), 1];
    step.launch("rope_table", &args, grid, 64)
}

static F32: Plain = Plain::new(
    &Pattern::ROPE_TABLE,
    &["f32"],
    "plain",
    ptx!("rope_table.plain"),
    record,
)
.with_tolerance(2e-6);
registry::register!(F32);
