//! Few rows times plain weights: `linear` and the composites of linears that
//! share their x. See `gemv.cu`.

use crate::common::args::Args;
use crate::common::launch::{Fits, Plain, Ptx, Result, Step, blocks, element_bytes, ptx};
use crate::common::linears::{self, Form};
use registry::{Pattern, Problem, ROW_MAJOR, Scheme};

const PTX: Ptx = ptx!("common.gemv");

/// Above this the tiled kernels read each weight more seldom.
const MOST_ROWS: usize = 16;
/// As in `gemv.cu`: eight warps.
const MOST_THREADS: usize = 256;

/// Whether a gemv is meant for the problem.
fn few_rows(problem: &Problem) -> Fits {
    linears::fits(problem, 1)?;
    match linears::rows(problem) {
        rows if rows <= MOST_ROWS => Ok(()),
        rows => Err(format!("for up to {MOST_ROWS} rows, not {rows}")),
    }
}

/// Threads of a block for so many pieces of each column: four rounds of pieces, in whole
/// warps, where that makes four to six of them. With several rows a block has more
/// products for each piece, and may have fewer threads or more.
fn threads(pieces: usize, one_row: bool) -> u32 {
    let threads = match one_row {
        true => (pieces / 4).clamp(128, 192).min(pieces),
        false => (pieces / 4).next_power_of_two().min(MOST_THREADS),
    };
    threads.next_multiple_of(32).max(32) as u32
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let rows = match step.max_rows() {
        1 => 1,
        2 => 2,
        3 | 4 => 4,
        _ => 8,
    };
    let mut args = Args::default();
    let o = linears::pointers(&mut args, step, |_| Ok(false))?;
    let scheme = Scheme(o.schemes[0]);
    let (k, n, gated) = (o.k, o.n, o.form.gated);
    let piece = 16 / element_bytes(scheme) as usize;
    let aligned = k.is_multiple_of(piece) && o.x_aligned && o.w_aligned;
    args.u32s(step, &[k, o.x_stride, usize::from(aligned)])?;
    args.u32s(step, &n)?;
    args.u32s(step, &o.y_stride)?;
    args.u32(step, o.add_stride)?;
    args.f32(o.eps);
    args.f32(o.weight_offset);
    let columns = if rows <= 2 { 4 } else { 2 };
    let grid = match gated {
        true => blocks(n[0], columns / 2),
        false => n.iter().map(|n| blocks(*n, columns)).sum(),
    };
    let threads = threads(k / piece, rows == 1);
    let body = if gated { "gated" } else { "gemv" };
    let entry = match o.form.normed() {
        true => format!("normed_{body}_{scheme}"),
        false => format!("{body}_{scheme}_{rows}"),
    };
    step.launch(&entry, &args, [grid, 1, 1], threads)
}

fn fits(problem: &Problem) -> Fits {
    few_rows(problem)?;
    match Form::of(problem).uniform(problem) {
        true => Ok(()),
        false => Err("all matrices must be of one scheme".into()),
    }
}

/// The kernel of one scheme.
pub const fn kernel(pattern: &'static Pattern, quant: &'static [&'static str]) -> Plain {
    Plain::new(pattern, quant, "gemv", PTX, record)
        .with_layouts(&[ROW_MAJOR])
        .with_fits(fits)
        .with_rank(20)
}

/// As [`kernel`], behind a norm.
pub const fn normed(pattern: &'static Pattern, quant: &'static [&'static str]) -> Plain {
    kernel(pattern, quant).with_rank(30)
}
