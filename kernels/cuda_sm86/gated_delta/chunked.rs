//! op: gated_delta, many rows, 32 at a time. See `chunked.cu`.

use crate::common::args::Args;
use crate::common::delta;
use crate::common::launch::{Fits, Plain, Result, Step, blocks, ptx};
use crate::common::linears::x_aligned;
use crate::common::state;
use registry::{Pattern, Problem, StepLayout};

/// Rows of a chunk, the largest key, and the shared memory of `chunk_outer`, as in
/// the kernels.
const CHUNK: usize = 32;
const MOST_DK: usize = 128;
const SHARED: usize = 4 * (3 * CHUNK * (MOST_DK + 4) + 4 * CHUNK * (CHUNK + 4))
    + 4 * (MOST_DK + 3 * CHUNK) * 32
    + 2 * CHUNK * FACTORS;
/// Bytes of a row's factors.
const FACTORS: usize = 32;

fn fits(problem: &Problem) -> Fits {
    match delta::sizes(problem, 0)? {
        s if s.dk > MOST_DK => Err(format!("for keys of up to {MOST_DK}, not {}", s.dk)),
        _ if problem.rows.min <= 2 * CHUNK => Err("for steps of more than 64 rows".into()),
        _ => Ok(()),
    }
}

/// Most chunks: each span has one that is not whole.
fn most_chunks(problem: &Problem) -> usize {
    problem.outputs[0].shape[0] / CHUNK + problem.step.max_spans
}

/// Bytes of the rows' factors, then of each chunk's two matrices.
fn scratch(problem: &Problem) -> (u64, u64) {
    let heads = delta::sizes(problem, 0).map_or(0, |s| s.heads);
    let rows = problem.outputs[0].shape[0];
    let squares = most_chunks(problem) * heads * 2 * CHUNK * CHUNK * 4;
    ((rows * heads * FACTORS) as u64, squares as u64)
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let to = step.scratch()?;
    let (factors, squares) = scratch(step.problem);
    let mut args = Args::default();
    let sizes = delta::inputs(&mut args, step)?;
    args.part(step, to, 0, factors)?;
    args.part(step, to, factors, squares)?;
    let view = state::view(step, 7)?;
    state::pointers(&mut args, step, 7, &view)?;
    args.step(step, StepLayout::SPANS)?;
    delta::words(&mut args, step, &sizes, &view, &delta::strides(step)?)?;
    let mut aligned = sizes.dk.is_multiple_of(4);
    for i in 0..2 {
        let x = step.input(i)?;
        let at = step.recorder.address(&x.buffer, x.offset, x.bytes)?;
        aligned &= x_aligned(at, x.row_stride());
    }
    args.u32(step, usize::from(aligned))?;
    let heads = sizes.heads as u32;
    let grid = [most_chunks(step.problem) as u32, heads, 1];
    step.launch("chunk_inner", &args, grid, 256)?;
    let spans = step.problem.step.max_spans as u32;
    let grid = [blocks(sizes.dv, 32), heads, spans];
    step.launch_shared("chunk_outer", &args, grid, 256, SHARED as u32)
}

static F32: Plain = Plain::new(
    &Pattern::GATED_DELTA,
    &["f32"],
    "chunked",
    ptx!("gated_delta.chunked"),
    record,
)
.with_fits(fits)
.with_workspace(|problem| {
    let (factors, squares) = scratch(problem);
    factors + squares
})
.with_rank(10)
.with_tolerance(1e-4);
registry::register!(F32);
