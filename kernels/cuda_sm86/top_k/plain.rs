//! op: top_k. See `plain.cu`.

use crate::common::args::Args;
use crate::common::launch::{Fits, Plain, Result, Step, blocks, common, ptx};
use graph::Op;
use registry::{Pattern, Problem};

/// As in `plain.cu`.
const THREADS: u32 = 512;
const PART: usize = THREADS as usize * 16;
const MOST_K: usize = 64;

/// A key's bytes.
const KEY: u64 = 8;

fn k(problem: &Problem) -> usize {
    match problem.ops[0].op {
        Op::TopK { k } => k,
        _ => 0,
    }
}

/// Parts of each launch, the last of which has one.
fn levels(problem: &Problem) -> Vec<usize> {
    let mut parts = vec![problem.inputs[0].row_len().div_ceil(PART).max(1)];
    while let Some(more) = parts.last().copied().filter(|n| *n > 1) {
        parts.push((more * k(problem)).div_ceil(PART));
    }
    parts
}

/// Bytes of the keys that each launch but the last leaves.
fn keys(problem: &Problem) -> Vec<u64> {
    let rows = problem.outputs[0].shape[0];
    let levels = levels(problem);
    let left = levels[..levels.len() - 1].iter();
    left.map(|parts| (rows * parts * k(problem)) as u64 * KEY)
        .collect()
}

fn fits(problem: &Problem) -> Fits {
    common(problem)?;
    match k(problem) {
        1..=MOST_K => Ok(()),
        k => Err(format!("for up to {MOST_K} logits, not {k}")),
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let (x, top, k) = (step.input(0)?, step.output(), k(step.problem));
    let keys = keys(step.problem);
    let mut len = step.problem.inputs[0].row_len();
    let mut at = 0;
    for (level, parts) in levels(step.problem).into_iter().enumerate() {
        let mut args = Args::default();
        args.tensor(step, x)?;
        match level.checked_sub(1) {
            None => args.optional(step, None)?,
            Some(last) => {
                args.part(step, step.scratch()?, at - keys[last], keys[last])?;
            }
        }
        match keys.get(level) {
            None => args.optional(step, None)?,
            Some(bytes) => {
                args.part(step, step.scratch()?, at, *bytes)?;
                at += bytes;
            }
        }
        args.tensor(step, top)?;
        args.count(step, step.rows_from())?;
        args.u32s(step, &[len, x.row_stride(), k, top.row_stride()])?;
        let entry = if level == 0 {
            "top_of_logits"
        } else {
            "top_of_keys"
        };
        let grid = [blocks(parts, 1), step.max_rows(), 1];
        step.launch(entry, &args, grid, THREADS)?;
        len = parts * k;
    }
    Ok(())
}

static F32: Plain = Plain::new(
    &Pattern::TOP_K,
    &["f32"],
    "plain",
    ptx!("top_k.plain"),
    record,
)
.with_workspace(|problem| keys(problem).iter().sum())
.with_fits(fits);
registry::register!(F32);
