//! Products of several matrices with the same few rows, rounded to int8, and what
//! stands around them. See `products_q8.glsl`.

use crate::common::launch::{Gpu, Plain, Result, Shader, Step, shader};
use crate::common::linear::{few_rounded, gemv_q8_groups, rounded_constants};
use crate::common::stored::Matrix;
use graph::{Op, OpKind};
use registry::{Act, Operand, Pattern, Problem, TensorRef};

/// Which ops a problem has.
struct Form {
    /// Place of the first linear: 1 behind a norm.
    first: usize,
    count: usize,
    gated: bool,
    added: bool,
    /// The norm, ahead of all or behind them.
    norm: Option<usize>,
}

impl Form {
    fn of(problem: &Problem) -> Form {
        let kind = |i: usize| problem.ops.get(i).map(|o| o.op.kind());
        let first = usize::from(kind(0) == Some(OpKind::RmsNorm));
        let linears = problem.ops[first..].iter();
        let linears = linears.take_while(|o| o.op.kind() == OpKind::Linear);
        let count = linears.count();
        let behind = kind(first + count);
        let last = problem.ops.len() - 1;
        let mut norms = [0, last].into_iter();
        Form {
            norm: norms.find(|i| kind(*i) == Some(OpKind::RmsNorm)),
            first,
            count,
            gated: matches!(behind, Some(OpKind::GatedMul(_))),
            added: behind == Some(OpKind::Add),
        }
    }

    fn linears(&self) -> std::ops::Range<usize> {
        self.first..self.first + self.count
    }

    fn norms_behind(&self) -> bool {
        self.norm.is_some_and(|op| op > 0)
    }

    fn weight<'a>(&self, problem: &'a Problem) -> std::result::Result<&'a Operand, String> {
        let found = problem.input(self.first, 1).map(|(_, w)| w);
        found.ok_or_else(|| "a linear has a weight".into())
    }
}

fn fits(problem: &Problem) -> std::result::Result<(), String> {
    let form = Form::of(problem);
    let w = form.weight(problem)?;
    few_rounded(problem, w.shape[1])?;
    let alone = form.norm.is_none() && form.count > 1;
    if alone && problem.outputs[0].shape[0] > 1 {
        // Each by itself shares the rounded rows among more columns.
        return Err("for one row".into());
    }
    if form.added {
        let y = problem.outputs[0].row_len();
        match problem.input(form.first + form.count, 0) {
            Some((_, added)) if added.row_len() == y => {}
            _ => return Err("what is added must have the rows of y".into()),
        }
    }
    let Some(op) = form.norm else {
        return Ok(());
    };
    let spanned = match form.norms_behind() {
        true if problem.outputs[0].shape[0] > 1 => return Err("for one row".into()),
        true => w.shape[0],
        false => w.shape[1],
    };
    match problem.input(op, 1) {
        Some((_, norm)) if norm.shape == [spanned] => Ok(()),
        _ => Err("the norm must span whole rows".into()),
    }
}

