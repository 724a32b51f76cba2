//! Products with one of several stacked matrices: the experts that a row chose, or
//! each head's own.

use crate::common::launch::{Gpu, Plain, Result, Step, shader};
use crate::common::linear::{gemv_constants, gemv_groups};
use crate::common::stored::Matrix;
use registry::{Pattern, Problem};

fn constants(problem: &Problem, gpu: Gpu) -> std::result::Result<Vec<u32>, String> {
    let (_, w) = problem.input(0, 1).ok_or("the weight is missing")?;
    let n = problem.ops[0].shape.last().copied().unwrap_or(1);
    gemv_constants(w.scheme, 1, n, gpu)
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let (x, w) = (step.input(0)?, step.input(1)?);
    let &[_, vectors, n] = step.problem.ops[0].shape.as_slice() else {
        return Err(step.refuse("y must be [T, k, N]"));
    };
    let matrix = Matrix::of(w).map_err(|e| step.refuse(e))?;
    let optional = |i| match step.has_input(i) {
        true => step.input(i).map(Some),
        false => Ok(None),
    };
    let (chosen, bias) = (optional(2)?, optional(3)?);
    let x_len: usize = x.shape.iter().skip(1).product();
    let x_step = if x_len == matrix.k { 0 } else { matrix.k };
    let limits = step.limits();
    for (first, count) in step.row_parts(&matrix)? {
        let mut args = step.args();
        let xs = args.rows(x)?;
        let ws = args.matrix(w, &matrix, first, count)?;
        // What is absent is bound to x and never read.
        let bs = args.words(bias.unwrap_or(x))? as usize;
        let cs = args.rows(chosen.unwrap_or(x))?;
        let ys = args.rows(step.output())?;
        let meta = args.step(&step.binds.step)?;
        args.count(meta, step.problem.outputs[0].rows)?;
        args.u32s(&[n, matrix.k, vectors, xs.0, xs.1, x_step])?;
        args.u32s(&[ws, matrix.stride(), first, count])?;
        args.u32s(&[bs, usize::from(bias.is_some())])?;
        args.u32s(&[cs.0, cs.1, usize::from(chosen.is_none())])?;
        args.u32s(&[ys.0, ys.1])?;
        let aligned = matrix
            .is_aligned(&[ws], (xs.0, xs.1))
            .map_err(|e| step.refuse(e))?;
        args.u32(usize::from(aligned && x_step.is_multiple_of(4)))?;
        let pairs = (step.max_rows() * vectors as u32).min(limits.workgroups[1]);
        step.dispatch(&args, [gemv_groups(step, n), pairs, 1])?;
    }
    Ok(())
}

/// The kernel of one op for one weight scheme.
pub const fn kernel(
    pattern: &'static Pattern,
    quant: &'static [&'static str],
    layouts: &'static [&'static str],
) -> Plain {
    let shader = shader!("common.stacked", 6, 19);
    Plain::new(pattern, quant, "gemv", shader, record)
        .with_matrix(layouts)
        .with_constants(constants)
}
