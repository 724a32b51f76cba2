//! op: exp_sum. See `plain.comp`.

use crate::common::launch::{Gpu, Plain, Result, Step, shader};
use graph::Op;
use registry::{Pattern, Problem};

/// Most lanes of a workgroup: a part is some thousand logits.
const LANES: u32 = 256;

fn parts(problem: &Problem) -> usize {
    match problem.ops[0].op {
        Op::ExpSum { parts } => parts,
        _ => 1,
    }
}

fn lanes(gpu: Gpu) -> u32 {
    let subgroup = gpu.info.subgroup;
    let most = gpu.limits.workgroup_invocations.min(LANES);
    match gpu.limits.reduce_lanes > subgroup {
        true => (most / subgroup * subgroup).max(subgroup),
        false => subgroup,
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let (logits, top, sums) = (step.input(0)?, step.input(1)?, step.output());
    let (parts, len) = (parts(step.problem), step.problem.inputs[0].row_len());
    let mut args = step.args();
    let x = args.rows(logits)?;
    let top = args.rows(top)?;
    let sums = args.rows(sums)?;
    let meta = args.step(&step.binds.step)?;
    args.count(meta, step.problem.outputs[0].rows)?;
    args.u32s(&[
        meta + step.problem.step.inv_temps(),
        len,
        len.div_ceil(parts),
    ])?;
    args.u32s(&[x.0, x.1, top.0, top.1, sums.0, sums.1])?;
    step.dispatch(&args, [parts as u32, step.max_rows(), 1])
}

const fn kernel() -> Plain {
    let mut plain = Plain::new(
        &Pattern::EXP_SUM,
        &["f32"],
        "plain",
        shader!("exp_sum.plain", 4, 10),
        record,
    )
    .with_constants(|_, gpu| Ok(gpu.lanes(lanes(gpu))));
    // Below a bit of any sum.
    plain.spec.tolerance = 1e-20;
    plain
}

static F32: Plain = kernel();
registry::register!(F32);
