//! Many rows of f32 weights: on tensor cores where the columns are few, see `tf32x3.cu`;
//! and what that shares with `linear/fma.rs`.

use crate::common::args::Args;
use crate::common::launch::{Fits, Plain, Result, Step, blocks, ptx};
use crate::common::linears::{self, x_aligned};
use registry::{Pattern, Problem, ROW_MAJOR};

/// Up to this many rows a gemv is better.
const LEAST_ROWS: usize = 17;

/// Rows and columns of a block.
const TILE: usize = 32;

pub fn fits(problem: &Problem) -> Fits {
    problem.common_attributes()?;
    match linears::rows(problem) {
        rows if rows >= LEAST_ROWS => Ok(()),
        rows => Err(format!("for {LEAST_ROWS} rows and more, not {rows}")),
    }
}

/// As `fits`, for matrices of up to `N` rows.
pub fn fits_up_to<const N: usize>(problem: &Problem) -> Fits {
    fits(problem)?;
    match problem.input(0, 1).map_or(0, |(_, w)| w.shape[0]) {
        n if n <= N => Ok(()),
        n => Err(format!("for matrices of up to {N} rows, not {n}")),
    }
}

/// The kernels' arguments, and the rows of the matrix.
pub fn arguments(step: &Step<'_>) -> Result<(Args, usize)> {
    let (x, w, y) = (step.input(0)?, step.input(1)?, step.output());
    let &[n, k] = w.shape.as_slice() else {
        return Err(step.refuse(format!("a matrix [N, K] was expected, not {:?}", w.shape)));
    };
    let mut args = Args::default();
    let mut aligned = x_aligned(args.tensor(step, x)?, x.row_stride());
    aligned &= x_aligned(args.tensor(step, w)?, k);
    args.optional(step, step.optional(0, 2))?;
    args.tensor(step, y)?;
    args.count(step, step.rows_from())?;
    args.u32s(step, &[n, k, x.row_stride(), y.row_stride()])?;
    args.u32(step, usize::from(aligned))?;
    Ok((args, n))
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let (args, n) = arguments(step)?;
    let grid = [blocks(n, TILE), blocks(step.max_rows() as usize, TILE), 1];
    step.launch("tf32x3", &args, grid, 256)
}

/// The kernel for matrices of up to `N` rows.
pub const fn kernel<const N: usize>() -> Plain {
    Plain::new(
        &Pattern::LINEAR,
        &["f32"],
        "tf32x3",
        ptx!("common.tf32x3"),
        record,
    )
    .with_layouts(&[ROW_MAJOR])
    .with_fits(fits_up_to::<N>)
    .with_rank(15)
    .with_tolerance(1e-4)
}
