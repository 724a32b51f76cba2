//! Products that share their x: `linear`, several of them, gate and up, with an
//! rms_norm ahead or an add behind. What `gemv`, `mma_gemv` and `mma_gemm` have in
//! common.

use crate::common::args::Args;
use crate::common::launch::{Fits, Result, Step};
use graph::{Op, OpKind};
use registry::{Problem, Scheme};

/// Most matrices that share their x, as `base.cuh` has it.
pub const MATRICES: usize = 4;

/// Which ops a problem has.
#[derive(Clone, Copy)]
pub struct Form {
    /// Place of the first linear: 1 behind a norm.
    pub first: usize,
    pub count: usize,
    /// Whether the first is the gate of the second.
    pub gated: bool,
    /// Whether something is added to the product.
    pub add: bool,
    /// Whether the sum is normed.
    pub normed_sum: bool,
}

impl Form {
    pub fn of(problem: &Problem) -> Form {
        let kind = |i: usize| problem.ops.get(i).map(|o| o.op.kind());
        let first = usize::from(kind(0) == Some(OpKind::RmsNorm));
        let linears = (problem.ops[first..].iter()).take_while(|o| o.op.kind() == OpKind::Linear);
        let count = linears.count();
        let behind = kind(first + count);
        Form {
            first,
            count,
            gated: matches!(behind, Some(OpKind::GatedMul(_))),
            add: behind == Some(OpKind::Add),
            normed_sum: kind(first + count + 1) == Some(OpKind::RmsNorm),
        }
    }

    /// Place of a norm of the sum.
    pub fn norm_behind(&self) -> Option<usize> {
        self.normed_sum.then_some(self.first + self.count + 1)
    }

    pub fn normed(&self) -> bool {
        self.first > 0
    }

    /// Schemes of the matrices.
    pub fn schemes(&self, problem: &Problem) -> Vec<Option<Scheme>> {
        let all = self.first..self.first + self.count;
        all.map(|i| problem.input(i, 1).map(|(_, w)| w.scheme))
            .collect()
    }

    /// Whether all matrices are of one scheme.
    pub fn uniform(&self, problem: &Problem) -> bool {
        self.schemes(problem).windows(2).all(|p| p[0] == p[1])
    }
}

/// Columns of the matrices.
pub fn columns(problem: &Problem) -> usize {
    let first = Form::of(problem).first;
    let w = problem.input(first, 1);
    w.and_then(|(_, w)| w.shape.last().copied()).unwrap_or(0)
}

/// Most rows of the bucket.
pub fn rows(problem: &Problem) -> usize {
    problem.outputs[0].shape[0]
}

/// A norm must span whole rows of x, and what is added the rows of y; both only for
/// as many rows as the kernel says.
pub fn fits(problem: &Problem, most_normed: usize) -> Fits {
    problem.common_attributes()?;
    let form = Form::of(problem);
    if form.add {
        let y = problem.outputs[0].row_len();
        match problem.input(form.first + form.count, 0) {
            Some((_, added)) if added.row_len() == y => {}
            _ => return Err("what is added must have the rows of y".into()),
        }
    }
    if !form.normed() && !form.normed_sum {
        return Ok(());
    }
    if rows(problem) > most_normed {
        return Err(format!("norms of up to {most_normed} rows"));
    }
    if let Some(norm) = form.norm_behind() {
        let y = problem.outputs[0].row_len();
        return match problem.input(norm, 1) {
            Some((_, w)) if w.shape == [y] => Ok(()),
            _ => Err("the norm must span whole rows".into()),
        };
    }
    let k = columns(problem);
    match (problem.input(0, 0), problem.input(0, 1)) {
        (Some((_, x)), Some((_, w))) if w.shape == [k] && x.row_len() == k => Ok(()),
        _ => Err("the norm must span whole rows".into()),
    }
}

/// Whether every row of x starts at a 16-byte piece.
pub fn x_aligned(address: u64, stride: usize) -> bool {
    address.is_multiple_of(16) && stride.is_multiple_of(4)
}

/// The operands as the kernels take them.
pub struct Operands {
    pub form: Form,
    pub k: usize,
    pub x_stride: usize,
    /// Whether rows of x start at 16-byte pieces.
    pub x_aligned: bool,
    /// Whether all matrices do.
    pub w_aligned: bool,
    /// Rows of each matrix; 0 where there is none.
    pub n: [usize; MATRICES],
    pub y_stride: [usize; MATRICES],
    pub add_stride: usize,
    /// Of the norm.
    pub eps: f32,
    pub weight_offset: f32,
    pub schemes: Vec<&'static str>,
}

/// Appends the pointers: x, or `instead` of it, the matrices, their biases and outputs,
/// the count of rows, the norm's weights, what is added.
pub fn pointers(
    args: &mut Args,
    step: &Step<'_>,
    instead: impl FnOnce(&mut Args) -> Result<bool>,
) -> Result<Operands> {
    let form = Form::of(step.problem);
    let x = match form.normed() {
        true => step.operand(0, 0)?,
        false => step.operand(form.first, 0)?,
    };
    let matrix = |i: usize| step.operand(form.first + if i < form.count { i } else { 0 }, 1);
    let &[_, k] = matrix(0)?.shape.as_slice() else {
        let shape = &matrix(0)?.shape;
        return Err(step.refuse(format!("a matrix [N, K] was expected, not {shape:?}")));
    };
    let x_stride = x.row_stride();
    let mut x_aligned = instead(args)? || x_aligned(args.tensor(step, x)?, x_stride);
    let mut w_aligned = true;
    let (mut n, mut y_stride) = ([0; MATRICES], [0; MATRICES]);
    let mut schemes = Vec::new();
    for (i, n) in n.iter_mut().enumerate() {
        let w = matrix(i)?;
        w_aligned &= args.tensor(step, w)?.is_multiple_of(16);
        if i < form.count {
            *n = w.shape[0];
            schemes.push(w.scheme.0);
        }
    }
    for i in 0..MATRICES {
        let bias = (i < form.count).then(|| step.optional(form.first + i, 2));
        args.optional(step, bias.flatten())?;
    }
    for (i, stride) in y_stride.iter_mut().enumerate() {
        let own = i < form.count && !(form.gated && i > 0);
        let y = &step.binds.outputs[if own { i } else { 0 }];
        args.tensor(step, y)?;
        *stride = y.row_stride();
    }
    args.count(step, step.rows_from())?;
    if form.normed() {
        x_aligned &= args.tensor(step, step.operand(0, 1)?)?.is_multiple_of(16);
    } else {
        args.optional(step, None)?;
    }
    let behind = form.first + form.count;
    let added = form.add.then(|| step.operand(behind, 0)).transpose()?;
    args.optional(step, added)?;
    let norm = step.problem.ops.iter().find_map(|o| match o.op {
        Op::RmsNorm { eps, weight_offset } => Some((eps, weight_offset)),
        _ => None,
    });
    let (eps, weight_offset) = norm.unwrap_or_default();
    Ok(Operands {
        form,
        k,
        x_stride,
        x_aligned,
        w_aligned,
        n,
        y_stride,
        add_stride: added.map_or(0, |t| t.row_stride()),
        eps,
        weight_offset,
        schemes,
    })
}
