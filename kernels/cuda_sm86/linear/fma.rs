//! op: linear, many rows of f32 weights in f32. See `fma.cu`.

use crate::common::args::Args;
use crate::common::launch::{Fits, Plain, Result, Step, blocks, ptx};
use crate::common::linears::{self, x_aligned};
use registry::{Pattern, Problem, ROW_MAJOR};

/// Up to this many rows a gemv is better.
const LEAST_ROWS: usize = 17;

/// Matrices of up to this many rows take the narrow tiles.
const NARROW: usize = 64;

fn fits(problem: &Problem) -> Fits {
    problem.common_attributes()?;
    match linears::rows(problem) {
        rows if rows >= LEAST_ROWS => Ok(()),
        rows => Err(format!("for {LEAST_ROWS} rows and more, not {rows}")),
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
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
    let rows = step.max_rows() as usize;
    match n <= NARROW {
        true => step.launch(
            "fma_narrow",
            &args,
            [blocks(n, 32), blocks(rows, 32), 1],
            128,
        ),
        false => step.launch(
            "fma_wide",
            &args,
            [blocks(n, 64), blocks(rows, 128), 1],
            256,
        ),
    }
}

static F32: Plain = Plain::new(
    &Pattern::LINEAR,
    &["f32"],
    "fma",
    ptx!("linear.fma"),
    record,
)
.with_layouts(&[ROW_MAJOR])
.with_fits(fits)
.with_rank(10);
registry::register!(F32);
