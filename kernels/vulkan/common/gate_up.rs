//! linear+linear+silu_mul: what its variants share.

use crate::common::launch::{Result, Step};
use crate::common::stored::Matrix;

/// Records a product of x with both matrices, part by part; `groups` says how many
/// workgroups take that many columns.
pub fn record(step: &mut Step<'_>, groups: fn(&Step<'_>, usize) -> u32) -> Result<()> {
    let (x, gate, up) = (
        step.operand(0, 0)?,
        step.operand(0, 1)?,
        step.operand(1, 1)?,
    );
    let matrix = Matrix::of(gate).map_err(|e| step.refuse(e))?;
    let bias = |op: usize| match step.problem.input(op, 2) {
        Some(_) => step.operand(op, 2).map(Some),
        None => Ok(None),
    };
    let biases = [bias(0)?, bias(1)?];
    for (first, n) in step.row_parts(&matrix)? {
        let mut args = step.args();
        let xs = args.rows(x)?;
        let gs = args.matrix(gate, &matrix, first, n)?;
        let us = args.matrix(up, &matrix, first, n)?;
        // Without a bias the binding is never read.
        let [gb, ub] = biases.map(|b| args.words(b.unwrap_or(x)));
        let ys = args.rows(step.output())?;
        let meta = args.step(&step.binds.step)?;
        args.count(meta, step.problem.outputs[0].rows)?;
        args.u32s(&[n, matrix.k, xs.0, xs.1, gs, us, matrix.stride()])?;
        args.u32s(&[gb? as usize + first, usize::from(biases[0].is_some())])?;
        args.u32s(&[ub? as usize + first, usize::from(biases[1].is_some())])?;
        args.u32s(&[ys.0 + first, ys.1])?;
        let aligned = matrix.is_aligned(&[gs, us], xs);
        args.u32(usize::from(aligned.map_err(|e| step.refuse(e))?))?;
        step.dispatch(&args, [groups(step, n), 1, 1])?;
    }
    Ok(())
}
