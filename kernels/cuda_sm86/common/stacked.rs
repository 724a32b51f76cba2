//! `expert_linear` and `head_linear`: products with one of several stacked
//! matrices. See `stacked.cuh`, `gemv.cu` and `mma_gemv.cuh`.

use crate::common::args::Args;
use crate::common::launch::{Fits, Plain, Ptx, Result, Step, blocks, element_bytes, ptx};
use crate::common::layout::{COLUMNS, MMA16, ROWS, chunks};
use crate::common::linears::x_aligned;
use crate::common::mma_gemv::{MOST_CHUNKS, MOST_WARPS, row_bytes};
use graph::Op;
use registry::{Act, Pattern, Problem, ROW_MAJOR};

/// Most blocks in a grid's second dimension.
const MOST_PARTS: usize = 65_535;

/// Matrices, and those that a row meets.
fn parts(problem: &Problem) -> std::result::Result<(usize, usize), String> {
    let per_row = problem.outputs[0].shape.get(1).copied();
    let per_row = per_row.ok_or("y must be [T, parts, N]")?;
    match problem.ops[0].op {
        Op::ExpertLinear { experts } => Ok((experts, per_row)),
        Op::HeadLinear => Ok((per_row, per_row)),
        _ => Err("not an expert_linear or head_linear".into()),
    }
}

fn fits(problem: &Problem) -> Fits {
    problem.common_attributes()?;
    let (_, per_row) = parts(problem)?;
    match problem.outputs[0].shape[0] * per_row {
        n if n <= MOST_PARTS => Ok(()),
        n => Err(format!("for up to {MOST_PARTS} products, not {n}")),
    }
}

/// A row of x lies in shared memory.
fn fits_packed(problem: &Problem) -> Fits {
    fits(problem)?;
    let k = problem
        .input(0, 1)
        .and_then(|(_, w)| w.shape.last().copied());
    match chunks(k.unwrap_or(0)) {
        n if n <= MOST_CHUNKS => Ok(()),
        _ => Err(format!("for up to {} columns", MOST_CHUNKS * COLUMNS)),
    }
}

/// Arguments, grid rows and K. `packed`: the weights are in layout mma16.
fn args(step: &Step<'_>, packed: bool) -> Result<(Args, u32, usize)> {
    let (stack, per_row) = parts(step.problem).map_err(|e| step.refuse(e))?;
    let (x, w, y) = (step.input(0)?, step.input(1)?, step.output());
    let k = w.shape.last().copied().unwrap_or(0);
    let n = y.shape.last().copied().unwrap_or(0);
    let expert = matches!(step.problem.ops[0].op, Op::ExpertLinear { .. });
    let chosen = expert.then(|| step.input(2)).transpose()?;
    let bias = expert.then(|| step.optional(0, 3)).flatten();
    let mut args = Args::default();
    let x_at = args.tensor(step, x)?;
    let w_at = args.tensor(step, w)?;
    args.optional(step, chosen)?;
    args.optional(step, bias)?;
    args.tensor(step, y)?;
    args.count(step, step.rows_from())?;
    let gated = step.problem.ops.len() > 1;
    args.optional(step, gated.then(|| step.operand(1, 1)).transpose()?)?;
    args.optional(step, gated.then(|| step.optional(1, 3)).flatten())?;
    let x_part = if x.shape.len() > 2 { k } else { 0 };
    let mut aligned = x_aligned(x_at, x.row_stride()) && x_part.is_multiple_of(4);
    let chunks = match packed {
        true if !w_at.is_multiple_of(16) => {
            return Err(step.refuse("packed weights must start at a 16-byte piece"));
        }
        true => chunks(k),
        false => {
            let piece = 16 / element_bytes(w.scheme) as usize;
            aligned &= k.is_multiple_of(piece) && w_at.is_multiple_of(16);
            0
        }
    };
    args.u32s(step, &[k, chunks, usize::from(aligned), n, stack, per_row])?;
    args.u32s(step, &[x.row_stride(), x_part])?;
    args.u32(step, chosen.map_or(0, |c| c.row_stride()))?;
    args.u32(step, y.row_stride())?;
    Ok((args, step.max_rows() * per_row as u32, k))
}

fn plain(step: &mut Step<'_>) -> Result<()> {
    let (args, grid, k) = args(step, false)?;
    let n = step.output().shape.last().copied().unwrap_or(0);
    let scheme = step.input(1)?.scheme;
    let piece = 16 / element_bytes(scheme) as usize;
    let threads = (k / piece / 4).next_power_of_two().clamp(32, 256) as u32;
    let grid = [blocks(n, 4), grid, 1];
    step.launch(&format!("stacked_{scheme}"), &args, grid, threads)
}

fn packed(step: &mut Step<'_>) -> Result<()> {
    let (args, grid, k) = args(step, true)?;
    let n = step.output().shape.last().copied().unwrap_or(0);
    let scheme = step.input(1)?.scheme;
    // Rows of a part that starts inside a tile reach into one more.
    let tiles = blocks(n, ROWS) + u32::from(!n.is_multiple_of(ROWS));
    let shared = row_bytes(chunks(k));
    let gated = step.problem.ops.len() > 1;
    let sharing = chunks(k).clamp(1, if gated { MOST_WARPS / 2 } else { MOST_WARPS });
    let threads = 32 * (if gated { 2 * sharing } else { sharing }) as u32;
    let entry = match gated {
        true => format!("stacked_gated_{scheme}"),
        false => format!("stacked_{scheme}"),
    };
    step.launch_shared(&entry, &args, [tiles, grid, 1], threads, shared)
}

/// The kernel of a plain scheme.
pub const fn of_plain(pattern: &'static Pattern, quant: &'static [&'static str]) -> Plain {
    Plain::new(pattern, quant, "gemv", ptx!("common.gemv"), plain)
        .with_layouts(&[ROW_MAJOR])
        .with_fits(fits)
}

/// The kernel of a block scheme.
pub const fn of_blocks(
    pattern: &'static Pattern,
    quant: &'static [&'static str],
    ptx: Ptx,
) -> Plain {
    Plain::new(pattern, quant, "mma_gemv", ptx, packed)
        .with_layouts(&[MMA16])
        .with_act(Act::F16)
        .with_fits(fits_packed)
        .with_tolerance(1e-4)
}