fn constants(problem: &Problem, gpu: Gpu) -> std::result::Result<Vec<u32>, String> {
    let form = Form::of(problem);
    let matrices = if form.gated { 2 } else { 1 };
    let rows = problem.outputs[0].shape[0];
    let mut all = rounded_constants(form.weight(problem)?, rows, 1, matrices, gpu)?;
    all.extend([form.first == 1, form.gated, form.added].map(u32::from));
    all.push(form.count as u32);
    Ok(all)
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let form = Form::of(step.problem);
    let x = step.operand(0, 0)?;
    let norm = match form.norm.map(|op| &step.problem.ops[op].op) {
        Some(Op::RmsNorm { eps, weight_offset }) => Some((*eps, *weight_offset)),
        _ => None,
    };
    let weights: Vec<&TensorRef> =
        (form.linears().map(|op| step.operand(op, 1))).collect::<Result<_>>()?;
    let matrices: Vec<Matrix> = (weights.iter())
        .map(|w| Matrix::of(w).map_err(|e| step.refuse(e)))
        .collect::<Result<_>>()?;
    for matrix in &matrices {
        if step.row_parts(matrix)?.len() > 1 {
            return Err(step.refuse("a matrix is larger than a binding: plan without fusion"));
        }
    }
    let added = match form.added {
        true => Some(step.operand(form.first + form.count, 0)?),
        false => None,
    };
    let outputs = &step.binds.outputs;
    let mut args = step.args();
    let xs = args.rows(x)?;
    // What is not there is bound to something and never read or written.
    let normed = match form.norm {
        Some(op) => args.words(step.operand(op, 1)?)? as usize,
        None => args.words(x)? as usize,
    };
    let mut at = [0; 3];
    for (i, at) in at.iter_mut().enumerate() {
        let i = i.min(form.count - 1);
        *at = args.matrix(weights[i], &matrices[i], 0, matrices[i].n)?;
    }
    let a = args.rows(added.unwrap_or(x))?;
    let mut ys = [(0, 0); 3];
    for (i, y) in ys.iter_mut().enumerate() {
        *y = args.rows(&outputs[i.min(outputs.len() - 1)])?;
    }
    let meta = args.step(&step.binds.step)?;
    let mut biased = 0;
    let mut biases = [0; 3];
    for (i, at) in biases.iter_mut().enumerate() {
        let op = form.first + i;
        let has = i < form.count && step.problem.input(op, 2).is_some();
        let bias = if has { step.operand(op, 2)? } else { x };
        biased |= usize::from(has) << i;
        *at = args.words(bias)? as usize;
    }
    if form.norms_behind() {
        args.words(step.counters()?)?;
    }
    let n = |i: usize| matrices.get(i).map_or(0, |m| m.n);
    let all = if form.gated { n(0) } else { n(0) + n(1) + n(2) };
    args.count(meta, step.problem.outputs[0].rows)?;
    args.u32s(&[matrices[0].k, matrices[0].stride(), xs.0, xs.1, normed])?;
    args.u32s(&at)?;
    args.u32s(&[n(0), n(1), all, a.0, a.1])?;
    for y in ys {
        args.u32s(&[y.0, y.1])?;
    }
    let aligned = matrices[0].is_aligned(&at, xs);
    args.u32(usize::from(aligned.map_err(|e| step.refuse(e))?))?;
    let (eps, weight_offset) = norm.unwrap_or_default();
    args.f32(eps);
    args.f32(weight_offset);
    args.u32s(&biases)?;
    args.u32(biased)?;
    let groups = gemv_q8_groups(step, all);
    step.dispatch(&args, [groups, 1, 1])
}

/// The kernel of one pattern and scheme.
pub const fn kernel(
    pattern: &'static Pattern,
    quant: &'static [&'static str],
    layouts: &'static [&'static str],
    rank: i32,
    tolerance: f32,
) -> Plain {
    let shader: Shader = shader!("common.products_q8", 13, 27);
    with(shader, pattern, quant, layouts, rank, tolerance)
}

/// As [`kernel`], of one whose norm comes last.
pub const fn normed_kernel(
    pattern: &'static Pattern,
    quant: &'static [&'static str],
    layouts: &'static [&'static str],
    rank: i32,
    tolerance: f32,
) -> Plain {
    let shader: Shader = shader!("common.products_q8_norm", 14, 27);
    with(shader, pattern, quant, layouts, rank, tolerance).with_counter()
}

const fn with(
    shader: Shader,
    pattern: &'static Pattern,
    quant: &'static [&'static str],
    layouts: &'static [&'static str],
    rank: i32,
    tolerance: f32,
) -> Plain {
    let mut plain = Plain::new(pattern, quant, "gemv_q8", shader, record)
        .with_matrix(layouts)
        .with_constants(constants);
    plain.fits = fits;
    plain.spec.rank = rank;
    plain.spec.act = Act::Q8_32;
    plain.spec.tolerance = tolerance;
    plain
}
