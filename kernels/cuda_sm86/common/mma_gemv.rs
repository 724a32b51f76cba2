//! Few rows times block-quantised weights: `linear` and the composites of linears
//! that share their x. See `mma_gemv.cuh`.

use crate::common::args::Args;
use crate::common::launch::{Fits, Plain, Ptx, Result, Step, blocks, ptx};
use crate::common::layout::{COLUMNS, MMA16, ROWS, chunks};
use crate::common::linears::{self, Form};
use crate::common::rounded;
use registry::{Act, Pattern, Problem, Scheme};

pub const Q4_0: Ptx = ptx!("common.mma_gemv_q4_0");
pub const Q8_0: Ptx = ptx!("common.mma_gemv_q8_0");
pub const Q4_K: Ptx = ptx!("common.mma_gemv_q4_k");
pub const Q5_K: Ptx = ptx!("common.mma_gemv_q5_k");
pub const Q6_K: Ptx = ptx!("common.mma_gemv_q6_k");
pub const Q4_1: Ptx = ptx!("common.mma_gemv_q4_1");
pub const Q5_0: Ptx = ptx!("common.mma_gemv_q5_0");
pub const Q5_1: Ptx = ptx!("common.mma_gemv_q5_1");
pub const Q2_K: Ptx = ptx!("common.mma_gemv_q2_k");
pub const Q3_K: Ptx = ptx!("common.mma_gemv_q3_k");
pub const IQ4_NL: Ptx = ptx!("common.mma_gemv_iq4_nl");
pub const IQ4_XS: Ptx = ptx!("common.mma_gemv_iq4_xs");
pub const MXFP4: Ptx = ptx!("common.mma_gemv_mxfp4");
pub const W4_PARO: Ptx = ptx!("common.mma_gemv_w4_paro");
pub const MIXED: Ptx = ptx!("common.mma_gemv_mixed");

/// Above this the kernels for many rows are better, where a scheme has one that takes
/// every matrix.
const MOST_ROWS: usize = 64;

/// Most rows where schemes are mixed.
const MOST_MIXED: usize = 16;

pub const MOST_WARPS: usize = 8;

/// Least tiles of 16 columns, of gate and up together those of the gate, for blocks of
/// four tiles.
const LEAST_WIDE: u32 = 512;

/// Most chunks of a row that is laid in shared memory.
pub const MOST_CHUNKS: usize = 160;

/// Shared memory of a row.
pub fn row_bytes(chunks: usize) -> u32 {
    (chunks * 544) as u32
}

/// Blocks of the kernels for one row on a multiprocessor, as they are compiled.
fn together(schemes: &[&str]) -> u32 {
    match schemes.iter().all(|s| matches!(*s, "q4_0" | "q4_k")) {
        true => 3,
        false => 2,
    }
}

/// Whether a scheme has kernels for more than 16 rows at a time and for gate and up.
fn has_all(scheme: Option<Scheme>) -> bool {
    let all = ["q4_0", "q8_0", "q4_k", "q5_k", "q6_k"];
    scheme.is_some_and(|s| all.contains(&s.0))
}

fn fits(problem: &Problem) -> Fits {
    let form = Form::of(problem);
    linears::fits(problem, 1)?;
    let k = linears::columns(problem);
    if linears::rows(problem) == 1 && chunks(k) > MOST_CHUNKS {
        return Err(format!("for up to {} columns", MOST_CHUNKS * COLUMNS));
    }
    let alone = problem.ops.len() == 1;
    let most = match form.uniform(problem) {
        true if alone && !has_all(form.schemes(problem)[0]) => usize::MAX,
        true => MOST_ROWS,
        false => MOST_MIXED,
    };
    match linears::rows(problem) {
        rows if rows <= most => Ok(()),
        rows => Err(format!("for up to {most} rows, not {rows}")),
    }
}

/// The schemes as entries name them.
fn scheme(schemes: &[&str]) -> String {
    let (first, last) = (schemes[0], schemes[schemes.len() - 1]);
    match last == first {
        true => first.to_string(),
        false => format!("{first}_{last}"),
    }
}

fn workspace(problem: &Problem) -> u64 {
    match linears::rows(problem) {
        1 => 0,
        _ => rounded::workspace(problem),
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let lone = step.max_rows() == 1;
    let (args, o) = match lone {
        true => {
            let mut args = Args::default();
            let o = linears::pointers(&mut args, step, |_| Ok(false))?;
            let norm = o.form.norm_behind();
            args.optional(step, norm.and_then(|op| step.optional(op, 1)))?;
            args.optional(step, norm.and(step.binds.outputs.get(1)))?;
            rounded::words(&mut args, step, &o)?;
            (args, o)
        }
        false => rounded::args(step)?,
    };
    let (chunks, gated) = (chunks(o.k), o.form.gated);
    let tiles: u32 = match gated {
        true => blocks(o.n[0], ROWS),
        false => o.n.iter().map(|n| blocks(*n, ROWS)).sum(),
    };
    let scheme = scheme(&o.schemes);
    let body = if gated { "_gated" } else { "" };
    if lone {
        // Of gate and up each half of the warps takes one.
        let sharing = chunks.min(if gated { MOST_WARPS / 2 } else { MOST_WARPS });
        let threads = 32 * (if gated { 2 * sharing } else { sharing }) as u32;
        let grid = tiles.min(together(&o.schemes) * step.recorder.limits().multiprocessors);
        let entry = format!("one{body}_{scheme}");
        return step.launch_shared(&entry, &args, [grid, 1, 1], threads, row_bytes(chunks));
    }
    let warps = chunks.min(MOST_WARPS);
    let least = step.max_rows() <= 16 || !has_all(o.schemes.first().map(|s| Scheme(s)));
    let rows = if least { 16 } else { 32 };
    // Wide blocks read x more seldom; there must be enough of them.
    let wide = rows == 32 && tiles >= LEAST_WIDE;
    let columns = if wide { 64 } else { 32 };
    let own = if gated { columns / 2 } else { columns };
    let grid = match gated {
        true => blocks(o.n[0], own),
        false => o.n.iter().map(|n| blocks(*n, own)).sum(),
    };
    let entry = format!("few{body}_{scheme}_{}_{}", columns / 16, rows / 8);
    let shared = (warps * columns * (rows + 1) * 4) as u32;
    step.launch_shared(&entry, &args, [grid, 1, 1], 32 * warps as u32, shared)
}

/// The kernel of one scheme, or of one scheme for each linear.
pub const fn kernel(pattern: &'static Pattern, quant: &'static [&'static str], ptx: Ptx) -> Plain {
    Plain::new(pattern, quant, "mma_gemv", ptx, record)
        .with_layouts(&[MMA16])
        .with_act(Act::F16)
        .with_fits(fits)
        .with_workspace(workspace)
        .with_rank(20)
        .with_tolerance(1e-4)
}

/// As [`kernel`], behind a norm: its last bit may turn a rounding of x.
pub const fn normed(pattern: &'static Pattern, quant: &'static [&'static str], ptx: Ptx) -> Plain {
    kernel(pattern, quant, ptx)
        .with_rank(30)
        .with_tolerance(5e-4)
}
