//! op: linear, many rows of f32 weights in f32. See `fma.cu`.

use crate::common::launch::{Plain, Result, Step, blocks, ptx};
use crate::common::tf32x3::{arguments, fits};
use registry::{Pattern, ROW_MAJOR};

/// Matrices of up to this many rows take the narrow tiles.
const NARROW: usize = 64;

fn record(step: &mut Step<'_>) -> Result<()> {
    let (args, n) = arguments(step)?;
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
