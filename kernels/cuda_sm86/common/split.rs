//! Attention whose positions are split over blocks. See `split.cuh`.

use crate::common::args::Args;
use crate::common::attend;
use crate::common::launch::{Fits, Result, Step};
use registry::Problem;

/// More rows make blocks enough by themselves.
const MOST_ROWS: usize = 64;

/// Groups of heads whose splits can be counted, as in the kernel.
const MOST_GROUPS: usize = 16384;

/// How a variant cuts its work; fixed by the bucket.
pub struct Cut {
    /// Splits of a row's positions.
    pub splits: usize,
    /// Query heads of a kv head that a block takes.
    pub together: usize,
}

pub fn fits(problem: &Problem, dims: &[usize]) -> Fits {
    let rows = problem.outputs[0].shape[0];
    if rows > MOST_ROWS {
        return Err(format!("for up to {MOST_ROWS} rows, not {rows}"));
    }
    attend::fits_pieces(problem, dims)?;
    // A block for each group of heads at most.
    match rows * heads(problem).0 <= MOST_GROUPS {
        true => Ok(()),
        false => Err(format!("for up to {MOST_GROUPS} rows of heads")),
    }
}

/// Query heads, and those of each kv head.
pub fn heads(problem: &Problem) -> (usize, usize) {
    match attend::view(problem) {
        Ok(view) => {
            let heads = problem.outputs[0].row_len() / view.head_dim;
            (heads, heads / view.kv_heads)
        }
        Err(_) => (1, 1),
    }
}

/// Rows × heads × splits.
fn slots(problem: &Problem, splits: usize) -> u64 {
    (problem.outputs[0].shape[0] * heads(problem).0 * splits) as u64
}

pub fn workspace(problem: &Problem, splits: usize) -> u64 {
    let dim = attend::view(problem).map_or(1, |v| v.head_dim) as u64;
    slots(problem, splits) * (8 + 4 * dim)
}

/// Records `entry`, whose last block of each group joins the splits.
pub fn record(step: &mut Step<'_>, cut: &Cut, entry: &str) -> Result<()> {
    record_between(step, cut, entry, Args::default(), |_, _| Ok(()))
}

/// The same with a variant's own pointers ahead and words behind.
pub fn record_between(
    step: &mut Step<'_>,
    cut: &Cut,
    entry: &str,
    before: Args,
    behind: impl FnOnce(&mut Args, &Step<'_>) -> Result<()>,
) -> Result<()> {
    let scratch = step.scratch()?;
    let slots = slots(step.problem, cut.splits);
    let dim = attend::view(step.problem).map_err(|e| step.refuse(e))?;
    let dim = dim.head_dim as u64;
    let rows = step.max_rows();
    let (mut args, view, at) = attend::args_behind(step, before, |args| {
        args.part(step, scratch, 0, slots * 8)?;
        args.part(step, scratch, slots * 8, slots * 4 * dim)?;
        Ok(())
    })?;
    if !at.is_multiple_of(16) {
        return Err(step.refuse("the cache must start at a 16-byte piece"));
    }
    let (heads, group) = heads(step.problem);
    let head_blocks = group.div_ceil(cut.together);
    let shift = view.block.trailing_zeros() as usize;
    args.u32s(step, &[heads, cut.splits, head_blocks, shift])?;
    behind(&mut args, step)?;
    let blocks = (view.kv_heads * head_blocks) as u32;
    step.launch(entry, &args, [blocks, rows, cut.splits as u32], 128)
}
