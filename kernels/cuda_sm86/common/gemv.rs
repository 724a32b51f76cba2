//! Few rows times plain weights: `linear` and the composites of linears that
//! share their x. See `gemv.cu`.

use crate::common::args::Args;
use crate::common::launch::{Fits, Plain, Ptx, Result, Step, blocks, element_bytes, ptx, suffix};
use graph::OpKind;
use registry::{Pattern, Problem, ROW_MAJOR, Scheme};

const PTX: Ptx = ptx!("common.gemv");

/// Above this the tiled kernels read each weight more seldom.
const MOST_ROWS: usize = 16;

/// Linears at the head of the pattern.
pub fn linears(problem: &Problem) -> usize {
    let is_linear = |o: &&registry::ProblemOp| o.op.kind() == OpKind::Linear;
    problem.ops.iter().take_while(is_linear).count()
}

/// Whether a gemv is meant for the problem.
pub fn few_rows(problem: &Problem) -> Fits {
    problem.common_attributes()?;
    match problem.outputs[0].shape[0] {
        rows if rows <= MOST_ROWS => Ok(()),
        rows => Err(format!("for up to {MOST_ROWS} rows, not {rows}")),
    }
}

/// Whether every row of x starts at a 16-byte piece.
pub fn x_aligned(address: u64, stride: usize) -> bool {
    address.is_multiple_of(16) && stride.is_multiple_of(4)
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
    let scheme = first.scheme;
    let rows = match step.max_rows() {
        1 => 1,
        2 => 2,
        3 | 4 => 4,
        _ => 8,
    };
    let mut args = Args::default();
    let at = args.tensor(step, x)?;
    let piece = 16 / element_bytes(scheme) as usize;
    let mut aligned = k.is_multiple_of(piece) && x_aligned(at, x.row_stride());
    let mut n = [0; 3];
    let mut y_stride = [0; 3];
    for i in 0..3 {
        let w = step.operand(if i < count { i } else { 0 }, 1)?;
        aligned &= args.tensor(step, w)?.is_multiple_of(16);
        if i < count {
            n[i] = w.shape[0];
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
    args.u32s(step, &[k, x.row_stride(), usize::from(aligned)])?;
    args.u32s(step, &n)?;
    args.u32s(step, &y_stride)?;
    let columns = if rows <= 2 { 4 } else { 2 };
    let grid = match gated {
        true => blocks(n[0], columns / 2),
        false => n.iter().map(|n| blocks(*n, columns)).sum(),
    };
    let threads = (k / piece / 4).next_power_of_two().clamp(32, 256) as u32;
    let entry = suffix(scheme).map_err(|e| step.refuse(e))?;
    let body = if gated { "gated" } else { "gemv" };
    step.launch(
        &format!("{body}_{entry}_{rows}"),
        &args,
        [grid, 1, 1],
        threads,
    )
}

fn fits(problem: &Problem) -> Fits {
    few_rows(problem)?;
    let schemes = (0..linears(problem)).map(|i| problem.input(i, 1).map(|(_, w)| w.scheme));
    let all: Vec<Option<Scheme>> = schemes.collect();
    match all.windows(2).all(|p| p[0] == p[1]) {
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
