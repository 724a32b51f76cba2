//! op: attention, many rows on the tensor cores. See `flash.cu`.

use crate::common::attend;
use crate::common::launch::{Fits, Plain, Result, Step, blocks, ptx};
use registry::{Pattern, Problem};

/// Up to this many rows, which may be as many sequences, the cache is split instead.
const LEAST_ROWS: usize = 65;

/// Rows of a block, its threads, and its shared memory for each element of a head:
/// two tiles of 64 keys and values.
const ROWS: usize = 128;
const THREADS: u32 = 256;
const SHARED: u32 = 2 * 2 * 64 * 2;

fn fits(problem: &Problem) -> Fits {
    fits_dims(problem, &[64, 128])
}

/// Many rows of heads of these sizes.
pub(super) fn fits_dims(problem: &Problem, dims: &[usize]) -> Fits {
    problem.common_attributes()?;
    attend::fits_pieces(problem, dims)?;
    match problem.outputs[0].shape[0] {
        rows if rows >= LEAST_ROWS => Ok(()),
        rows => Err(format!("for {LEAST_ROWS} rows and more, not {rows}")),
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    launch(step, ROWS, THREADS, SHARED)
}

/// A block for each head of `rows` rows; `shared` bytes for each element of a head.
pub(super) fn launch(step: &mut Step<'_>, rows: usize, threads: u32, shared: u32) -> Result<()> {
    let spans = step.problem.step.span_start();
    let (mut args, view, at) = attend::args(step, |args| args.step(step, spans))?;
    if !at.is_multiple_of(16) {
        return Err(step.refuse("the cache must start at a 16-byte piece"));
    }
    args.u32(step, view.block.trailing_zeros() as usize)?;
    let heads = (step.row_len() / view.head_dim) as u32;
    let grid = [heads, blocks(step.max_rows() as usize, rows), 1];
    let entry = format!("flash_{}", view.head_dim);
    let shared = shared * view.head_dim as u32;
    step.launch_shared(&entry, &args, grid, threads, shared)
}

static F16: Plain = Plain::new(
    &Pattern::ATTENTION,
    &["f16"],
    "flash",
    ptx!("attention.flash"),
    record,
)
.with_fits(fits)
.with_rank(20)
.with_tolerance(1e-4);
registry::register!(F16);
