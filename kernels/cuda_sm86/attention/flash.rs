//! op: attention, many rows on the tensor cores. See `flash.cu`.

use crate::common::attend;
use crate::common::launch::{Fits, Plain, Ptx, Result, Step, blocks, ptx};
use registry::{Pattern, Problem};

/// Up to this many rows, which may be as many sequences, the cache is split instead.
const LEAST_ROWS: usize = 65;

/// How a variant cuts its work.
pub(super) struct Cut {
    /// Rows of a block.
    pub rows: usize,
    pub threads: u32,
    /// Bytes of shared memory for each element of a head, and those beside.
    pub shared: u32,
    pub beside: u32,
}

/// Two tiles of 64 keys and values.
const CUT: Cut = Cut {
    rows: 128,
    threads: 256,
    shared: 2 * 2 * 64 * 2,
    beside: 0,
};

/// One such tile, and its codes and scales.
const INT8_CUT: Cut = Cut {
    shared: 2 * 64 * 2 + 2 * 64,
    beside: 2 * 64 * 4,
    ..CUT
};

fn fits(problem: &Problem) -> Fits {
    fits_dims(problem, &[64, 128])
}

/// Many rows of heads of these sizes.
pub fn fits_dims(problem: &Problem, dims: &[usize]) -> Fits {
    problem.common_attributes()?;
    attend::fits_pieces(problem, dims)?;
    match problem.outputs[0].shape[0] {
        rows if rows >= LEAST_ROWS => Ok(()),
        rows => Err(format!("for {LEAST_ROWS} rows and more, not {rows}")),
    }
}

/// A block for each head of some rows.
pub(super) fn launch(step: &mut Step<'_>, cut: &Cut) -> Result<()> {
    let spans = step.problem.step.span_start();
    let (mut args, view, at) = attend::args(step, |args| args.step(step, spans))?;
    if !at.is_multiple_of(16) {
        return Err(step.refuse("the cache must start at a 16-byte piece"));
    }
    args.u32(step, view.block.trailing_zeros() as usize)?;
    let heads = (step.row_len() / view.head_dim) as u32;
    let grid = [heads, blocks(step.max_rows() as usize, cut.rows), 1];
    let entry = format!("flash_{}", view.head_dim);
    let shared = cut.shared * view.head_dim as u32 + cut.beside;
    step.launch_shared(&entry, &args, grid, cut.threads, shared)
}

const fn of(
    quant: &'static [&'static str],
    ptx: Ptx,
    record: fn(&mut Step<'_>) -> Result<()>,
) -> Plain {
    Plain::new(&Pattern::ATTENTION, quant, "flash", ptx, record)
        .with_fits(fits)
        .with_rank(20)
        .with_tolerance(1e-4)
}

static F16: Plain = of(&["f16"], ptx!("attention.flash"), |step| launch(step, &CUT));
static INT8: Plain = of(&["int8_kv"], ptx!("attention.flash_int8"), |step| {
    launch(step, &INT8_CUT)
});
registry::register!(F16, INT8);
