//! op: exp_sum. See `plain.cu`.

use crate::common::args::Args;
use crate::common::launch::{Plain, Result, Step, blocks, common, ptx};
use graph::Op;
use registry::{Pattern, Problem};

/// As in `plain.cu`.
const THREADS: u32 = 256;

fn parts(problem: &Problem) -> usize {
    match problem.ops[0].op {
        Op::ExpSum { parts } => parts,
        _ => 1,
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let (x, top, sums) = (step.input(0)?, step.input(1)?, step.output());
    let (parts, len) = (parts(step.problem), step.problem.inputs[0].row_len());
    let mut args = Args::default();
    for t in [x, top, sums] {
        args.tensor(step, t)?;
    }
    args.count(step, step.rows_from())?;
    args.step(step, step.problem.step.inv_temps())?;
    let strides = [x, top, sums].map(|t| t.row_stride());
    args.u32s(step, &[len, len.div_ceil(parts)])?;
    args.u32s(step, &strides)?;
    let grid = [blocks(parts, 1), step.max_rows(), 1];
    step.launch("exp_sum", &args, grid, THREADS)
}

static F32: Plain = Plain::new(
    &Pattern::EXP_SUM,
    &["f32"],
    "plain",
    ptx!("exp_sum.plain"),
    record,
)
.with_tolerance(1e-20)
.with_fits(common);
registry::register!(F32);
