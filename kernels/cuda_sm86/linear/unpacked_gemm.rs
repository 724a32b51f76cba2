//! op: linear, many rows of block-quantised weights: unpacked to f16, part by part,
//! then multiplied on the tensor cores. See `common/unpack.cuh`, `common/gemm.cu`.
//! Tolerance 1e-3: weights are rounded to f16, 2⁻¹¹ of each.

use crate::common::args::Args;
use crate::common::gemm::{self, Matrix};
use crate::common::launch::{Plain, Result, Step, blocks, ptx};
use crate::common::layout::{MMA16, chunks};
use registry::{Act, Pattern, Problem};

/// Most bytes of unpacked weights in the workspace.
const PART: usize = 96 << 20;

/// Rows unpacked at a time.
fn part_rows(n: usize, k: usize) -> usize {
    (PART / (2 * k)).clamp(128, 65_535).min(n)
}

fn shape(problem: &Problem) -> (usize, usize) {
    match problem.input(0, 1).map(|(_, w)| w.shape.as_slice()) {
        Some(&[n, k]) => (n, k),
        _ => (0, 1),
    }
}

fn workspace(problem: &Problem) -> u64 {
    let (n, k) = shape(problem);
    gemm::rounded_bytes(problem) + (part_rows(n, k) * k) as u64 * 2
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let (n, k) = shape(step.problem);
    let (w, scratch) = (step.input(1)?, step.scratch()?);
    gemm::round(step, "f16", k)?;
    let at = gemm::rounded_bytes(step.problem);
    let most = part_rows(n, k).max(1);
    for first in (0..n).step_by(most) {
        let rows = most.min(n - first);
        let mut args = Args::default();
        args.tensor(step, w)?;
        args.part(step, scratch, at, (rows * k) as u64 * 2)?;
        args.u32s(step, &[k, chunks(k), first, rows])?;
        // The grid's y is limited to 65535.
        let grid = [blocks(k, 256), rows as u32, 1];
        step.launch(&format!("unpack_{}", w.scheme), &args, grid, 128)?;
        let part = Matrix {
            tensor: scratch,
            at,
            first,
            n: rows,
            k,
        };
        gemm::multiply(step, "f16", &part)?;
    }
    Ok(())
}

const fn of(quant: &'static [&'static str]) -> Plain {
    Plain::new(
        &Pattern::LINEAR,
        quant,
        "unpacked_gemm",
        ptx!("common.gemm"),
        record,
    )
    .with_layouts(&[MMA16])
    .with_act(Act::F16)
    .with_fits(gemm::fits)
    .with_workspace(workspace)
    .with_rank(10)
    .with_tolerance(1e-3)
}

static Q4_0: Plain = of(&["q4_0"]);
static Q8_0: Plain = of(&["q8_0"]);
static Q4_K: Plain = of(&["q4_k"]);
static Q5_K: Plain = of(&["q5_k"]);
static Q6_K: Plain = of(&["q6_k"]);
registry::register!(Q4_0, Q8_0, Q4_K, Q5_K, Q6_K);
