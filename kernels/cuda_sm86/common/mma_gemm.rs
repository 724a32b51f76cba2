//! Many rows times block-quantised weights: `linear` and the composites of linears
//! that share their x. See `mma_gemm.cuh`.

use crate::common::launch::{Fits, Plain, Ptx, Result, Step, blocks, ptx};
use crate::common::layout::MMA16;
use crate::common::linears::{self, Form};
use crate::common::rounded;
use registry::{Act, Pattern, Problem};

pub const Q4_0: Ptx = ptx!("common.mma_gemm_q4_0");
pub const Q8_0: Ptx = ptx!("common.mma_gemm_q8_0");
pub const Q4_K: Ptx = ptx!("common.mma_gemm_q4_k");
pub const Q5_K: Ptx = ptx!("common.mma_gemm_q5_k");
pub const Q6_K: Ptx = ptx!("common.mma_gemm_q6_k");

/// Up to this many rows a gemv is better.
const LEAST_ROWS: usize = 17;

/// Rows and columns of a block's tile, and its shared memory, as in the kernel.
const TILE: usize = 128;
const SHARED: u32 = 3 * 128 * 128 + 2 * 128 * 32;

fn fits(problem: &Problem) -> Fits {
    linears::fits(problem, 0)?;
    if !Form::of(problem).uniform(problem) {
        return Err("all matrices must be of one scheme".into());
    }
    match linears::rows(problem) {
        rows if rows >= LEAST_ROWS => Ok(()),
        rows => Err(format!("for {LEAST_ROWS} rows and more, not {rows}")),
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let (args, o) = rounded::args(step)?;
    let tiles: u32 = match o.form.gated {
        true => blocks(o.n[0], TILE / 2),
        false => o.n.iter().map(|n| blocks(*n, TILE)).sum(),
    };
    let body = if o.form.gated { "gated" } else { "gemm" };
    let grid = [tiles, blocks(step.max_rows() as usize, TILE), 1];
    step.launch_shared(
        &format!("{body}_{}", o.schemes[0]),
        &args,
        grid,
        256,
        SHARED,
    )
}

/// The kernel of one scheme.
pub const fn kernel(pattern: &'static Pattern, quant: &'static [&'static str], ptx: Ptx) -> Plain {
    Plain::new(pattern, quant, "mma_gemm", ptx, record)
        .with_layouts(&[MMA16])
        .with_act(Act::F16)
        .with_fits(fits)
        .with_workspace(rounded::workspace)
        .with_rank(10)
        .with_tolerance(1e-4)
}
