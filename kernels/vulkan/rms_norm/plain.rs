//! op: rms_norm. See `plain.comp`.

use crate::common::launch::{Plain, Result, Step, shader};
use graph::Op;
use registry::Pattern;

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::RmsNorm { eps, weight_offset } = step.problem.ops[0].op else {
        return Err(step.refuse("not an rms_norm"));
    };
    let weight = step.input(1)?;
    let dim = weight.shape[0];
    let mut args = step.args();
    let x = args.rows(step.input(0)?)?;
    let w = args.words(weight)?;
    let y = args.rows(step.output())?;
    let meta = args.step(&step.binds.step)?;
    args.count(meta, step.problem.outputs[0].rows)?;
    args.u32s(&[dim, x.0, x.1, w as usize, y.0, y.1])?;
    args.f32(eps);
    args.f32(weight_offset);
    let groups = (step.row_len() / dim) as u32;
    step.dispatch(&args, [groups, step.max_rows(), 1])
}

static F32: Plain = Plain::new(
    &Pattern::RMS_NORM,
    &["f32"],
    "plain",
    shader!("rms_norm.plain", 4, 9),
    record,
)
.with_constants(|problem, gpu| Ok(gpu.reduce(problem.inputs[1].shape[0])));
registry::register!(F32);
