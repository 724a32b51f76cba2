//! op: linear, many rows in f32. See `tiled.cu`.

use crate::common::args::Args;
use crate::common::launch::{Plain, Result, Step, blocks, ptx, suffix};
use registry::{Pattern, ROW_MAJOR};

/// Rows and columns of a block's tile, as in the kernel.
const TILE: usize = 64;

fn record(step: &mut Step<'_>) -> Result<()> {
    let (x, w, y) = (step.input(0)?, step.input(1)?, step.output());
    let &[n, k] = w.shape.as_slice() else {
        return Err(step.refuse(format!("a matrix [N, K] was expected, not {:?}", w.shape)));
    };
    let mut args = Args::default();
    args.tensor(step, x)?;
    args.tensor(step, w)?;
    args.optional(step, step.optional(0, 2))?;
    args.tensor(step, y)?;
    args.count(step, step.rows_from())?;
    args.u32s(step, &[n, k, x.row_stride(), y.row_stride()])?;
    let entry = suffix(w.scheme).map_err(|e| step.refuse(e))?;
    let grid = [blocks(n, TILE), blocks(step.max_rows() as usize, TILE), 1];
    step.launch(&format!("tiled_{entry}"), &args, grid, 256)
}

const fn of(quant: &'static [&'static str]) -> Plain {
    Plain::new(
        &Pattern::LINEAR,
        quant,
        "tiled",
        ptx!("linear.tiled"),
        record,
    )
    .with_layouts(&[ROW_MAJOR])
}

static F32: Plain = of(&["f32"]);
static F16: Plain = of(&["f16"]);
static BF16: Plain = of(&["bf16"]);
registry::register!(F32, F16, BF16);
