//! The end of a mixture's layer and the norm behind it. See `tail.cu`.

use crate::common::args::Args;
use crate::common::launch::{Fits, Plain, Result, Step, ptx, reduce_threads};
use graph::{Op, OpKind};
use registry::{OperandSrc, Pattern, Problem};

/// Places of the ops; the shared expert's two are there or not.
struct Form {
    shared: bool,
    /// The last add, and the norm.
    add: usize,
    norm: usize,
}

impl Form {
    fn of(problem: &Problem) -> Form {
        let gated = |o: &registry::ProblemOp| matches!(o.op.kind(), OpKind::GatedMul(_));
        let norm = problem.ops.len() - 1;
        Form {
            shared: problem.ops.iter().any(gated),
            add: norm - 1,
            norm,
        }
    }
}

fn fits(problem: &Problem) -> Fits {
    let form = Form::of(problem);
    let dim = problem.outputs[0].row_len();
    match problem.input(form.norm, 1) {
        Some((_, w)) if w.shape == [dim] => {}
        _ => return Err("the norm must span whole rows".into()),
    }
    let outside = |op: usize, i: usize| {
        let src = problem.ops[op].inputs.get(i);
        matches!(src, Some(OperandSrc::Input(_)))
    };
    let whole = |op: usize, i: usize| {
        let operand = problem.input(op, i);
        operand.is_some_and(|(_, o)| o.row_len() == dim)
    };
    if !outside(form.add, 0) || !whole(form.add, 0) {
        return Err("what the sum is added to comes from outside, in whole rows".into());
    }
    if form.shared && !(outside(1, 0) && outside(1, 1) && whole(1, 1)) {
        return Err("the shared expert and its gate come from outside".into());
    }
    Ok(())
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let form = Form::of(step.problem);
    let Op::RmsNorm { eps, weight_offset } = step.problem.ops[form.norm].op else {
        return Err(step.refuse("not an rms_norm"));
    };
    let dim = step.row_len();
    let (y, weights) = (step.operand(0, 0)?, step.operand(0, 1)?);
    let shared = match form.shared {
        true => Some((step.operand(1, 0)?, step.operand(1, 1)?)),
        false => None,
    };
    let (x, w) = (step.operand(form.add, 0)?, step.operand(form.norm, 1)?);
    let (h, out) = (&step.binds.outputs[0], &step.binds.outputs[1]);
    let mut args = Args::default();
    args.tensor(step, y)?;
    args.tensor(step, weights)?;
    args.optional(step, shared.map(|s| s.0))?;
    args.optional(step, shared.map(|s| s.1))?;
    for t in [x, w, h, out] {
        args.tensor(step, t)?;
    }
    args.count(step, step.rows_from())?;
    let one_gate = shared.is_some_and(|(gate, _)| {
        let len: usize = gate.shape.iter().skip(1).product();
        len != dim
    });
    args.u32s(step, &[dim, y.shape[1], usize::from(one_gate)])?;
    args.u32s(step, &[y.row_stride(), weights.row_stride()])?;
    args.u32s(
        step,
        &[
            shared.map_or(0, |s| s.0.row_stride()),
            shared.map_or(0, |s| s.1.row_stride()),
        ],
    )?;
    for t in [x, h, out] {
        args.u32(step, t.row_stride())?;
    }
    args.f32(eps);
    args.f32(weight_offset);
    let grid = [step.max_rows(), 1, 1];
    step.launch("tail", &args, grid, reduce_threads(dim))
}

pub const fn kernel(pattern: &'static Pattern) -> Plain {
    Plain::new(pattern, &["f32"], "fused", ptx!("common.tail"), record).with_fits(fits)
}
