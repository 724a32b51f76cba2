//! `expert_linear` of many rows, and gate and up with SiLU, through wgmma: each expert's
//! rows together. See `grouped.cu`.

use crate::BACKEND;
use cuda_sm86::common::args::Args;
use cuda_sm86::common::grouped::{Shape, operands, sort, sorted_fits};
use cuda_sm86::common::launch::{Fits, Plain, Ptx, Result, Step, blocks};
use cuda_sm86::common::layout::{MMA16, ROWS, chunk_bytes, chunks};
use cuda_sm86::common::linears::x_aligned;
use registry::{Act, Pattern, Problem};

const PTX: Ptx = Ptx {
    name: "cuda_sm90.common.grouped",
    text: include_str!("../prebuilt/common.grouped.ptx"),
};

/// As in the kernel: threads, columns of a tile, bytes of x of a tile and chunk, panels of
/// a chunk, shared memory that sums pass through, most of it for all.
const THREADS: u32 = 512;
const TILE: usize = 256;
const X_BYTES: usize = 64 * 4 * 128 + 64 * 32;
const PANELS: usize = 16;
const EXCHANGE: usize = 2 * 128 * 8 * 4;
const MOST_SHARED: usize = 232_448 - 5120 - 64;

/// Rows of x whose pairs a block lays.
const LAID_ROWS: usize = 8;

/// Most bytes of x that are laid ahead of the products.
const MOST_LAID: u64 = 1 << 30;

/// Bytes of x as the kernel takes it.
fn laid(shape: &Shape) -> u64 {
    (shape.most_tiles() * chunks(shape.k) * X_BYTES) as u64
}

/// Where in the scratch the list of pairs starts, and the places in it; and all bytes.
fn scratch(shape: &Shape) -> (u64, u64, u64) {
    let (at, [starts, pairs]) = (laid(shape), shape.sorted());
    (at, at + starts + pairs, at + starts + 2 * pairs)
}

fn workspace(problem: &Problem) -> u64 {
    Shape::of(problem).map_or(0, |s| scratch(&s).2)
}

fn fits(problem: &Problem) -> Fits {
    sorted_fits(problem)?;
    let shape = Shape::of(problem)?;
    let (n, bytes) = (shape.n, laid(&shape));
    let all = (shape.rows * shape.parts) as u64 * n as u64;
    if all > u64::from(u32::MAX) {
        return Err(format!("for y of up to 2^32 numbers, not {all}"));
    }
    if !n.is_multiple_of(ROWS) {
        return Err(format!(
            "for experts with rows in multiples of {ROWS}, not {n}"
        ));
    }
    if bytes > MOST_LAID {
        return Err(format!(
            "x would take {bytes} bytes, {MOST_LAID} are allowed"
        ));
    }
    Ok(())
}

/// Makes f16 of x, pair by pair.
fn lay(step: &mut Step<'_>, shape: &Shape) -> Result<()> {
    let (x, chosen, to) = (step.input(0)?, step.input(2)?, step.scratch()?);
    let (list, places, _) = scratch(shape);
    let [starts, pairs] = shape.sorted();
    let (part, _) = shape.x_part();
    let mut args = Args::default();
    let aligned = x_aligned(args.tensor(step, x)?, x.row_stride()) && part.is_multiple_of(4);
    if !args.part(step, to, 0, list)?.is_multiple_of(16) {
        return Err(step.refuse("the workspace must start at a 16-byte piece"));
    }
    args.part(step, to, list, starts)?;
    args.part(step, to, places, pairs)?;
    args.tensor(step, chosen)?;
    args.count(step, step.rows_from())?;
    args.u32s(step, &[shape.k, x.row_stride(), part, shape.parts])?;
    args.u32s(step, &[chosen.row_stride(), shape.experts, chunks(shape.k)])?;
    args.u32(step, usize::from(aligned))?;
    step.launch(
        "lay_pairs",
        &args,
        [blocks(shape.rows, LAID_ROWS), 1, 1],
        256,
    )
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let shape = Shape::of(step.problem).map_err(|e| step.refuse(e))?;
    let (bytes, places, _) = scratch(&shape);
    sort(step, &shape, bytes, Some(places))?;
    lay(step, &shape)?;
    let from = step.scratch()?;
    let mut args = Args::default();
    args.part(step, from, 0, bytes)?;
    operands(&mut args, step, &shape, bytes)?;
    let (w, y) = (step.input(1)?, step.output());
    let tiles = blocks(shape.n, if shape.gated { TILE / 2 } else { TILE });
    args.u32s(step, &[chunks(shape.k), shape.n, shape.experts])?;
    args.u32s(step, &[shape.parts, y.row_stride(), tiles as usize])?;
    let most = (shape.most_tiles() as u32).saturating_mul(tiles);
    let grid = [most.min(step.recorder.limits().multiprocessors), 1, 1];
    let body = if shape.gated { "gated" } else { "grouped" };
    let scheme = w.scheme;
    let chunk = chunk_bytes(scheme.0).ok_or_else(|| step.refuse("not in layout mma16"))?;
    let stage = (X_BYTES + PANELS * chunk).next_multiple_of(1024);
    let stages = if 3 * stage + EXCHANGE <= MOST_SHARED {
        3
    } else {
        2
    };
    let shared = (stages * stage + EXCHANGE + 64) as u32;
    step.launch_shared(&format!("{body}_{scheme}"), &args, grid, THREADS, shared)
}

/// The kernel of one scheme.
pub const fn kernel(pattern: &'static Pattern, quant: &'static [&'static str]) -> Plain {
    Plain::new(pattern, quant, "wgmma", PTX, record)
        .of_tree(BACKEND)
        .with_layouts(&[MMA16])
        .with_act(Act::F16)
        .with_fits(fits)
        .with_workspace(workspace)
        .with_rank(40)
        .with_tolerance(1e-4)
}
