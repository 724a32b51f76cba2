//! Many rows times f16 and bf16 weights on the tensor cores. See `gemm.cuh`.

use crate::common::args::Args;
use crate::common::launch::{Fits, Plain, Result, Step, blocks, ptx, suffix};
use registry::{Act, Pattern, Problem, ROW_MAJOR};

/// Up to this many rows a gemv is better.
const LEAST_ROWS: usize = 17;

/// Rows and columns of a block's tile, and its shared memory, as in the kernel.
const TILE: usize = 128;
const SHARED: u32 = 3 * 2 * 128 * 64 * 2;

/// Most columns of y that are worth a second plane of x: routers and gates, whose
/// sums decide between experts, and the matrices of small models.
const NARROW: usize = 512;

/// Rows and columns of the matrix.
pub fn shape(problem: &Problem) -> (usize, usize) {
    match problem.input(0, 1).map(|(_, w)| w.shape.as_slice()) {
        Some(&[n, k]) => (n, k),
        _ => (0, 1),
    }
}

pub fn fits(problem: &Problem) -> Fits {
    problem.common_attributes()?;
    let rows = problem.outputs[0].shape[0];
    if rows < LEAST_ROWS {
        return Err(format!("for {LEAST_ROWS} rows and more, not {rows}"));
    }
    match shape(problem).1 {
        k if k.is_multiple_of(8) => Ok(()),
        k => Err(format!("for columns in multiples of 8, not {k}")),
    }
}

fn fits_narrow(problem: &Problem) -> Fits {
    fits(problem)?;
    match shape(problem).0 {
        n if n <= NARROW => Ok(()),
        n => Err(format!("for matrices of up to {NARROW} rows, not {n}")),
    }
}

/// Bytes of x in 16 bits, a multiple of 256.
pub fn plane(problem: &Problem) -> u64 {
    let x = problem
        .input(0, 0)
        .map_or(0, |(_, x)| x.shape.iter().product());
    (x as u64 * 2).next_multiple_of(256)
}

/// Rounds x into the front of the scratch, then multiplies by what `weights` points to,
/// numbers of `format`.
pub fn multiply(
    step: &mut Step<'_>,
    planes: usize,
    format: &str,
    weights: impl FnOnce(&mut Args, &Step<'_>) -> Result<()>,
) -> Result<()> {
    let (x, y, scratch) = (step.input(0)?, step.output(), step.scratch()?);
    let (n, k) = shape(step.problem);
    let bytes = plane(step.problem) * planes as u64;
    let mut args = Args::default();
    args.tensor(step, x)?;
    args.part(step, scratch, 0, bytes)?;
    args.count(step, step.rows_from())?;
    args.u32s(step, &[k, x.row_stride(), planes])?;
    let grid = [blocks(k, 4 * 128), step.max_rows(), 1];
    step.launch(&format!("round_{format}"), &args, grid, 128)?;
    let mut args = Args::default();
    args.part(step, scratch, 0, bytes)?;
    weights(&mut args, step)?;
    args.optional(step, step.optional(0, 2))?;
    args.tensor(step, y)?;
    args.count(step, step.rows_from())?;
    args.u32s(step, &[n, k, y.row_stride(), planes])?;
    let grid = [blocks(n, TILE), blocks(step.max_rows() as usize, TILE), 1];
    step.launch_shared(&format!("gemm_{format}"), &args, grid, 256, SHARED)
}

fn plain(step: &mut Step<'_>, planes: usize) -> Result<()> {
    let w = step.input(1)?;
    let format = suffix(w.scheme).map_err(|e| step.refuse(e))?;
    multiply(step, planes, format, |args, step| {
        match args.tensor(step, w)?.is_multiple_of(16) {
            true => Ok(()),
            false => Err(step.refuse("the weights must start at a 16-byte piece")),
        }
    })
}

const fn of(
    quant: &'static [&'static str],
    variant: &'static str,
    record: fn(&mut Step<'_>) -> Result<()>,
) -> Plain {
    Plain::new(
        &Pattern::LINEAR,
        quant,
        variant,
        ptx!("common.gemm"),
        record,
    )
    .with_layouts(&[ROW_MAJOR])
    // Tensor cores cut off the last bits of every sum of 16 products: 6.4e-5 at
    // K = 12288.
    .with_tolerance(1e-4)
}

/// x rounded to the weights' format.
pub const fn rounded(quant: &'static [&'static str], act: Act) -> Plain {
    of(quant, "gemm", |step| plain(step, 1))
        .with_act(act)
        .with_fits(fits)
        .with_workspace(plane)
        .with_rank(10)
}

/// x in two planes, as good as f32.
pub const fn split(quant: &'static [&'static str]) -> Plain {
    of(quant, "gemm_split", |step| plain(step, 2))
        .with_fits(fits_narrow)
        .with_workspace(|problem| 2 * plane(problem))
        .with_rank(15)
}
