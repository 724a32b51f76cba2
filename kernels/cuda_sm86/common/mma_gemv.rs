//! Few rows times block-quantised weights: `linear` and the composites of linears
//! that share their x. See `mma_gemv.cuh`.

use crate::common::args::Args;
use crate::common::gemv::{linears, x_aligned};
use crate::common::launch::{Fits, Plain, Ptx, Result, Step, blocks, ptx};
use crate::common::layout::{MMA16, ROWS, chunks};
use registry::{Act, Pattern, Problem};

pub const Q4_0: Ptx = ptx!("common.mma_gemv_q4_0");
pub const Q8_0: Ptx = ptx!("common.mma_gemv_q8_0");
pub const Q4_K: Ptx = ptx!("common.mma_gemv_q4_k");
pub const Q5_K: Ptx = ptx!("common.mma_gemv_q5_k");
pub const Q6_K: Ptx = ptx!("common.mma_gemv_q6_k");
pub const MIXED: Ptx = ptx!("common.mma_gemv_mixed");

/// Above this the weights are unpacked for a full product on the tensor cores.
const MOST_ROWS: usize = 64;

/// Where schemes are mixed only one tile of rows of x is compiled.
const MOST_MIXED: usize = 8;

const MOST_WARPS: usize = 8;

fn fits(problem: &Problem) -> Fits {
    problem.common_attributes()?;
    let scheme = |i: usize| problem.input(i, 1).map(|(_, w)| w.scheme);
    let mixed = (1..linears(problem)).any(|i| scheme(i) != scheme(0));
    let most = if mixed { MOST_MIXED } else { MOST_ROWS };
    match problem.outputs[0].shape[0] {
        rows if rows <= most => Ok(()),
        rows => Err(format!("for up to {most} rows, not {rows}")),
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let count = linears(step.problem);
    let gated = step.problem.ops.len() > count;
    let x = step.operand(0, 0)?;
    let first = step.operand(0, 1)?;
    let &[_, k] = first.shape.as_slice() else {
        return Err(step.refuse(format!(
            "a matrix [N, K] was expected, not {:?}",
            first.shape
        )));
    };
    let mut args = Args::default();
    let at = args.tensor(step, x)?;
    let aligned = x_aligned(at, x.row_stride());
    let (mut n, mut y_stride) = ([0; 3], [0; 3]);
    let mut schemes = Vec::new();
    for i in 0..3 {
        let w = step.operand(if i < count { i } else { 0 }, 1)?;
        if !args.tensor(step, w)?.is_multiple_of(16) {
            return Err(step.refuse("packed weights must start at a 16-byte piece"));
        }
        if i < count {
            n[i] = w.shape[0];
            schemes.push(w.scheme.0);
        }
    }
    for i in 0..3 {
        let bias = (i < count).then(|| step.optional(i, 2)).flatten();
        args.optional(step, bias)?;
    }
    for i in 0..3 {
        let own = i < count && !(gated && i > 0);
        let y = &step.binds.outputs[if own { i } else { 0 }];
        args.tensor(step, y)?;
        y_stride[i] = y.row_stride();
    }
    args.count(step, step.rows_from())?;
    let chunks = chunks(k);
    let stride = x.row_stride();
    args.u32s(step, &[k, chunks, stride, usize::from(aligned)])?;
    args.u32s(step, &n)?;
    args.u32s(step, &y_stride)?;
    let tiles = match step.max_rows() {
        1 => 0,
        2..=8 => 1,
        9..=16 => 2,
        _ => 4,
    };
    let grid: u32 = match gated {
        true => blocks(n[0], ROWS),
        false => n.iter().map(|n| blocks(*n, ROWS)).sum(),
    };
    // Of gate and up each half of the warps takes one.
    let most = if gated { MOST_WARPS / 2 } else { MOST_WARPS };
    let sharing = chunks.min(most);
    let warps = if gated { 2 * sharing } else { sharing };
    let last = schemes[schemes.len() - 1];
    let scheme = match last == schemes[0] {
        true => last.to_string(),
        false => format!("{}_{last}", schemes[0]),
    };
    let body = if gated { "gated" } else { "gemv" };
    let entry = format!("{body}_{scheme}_{tiles}");
    step.launch(&entry, &args, [grid, 1, 1], 32 * warps as u32)
}

/// The kernel of one scheme, or of one scheme for each linear.
pub const fn kernel(pattern: &'static Pattern, quant: &'static [&'static str], ptx: Ptx) -> Plain {
    Plain::new(pattern, quant, "mma_gemv", ptx, record)
        .with_layouts(&[MMA16])
        .with_act(Act::F16)
        .with_fits(fits)
        .with_rank(20)
        .with_tolerance(1e-4)
}
