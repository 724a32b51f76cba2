//! op: attention, few rows, the cache split over blocks. See `split_kv.cu`.

use crate::common::attend;
use crate::common::launch::{Fits, Plain, Result, Step, ptx, suffix};
use registry::{Pattern, Problem};

const MOST_ROWS: usize = 64;

/// Splits of a row's positions, by the bucket alone.
fn splits(rows: usize) -> usize {
    match rows {
        1 => 32,
        2..=16 => 16,
        _ => 4,
    }
}

fn fits(problem: &Problem) -> Fits {
    let rows = problem.outputs[0].shape[0];
    if rows > MOST_ROWS {
        return Err(format!("for up to {MOST_ROWS} rows, not {rows}"));
    }
    attend::fits_pieces(problem, &[64, 128, 256])
}

fn slots(problem: &Problem) -> u64 {
    let rows = problem.outputs[0].shape[0];
    let dim = attend::view(problem).map_or(1, |v| v.head_dim);
    let heads = problem.outputs[0].row_len() / dim;
    (rows * heads * splits(rows)) as u64
}

fn workspace(problem: &Problem) -> u64 {
    let dim = attend::view(problem).map_or(1, |v| v.head_dim) as u64;
    slots(problem) * (8 + 4 * dim)
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let scratch = step.scratch()?;
    let (slots, dim) = (slots(step.problem), attend::view(step.problem));
    let dim = dim.map_err(|e| step.refuse(e))?.head_dim as u64;
    let rows = step.max_rows();
    let (mut args, view, at) = attend::args(step, |args| {
        args.part(step, scratch, 0, slots * 8)?;
        args.part(step, scratch, slots * 8, slots * 4 * dim)?;
        Ok(())
    })?;
    if !at.is_multiple_of(16) {
        return Err(step.refuse("the cache must start at a 16-byte piece"));
    }
    let heads = step.row_len() / view.head_dim;
    let group = heads / view.kv_heads;
    let together = match group {
        1 => 1,
        2 => 2,
        _ => 4,
    };
    let head_blocks = group.div_ceil(together);
    let splits = splits(rows as usize);
    let shift = view.block.trailing_zeros() as usize;
    args.u32s(step, &[heads, splits, head_blocks, shift])?;
    let entry = suffix(step.input(1)?.scheme).map_err(|e| step.refuse(e))?;
    let grid = [(view.kv_heads * head_blocks) as u32, rows, splits as u32];
    step.launch(
        &format!("split_{entry}_{}_{together}", view.head_dim),
        &args,
        grid,
        128,
    )?;
    step.launch(
        "combine",
        &args,
        [heads as u32, rows, 1],
        view.head_dim as u32,
    )
}

const fn of(quant: &'static [&'static str]) -> Plain {
    Plain::new(
        &Pattern::ATTENTION,
        quant,
        "split_kv",
        ptx!("attention.split_kv"),
        record,
    )
    .with_fits(fits)
    .with_workspace(workspace)
    .with_rank(10)
    .with_tolerance(5e-5)
}

static F16: Plain = of(&["f16"]);
static BF16: Plain = of(&["bf16"]);
registry::register!(F16, BF16);
