//! op: argmax. See `plain.comp`.

use crate::common::launch::{Gpu, Plain, Result, Step, shader};
use registry::Pattern;

fn record(step: &mut Step<'_>) -> Result<()> {
    let logits = step.input(0)?;
    let len = logits.shape.iter().skip(1).product();
    let mut args = step.args();
    let x = args.rows(logits)?;
    let ids = args.rows(step.output())?;
    let meta = args.step(&step.binds.step)?;
    args.count(meta, step.problem.outputs[0].rows)?;
    args.u32s(&[len, x.0, x.1, ids.0, ids.1])?;
    step.dispatch(&args, [1, step.max_rows(), 1])
}

/// Lanes of the one workgroup of a row: a vocabulary is long.
fn lanes(gpu: Gpu) -> u32 {
    let subgroup = gpu.info.subgroup;
    let most = (gpu.limits.workgroup_invocations).min(1024);
    match gpu.limits.reduce_lanes > subgroup {
        true => most / subgroup * subgroup,
        false => subgroup,
    }
}

static F32: Plain = Plain::new(
    &Pattern::ARGMAX,
    &["f32"],
    "plain",
    shader!("argmax.plain", 3, 6),
    record,
)
.with_constants(|_, gpu| Ok(gpu.lanes(lanes(gpu))));
registry::register!(F32);
