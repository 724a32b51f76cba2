//! Up to 64 rows times block-quantised weights through wgmma: `linear` and the composites
//! of linears that share their x. See `few.cu`.

use crate::BACKEND;
use cuda_sm86::common::args::Args;
use cuda_sm86::common::launch::{Fits, Plain, Ptx, Result, Step, blocks};
use cuda_sm86::common::layout::{MMA16, chunk_bytes, chunks};
use cuda_sm86::common::linears::{self, Form, x_aligned};
use graph::Op;
use registry::{Act, Pattern, Problem};

const PTX: Ptx = Ptx {
    name: "cuda_sm90.common.few",
    text: include_str!("../prebuilt/common.few.ptx"),
};

/// Fewer rows are left to the parent's products, more to those of `gemm.cu`.
const LEAST_ROWS: usize = 17;
const MOST_ROWS: usize = 64;

/// As in the kernel: columns of a block, bytes of x for a chunk, chunks under way.
const TILE: usize = 128;
const X_BYTES: usize = 64 * 4 * 128 + 64 * 32;
const STAGES: usize = 2;
const THREADS: u32 = 256;

/// Threads that norm a row.
const NORM_THREADS: usize = 512;

/// Blocks that large devices have places for at once.
const PLACES: usize = 264;

/// What a block takes before and after its chunks, in chunks.
const AROUND: usize = 2;

/// Most parts that K is cut into.
const MOST_PARTS: usize = 16;

/// Blocks' shares of the columns.
fn units(problem: &Problem) -> usize {
    let form = Form::of(problem);
    let n = |i: usize| {
        let w = problem.input(form.first + i, 1);
        w.map_or(0, |(_, w)| w.shape[0])
    };
    match form.gated {
        true => n(0).div_ceil(TILE / 2),
        false => (0..form.count).map(|i| n(i).div_ceil(TILE)).sum(),
    }
}

/// Parts of K: as many as end soonest.
fn parts(problem: &Problem) -> usize {
    let (units, chunks) = (units(problem), chunks(linears::columns(problem)));
    let time = |parts: usize| {
        let waves = (units * parts).div_ceil(PLACES);
        waves * (chunks.div_ceil(parts) + AROUND)
    };
    let most = match units <= PLACES {
        true => chunks.clamp(1, MOST_PARTS),
        false => 1,
    };
    (1..=most).min_by_key(|p| time(*p)).unwrap_or(1)
}

/// Bytes of x as the kernel takes it, and of the sums of the parts.
fn scratch(problem: &Problem) -> (u64, u64) {
    let x = chunks(linears::columns(problem)) * X_BYTES;
    let sums = match parts(problem) {
        1 => 0,
        parts => units(problem) * parts * TILE * MOST_ROWS * 4,
    };
    (x as u64, sums as u64)
}

fn workspace(problem: &Problem) -> u64 {
    let (x, sums) = scratch(problem);
    x + sums
}

fn fits(problem: &Problem) -> Fits {
    linears::fits(problem, MOST_ROWS)?;
    match linears::rows(problem) {
        LEAST_ROWS..=MOST_ROWS => Ok(()),
        rows => Err(format!("for {LEAST_ROWS} to {MOST_ROWS} rows, not {rows}")),
    }
}

/// Lays x, or its norm, as the kernel takes it.
fn lay(step: &mut Step<'_>, bytes: u64) -> Result<()> {
    let (x, to) = (step.operand(0, 0)?, step.scratch()?);
    let k = linears::columns(step.problem);
    let mut args = Args::default();
    let mut aligned = x_aligned(args.tensor(step, x)?, x.row_stride());
    if !args.part(step, to, 0, bytes)?.is_multiple_of(16) {
        return Err(step.refuse("the workspace must start at a 16-byte piece"));
    }
    args.count(step, step.rows_from())?;
    let norm = match step.problem.ops[0].op {
        Op::RmsNorm { eps, weight_offset } => Some((eps, weight_offset)),
        _ => None,
    };
    match norm {
        Some(_) => aligned &= args.tensor(step, step.operand(0, 1)?)?.is_multiple_of(16),
        None => args.optional(step, None)?,
    }
    let chunks = chunks(k);
    args.u32s(step, &[k, x.row_stride(), chunks, usize::from(aligned)])?;
    let (eps, offset) = norm.unwrap_or_default();
    args.f32(eps);
    args.f32(offset);
    let rows = step.max_rows();
    if norm.is_some() {
        let threads = (chunks * 32).min(NORM_THREADS) as u32;
        return step.launch("lay_norm", &args, [1, rows, 1], threads);
    }
    step.launch("lay_rows", &args, [blocks(chunks, 8), rows, 1], 256)
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let to = step.scratch()?;
    let (x, sums) = scratch(step.problem);
    lay(step, x)?;
    let (units, parts) = (units(step.problem), parts(step.problem));
    let mut args = Args::default();
    let o = linears::pointers(&mut args, step, |args| {
        args.part(step, to, 0, x)?;
        Ok(true)
    })?;
    if !o.w_aligned {
        return Err(step.refuse("packed weights must start at a 16-byte piece"));
    }
    if sums > 0 {
        args.part(step, to, x, sums)?;
    } else {
        args.optional(step, None)?;
    }
    args.u32s(step, &o.n)?;
    args.u32s(step, &o.y_stride)?;
    args.u32s(step, &[chunks(o.k), parts, o.add_stride])?;
    let scheme = o.schemes[0];
    let chunk = chunk_bytes(scheme).ok_or_else(|| step.refuse("not in layout mma16"))?;
    let stage = (X_BYTES + 8 * chunk).next_multiple_of(1024);
    let shared = (STAGES * stage + 1024 + 64) as u32;
    let body = if o.form.gated { "few_gated" } else { "few" };
    let grid = [blocks(units, 1), blocks(parts, 1), 1];
    step.launch_shared(&format!("{body}_{scheme}"), &args, grid, THREADS, shared)
}

/// The kernel of one scheme.
pub const fn kernel(pattern: &'static Pattern, quant: &'static [&'static str]) -> Plain {
    Plain::new(pattern, quant, "wgmma_few", PTX, record)
        .of_tree(BACKEND)
        .with_layouts(&[MMA16])
        .with_act(Act::F16)
        .with_fits(fits)
        .with_workspace(workspace)
        .with_rank(30)
        .with_tolerance(1e-4)
}

/// The same behind a norm, whose last bits turn roundings of x.
pub const fn normed(pattern: &'static Pattern, quant: &'static [&'static str]) -> Plain {
    kernel(pattern, quant).with_tolerance(5e-4)
}
