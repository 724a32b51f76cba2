//! Many rows times block-quantised weights, which are brought to bf16 in the workspace
//! first. See `unpacked.cu`.

use crate::common::args::Args;
use crate::common::gemm::{self, plane, shape};
use crate::common::launch::{Fits, Plain, Result, Step, blocks, ptx};
use crate::common::layout::{COLUMNS, MMA16, ROWS, chunks};
use registry::{Act, Pattern, Problem, TensorRef};

/// The schemes that it takes.
pub const SCHEMES: &[&str] = &[
    "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "iq4_nl", "iq4_xs", "mxfp4", "w4_paro",
];

/// Up to this many rows it is better to unpack in registers, for every 16 rows anew.
const LEAST_ROWS: usize = 65;

/// Most bytes of the weights in bf16.
const MOST_UNPACKED: u64 = 1 << 30;

/// Parts of a chunk, as a warp unpacks them.
const TILES: usize = COLUMNS / 64;

/// Bytes of x, then of the weights, in bf16.
fn scratch(problem: &Problem) -> (u64, u64) {
    let (n, k) = shape(problem);
    let weights = (n.next_multiple_of(ROWS) * k) as u64 * 2;
    (plane(problem), weights.next_multiple_of(256))
}

fn fits(problem: &Problem) -> Fits {
    gemm::fits(problem)?;
    let rows = problem.outputs[0].shape[0];
    if rows < LEAST_ROWS {
        return Err(format!("for {LEAST_ROWS} rows and more, not {rows}"));
    }
    match scratch(problem).1 {
        bytes if bytes <= MOST_UNPACKED => Ok(()),
        bytes => Err(format!(
            "the weights in bf16 would take {bytes} bytes, {MOST_UNPACKED} are allowed"
        )),
    }
}

/// Makes bf16 of block-quantised weights, `at` bytes into the scratch, in rows of
/// `columns`.
pub fn unpack(
    step: &mut Step<'_>,
    w: &TensorRef,
    to: &TensorRef,
    (at, bytes): (u64, u64),
    columns: usize,
) -> Result<()> {
    let (panels, chunks) = (w.shape[0].div_ceil(ROWS), chunks(w.shape[1]));
    let mut args = Args::default();
    if !args.tensor(step, w)?.is_multiple_of(16) {
        return Err(step.refuse("packed weights must start at a 16-byte piece"));
    }
    args.part(step, to, at, bytes)?;
    args.u32s(step, &[panels, chunks, columns])?;
    let grid = [blocks(panels * chunks * TILES, 8), 1, 1];
    step.launch(&format!("unpack_{}", w.scheme.0), &args, grid, 256)
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let (x, w) = scratch(step.problem);
    let (_, k) = shape(step.problem);
    let (from, to) = (step.input(1)?, step.scratch()?);
    unpack(step, from, to, (x, w), k)?;
    gemm::multiply(step, 1, "bf16", |args, step| {
        args.part(step, to, x, w).map(|_| ())
    })
}

/// The kernel of one scheme.
pub const fn kernel(quant: &'static [&'static str]) -> Plain {
    Plain::new(
        &Pattern::LINEAR,
        quant,
        "unpacked",
        ptx!("common.unpacked"),
        record,
    )
    .with_layouts(&[MMA16])
    .with_act(Act::Bf16)
    .with_fits(fits)
    .with_workspace(|problem| {
        let (x, w) = scratch(problem);
        x + w
    })
    .with_rank(30)
    // Tensor cores cut off the last bits of every sum of 16 products: 6.4e-5 at
    // K = 12288.
    .with_tolerance(1e-4)
}
