//! op: add+rms_norm. See `common/norm.cu`.

use crate::common::args::Args;
use crate::common::launch::{Plain, Result, Step, ptx, reduce_threads};
use graph::Op;
use registry::Problem;
use registry::patterns::ADD_NORM;

fn fits(problem: &Problem) -> std::result::Result<(), String> {
    let len = problem.outputs[0].row_len();
    match problem.input(1, 1) {
        Some((_, w)) if w.shape == [len] => Ok(()),
        _ => Err("the norm must span whole rows".into()),
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::RmsNorm { eps, weight_offset } = step.problem.ops[1].op else {
        return Err(step.refuse("not an rms_norm"));
    };
    let (a, b, w) = (
        step.operand(0, 0)?,
        step.operand(0, 1)?,
        step.operand(1, 1)?,
    );
    let (h, y) = (&step.binds.outputs[0], &step.binds.outputs[1]);
    let mut args = Args::default();
    for t in [a, b, w, h, y] {
        args.tensor(step, t)?;
    }
    args.count(step, step.rows_from())?;
    let dim = step.row_len();
    args.u32(step, dim)?;
    for t in [a, b, h, y] {
        args.u32(step, t.row_stride())?;
    }
    args.f32(eps);
    args.f32(weight_offset);
    let grid = [1, step.max_rows(), 1];
    step.launch("add_rms_norm", &args, grid, reduce_threads(dim))
}

static F32: Plain =
    Plain::new(&ADD_NORM, &["f32"], "fused", ptx!("common.norm"), record).with_fits(fits);
registry::register!(F32);
