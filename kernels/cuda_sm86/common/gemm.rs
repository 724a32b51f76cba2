//! Many rows on the tensor cores: rounding x, and the product. See `gemm.cu`.

use crate::common::args::Args;
use crate::common::launch::{Fits, Result, Step, blocks};
use registry::{Problem, TensorRef};

/// Up to this many rows a gemv is better.
const LEAST_ROWS: usize = 17;

/// Rows and columns of a block's tile, and its shared memory, as in the kernel.
const TILE: usize = 128;
const SHARED: u32 = 4 * 2 * 128 * 32 * 2;

pub fn fits(problem: &Problem) -> Fits {
    problem.common_attributes()?;
    let rows = problem.outputs[0].shape[0];
    let (_, w) = problem.input(0, 1).ok_or("a linear has a weight")?;
    let k = w.shape.last().copied().unwrap_or(0);
    if rows < LEAST_ROWS {
        return Err(format!("for {LEAST_ROWS} rows and more, not {rows}"));
    }
    match k.is_multiple_of(8) {
        true => Ok(()),
        false => Err(format!("for columns in multiples of 8, not {k}")),
    }
}

/// Bytes of x in 16 bits, a multiple of 256.
pub fn rounded_bytes(problem: &Problem) -> u64 {
    let x = problem
        .input(0, 0)
        .map_or(0, |(_, x)| x.shape.iter().product());
    (x as u64 * 2).next_multiple_of(256)
}

/// Rounds x into the start of the workspace.
pub fn round(step: &mut Step<'_>, format: &str, k: usize) -> Result<()> {
    let x = step.input(0)?;
    let scratch = step.scratch()?;
    let mut args = Args::default();
    args.tensor(step, x)?;
    args.part(step, scratch, 0, rounded_bytes(step.problem))?;
    args.count(step, step.rows_from())?;
    args.u32s(step, &[k, x.row_stride()])?;
    let grid = [blocks(k, 4 * 128), step.max_rows(), 1];
    step.launch(&format!("round_{format}"), &args, grid, 128)
}

/// Rows of a 16-bit matrix `[n, k]` at byte `at` of a tensor, and the column of y
/// that the first gives.
pub struct Matrix<'a> {
    pub tensor: &'a TensorRef,
    pub at: u64,
    pub first: usize,
    pub n: usize,
    pub k: usize,
}

/// The product of the rounded x with a matrix.
pub fn multiply(step: &mut Step<'_>, format: &str, w: &Matrix<'_>) -> Result<()> {
    let scratch = step.scratch()?;
    let y = step.output();
    let mut args = Args::default();
    args.part(step, scratch, 0, rounded_bytes(step.problem))?;
    let bytes = (w.n * w.k) as u64 * 2;
    if !args.part(step, w.tensor, w.at, bytes)?.is_multiple_of(16) {
        return Err(step.refuse("the weights must start at a 16-byte piece"));
    }
    match step.optional(0, 2) {
        Some(bias) => {
            let at = w.first as u64 * 4;
            args.part(step, bias, at, bias.bytes.saturating_sub(at))?;
        }
        None => args.optional(step, None)?,
    }
    let at = w.first as u64 * 4;
    args.part(step, y, at, y.bytes.saturating_sub(at))?;
    args.count(step, step.rows_from())?;
    args.u32s(step, &[w.n, w.k, y.row_stride()])?;
    let grid = [blocks(w.n, TILE), blocks(step.max_rows() as usize, TILE), 1];
    step.launch_shared(&format!("gemm_{format}"), &args, grid, 256, SHARED)
}
