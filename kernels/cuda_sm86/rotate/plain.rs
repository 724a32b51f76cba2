//! op: rotate. See `plain.cu`.

use crate::common::args::Args;
use crate::common::launch::{Fits, Plain, Result, Step, blocks, ptx};
use graph::Op;
use registry::{Pattern, Problem};

/// Rows of a block, as in the kernel.
const ROWS: usize = 4;

/// Largest group: a block's rows of it lie in shared memory.
const MOST: usize = 2048;

fn spec(problem: &Problem) -> std::result::Result<(usize, usize), String> {
    match problem.ops[0].op {
        Op::Rotate { rounds, group } => Ok((rounds, group)),
        _ => Err("not a rotate".into()),
    }
}

fn fits(problem: &Problem) -> Fits {
    problem.common_attributes()?;
    match spec(problem)?.1 {
        group if group <= MOST => Ok(()),
        group => Err(format!("for groups of up to {MOST}, not {group}")),
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let (rounds, group) = spec(step.problem).map_err(|e| step.refuse(e))?;
    let (x, y) = (step.input(0)?, step.output());
    let width = step.input(3)?.shape[0];
    let mut args = Args::default();
    for i in 0..4 {
        args.tensor(step, step.input(i)?)?;
    }
    args.tensor(step, y)?;
    args.count(step, step.rows_from())?;
    args.u32s(step, &[width, rounds, group])?;
    args.u32s(step, &[x.row_stride(), y.row_stride()])?;
    let rows = step.max_rows() as usize;
    let grid = [(step.row_len() / group) as u32, blocks(rows, ROWS), 1];
    let threads = (group / 2).next_multiple_of(32).clamp(32, 256) as u32;
    let shared = (rows.min(ROWS) * group * 4) as u32;
    step.launch_shared("rotate", &args, grid, threads, shared)
}

static F32: Plain = Plain::new(
    &Pattern::ROTATE,
    &["f32"],
    "plain",
    ptx!("rotate.plain"),
    record,
)
.with_fits(fits);
registry::register!(F32);
