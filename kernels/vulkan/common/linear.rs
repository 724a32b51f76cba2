//! What the linear variants share: the arguments, part by part of a matrix that
//! is larger than a binding.

use crate::common::args::Args;
use crate::common::launch::{Result, Step, element_bytes};

/// One dispatch of a linear: columns `first .. first + n` of the output.
pub struct Part<'a> {
    pub args: Args<'a>,
    pub n: usize,
    pub k: usize,
    /// The weight's first element, x's first element and row stride.
    pub starts: [usize; 3],
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
        let bs = args.words(bias.unwrap_or(y))? as usize + first;
        let ys = args.rows(y)?;
        let meta = args.step(&step.binds.step)?;
        args.count(meta, step.problem.outputs[0].rows)?;
        let with_bias = usize::from(bias.is_some());
        args.u32s(&[n, k, xs.0, xs.1, ws, bs, with_bias, ys.0 + first, ys.1])?;
        found.push(Part {
            args,
            n,
            k,
            starts: [ws, xs.0, xs.1],
        });
    }
    Ok(found)
}
