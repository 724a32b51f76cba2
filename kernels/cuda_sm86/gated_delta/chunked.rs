//! op: gated_delta, many rows, 32 at a time on tensor cores. See `chunked.cu`.

use crate::common::args::Args;
use crate::common::delta;
use crate::common::launch::{Fits, Plain, Result, Step, blocks, ptx};
use crate::common::linears::x_aligned;
use crate::common::state;
use registry::{Pattern, Problem, StepLayout};

/// Rows of a chunk and the largest key, as in the kernels.
const CHUNK: usize = 32;
const MOST_DK: usize = 128;
/// Columns of the state that a block has.
const COLUMNS: usize = 32;
/// Bytes of a row's factors.
const FACTORS: usize = 16;
/// Bytes of split matrices of a chunk's rows: two f16 numbers for each.
const LINES: usize = 4 * CHUNK * MOST_DK;
const SQUARE: usize = 4 * CHUNK * CHUNK;
/// Shared memory of `chunk_outer`, whose rows are eight numbers longer: two buffers of k,
/// one of q; the inverse, P, X and both forms of δ, and the state; two of the factors; numbers of tiles.
const SHARED: usize = 4 * (3 * CHUNK * (MOST_DK + 8) + (5 * CHUNK + MOST_DK) * (COLUMNS + 8))
    + 2 * CHUNK * FACTORS
    + 36 * 4;

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

/// Bytes of the chunks' factors, of their q and k, and of their two square matrices.
fn scratch(problem: &Problem) -> [u64; 3] {
    let (heads, key_heads) = delta::sizes(problem, 0).map_or((0, 0), |s| (s.heads, s.key_heads));
    let chunks = most_chunks(problem);
    let factors = chunks * heads * CHUNK * FACTORS;
    let keys = chunks * key_heads * 2 * LINES;
    let squares = chunks * heads * 2 * SQUARE;
    [factors as u64, keys as u64, squares as u64]
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let to = step.scratch()?;
    let mut args = Args::default();
    let sizes = delta::inputs(&mut args, step)?;
    let mut at = 0;
    for bytes in scratch(step.problem) {
        args.part(step, to, at, bytes)?;
        at += bytes;
    }
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
    let (heads, key_heads) = (sizes.heads as u32, sizes.key_heads as u32);
    let grid = [most_chunks(step.problem) as u32, key_heads, 1];
    step.launch("chunk_inner", &args, grid, 256)?;
    let spans = step.problem.step.max_spans as u32;
    let grid = [blocks(sizes.dv, COLUMNS), heads, spans];
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
.with_workspace(|problem| scratch(problem).iter().sum())
.with_rank(10)
.with_tolerance(1e-4);
registry::register!(F32);
