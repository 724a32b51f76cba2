//! op: add+rms_norm. See `fused.comp`.

use crate::common::launch::{Gpu, Plain, Result, Step, shader};
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
    let mut args = step.args();
    let a = args.rows(step.operand(0, 0)?)?;
    let b = args.rows(step.operand(0, 1)?)?;
    let w = args.words(step.operand(1, 1)?)? as usize;
    let h = args.rows(&step.binds.outputs[0])?;
    let y = args.rows(&step.binds.outputs[1])?;
    let meta = args.step(&step.binds.step)?;
    args.count(meta, step.problem.outputs[0].rows)?;
    args.u32s(&[step.row_len(), a.0, a.1, b.0, b.1, w, h.0, h.1, y.0, y.1])?;
    args.f32(eps);
    args.f32(weight_offset);
    step.dispatch(&args, [1, step.max_rows(), 1])
}

/// Most elements that a lane keeps in registers.
const MOST_KEPT: usize = 16;

fn constants(problem: &Problem, gpu: Gpu) -> std::result::Result<Vec<u32>, String> {
    let len = problem.outputs[0].row_len();
    let mut all = gpu.reduce(len);
    let each = len.div_ceil(all[0] as usize);
    all.push(if each <= MOST_KEPT { each as u32 } else { 0 });
    Ok(all)
}

const fn fused() -> Plain {
    let shader = shader!("add__rms_norm.fused", 6, 13);
    let mut plain =
        Plain::new(&ADD_NORM, &["f32"], "fused", shader, record).with_constants(constants);
    plain.fits = fits;
    plain
}

static F32: Plain = fused();
registry::register!(F32);
