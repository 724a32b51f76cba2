//! op: expert_sum. See `plain.cu`.

use crate::common::args::Args;
use crate::common::launch::{Plain, Result, Step, blocks, ptx};
use registry::Pattern;

fn record(step: &mut Step<'_>) -> Result<()> {
    let (y, weights, out) = (step.input(0)?, step.input(1)?, step.output());
    let (len, parts) = (step.row_len(), y.shape[1]);
    let mut args = Args::default();
    for t in [y, weights, out] {
        args.tensor(step, t)?;
    }
    args.count(step, step.rows_from())?;
    args.u32s(step, &[len, parts])?;
    for t in [y, weights, out] {
        args.u32(step, t.row_stride())?;
    }
    let grid = [blocks(len, 128), step.max_rows(), 1];
    step.launch("expert_sum", &args, grid, 128)
}

static F32: Plain = Plain::new(
    &Pattern::EXPERT_SUM,
    &["f32"],
    "plain",
    ptx!("expert_sum.plain"),
    record,
);
registry::register!(F32);
