//! op: argmax. See `plain.cu`.

use crate::common::args::Args;
use crate::common::launch::{Fits, Plain, Result, Step, common, ptx};
use registry::{Pattern, Problem};

/// Logits of a part, and most parts: a thread of the block that joins them for each.
const PART: usize = 2048;
const MOST_PARTS: usize = 256;
/// As in `plain.cu`.
const MOST_ROWS: usize = 16384;

fn len(problem: &Problem) -> usize {
    problem.inputs[0].row_len()
}

fn parts(problem: &Problem) -> usize {
    len(problem).div_ceil(PART).clamp(1, MOST_PARTS)
}

fn slots(problem: &Problem) -> u64 {
    (problem.outputs[0].shape[0] * parts(problem)) as u64
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let (x, ids, scratch) = (step.input(0)?, step.output(), step.scratch()?);
    let (len, parts, slots) = (len(step.problem), parts(step.problem), slots(step.problem));
    let mut args = Args::default();
    args.tensor(step, x)?;
    args.tensor(step, ids)?;
    args.part(step, scratch, 0, slots * 4)?;
    args.part(step, scratch, slots * 4, slots * 4)?;
    args.count(step, step.rows_from())?;
    args.u32s(step, &[len, x.row_stride(), ids.row_stride()])?;
    args.u32s(step, &[parts, len.div_ceil(parts)])?;
    let grid = [parts as u32, step.max_rows(), 1];
    step.launch("plain", &args, grid, MOST_PARTS as u32)
}

fn fits(problem: &Problem) -> Fits {
    common(problem)?;
    match problem.outputs[0].shape[0] {
        rows if rows <= MOST_ROWS => Ok(()),
        rows => Err(format!("for up to {MOST_ROWS} rows, not {rows}")),
    }
}

static F32: Plain = Plain::new(
    &Pattern::ARGMAX,
    &["f32"],
    "plain",
    ptx!("argmax.plain"),
    record,
)
.with_workspace(|problem| slots(problem) * 8)
.with_fits(fits);
registry::register!(F32);
