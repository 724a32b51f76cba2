//! What the linear variants share: the arguments, part by part of a matrix that
//! is larger than a binding.

use crate::common::args::Args;
use crate::common::launch::{Gpu, Result, Step, element_bytes, scheme_constant};
use registry::{Problem, Scheme};

/// Above this the tiled kernel reads each weight more seldom.
const MOST_ROWS: usize = 16;

/// Rows that share a weight load in a gemv; more of them spill registers.
const SHARED_ROWS: usize = 4;

/// Constants of the gemv shaders.
pub fn gemv_constants(problem: &Problem, gpu: Gpu) -> std::result::Result<Vec<u32>, String> {
    let (_, w) = problem.input(0, 1).ok_or("a linear has a weight")?;
    let mut all = gpu.lanes(gpu.info.subgroup);
    all.push(scheme_constant(w.scheme)?);
    all.push(problem.outputs[0].shape[0].clamp(1, SHARED_ROWS) as u32);
    Ok(all)
}

/// Whether a gemv is meant for the problem.
pub fn few_rows(problem: &Problem) -> std::result::Result<(), String> {
    match problem.outputs[0].shape[0] {
        rows if rows <= MOST_ROWS => Ok(()),
        rows => Err(format!("for up to {MOST_ROWS} rows, not {rows}")),
    }
}

/// Whether every row of the weights and of x begins at a 16-byte piece and ends
/// with one.
pub fn is_aligned(scheme: Scheme, k: usize, weights: &[usize], x: (usize, usize)) -> bool {
    let piece = 16 / element_bytes(scheme) as usize;
    k.is_multiple_of(piece)
        && weights.iter().all(|w| w.is_multiple_of(piece))
        && x.0.is_multiple_of(4)
        && x.1.is_multiple_of(4)
}

/// One dispatch of a linear: columns `first .. first + n` of the output.
pub struct Part<'a> {
    pub args: Args<'a>,
    pub n: usize,
    pub k: usize,
    /// First element of the weight in its binding.
    pub w: usize,
    /// First element of x and its row stride.
    pub x: (usize, usize),
}

/// Arguments of the shaders' common prefix: bindings x, w, bias, y, step;
/// constants rows, n, k, x, w, bias, y.
pub fn parts<'a>(step: &Step<'a>) -> Result<Vec<Part<'a>>> {
    let (x, w, y) = (step.input(0)?, step.input(1)?, step.output());
    let &[all, k] = w.shape.as_slice() else {
        return Err(step.refuse(format!("a matrix [N, K] was expected, not {:?}", w.shape)));
    };
    let size = element_bytes(w.scheme);
    let row = k as u64 * size;
    let most = step.limits().rows_per_binding(row, all);
    if most == 0 {
        return Err(step.refuse("one row of the weight is larger than a binding"));
    }
    let bias = match step.has_input(2) {
        true => Some(step.input(2)?),
        false => None,
    };
    let mut found = Vec::new();
    for first in (0..all).step_by(most) {
        let n = most.min(all - first);
        let mut args = step.args();
        let xs = args.rows(x)?;
        let ws = args.bind(w, first as u64 * row, n as u64 * row, size)? as usize;
        // Without a bias the binding is never read.
        let bs = args.words(bias.unwrap_or(x))? as usize + first;
        let ys = args.rows(y)?;
        let meta = args.step(&step.binds.step)?;
        args.count(meta, step.problem.outputs[0].rows)?;
        let with_bias = usize::from(bias.is_some());
        args.u32s(&[n, k, xs.0, xs.1, ws, bs, with_bias, ys.0 + first, ys.1])?;
        found.push(Part {
            args,
            n,
            k,
            w: ws,
            x: xs,
        });
    }
    Ok(found)
}
