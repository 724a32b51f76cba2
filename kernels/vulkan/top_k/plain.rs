//! op: top_k. See `plain.comp`.

use crate::common::launch::{Gpu, Plain, Result, Step, shader};
use graph::Op;
use registry::{Pattern, Problem};

/// As in `plain.comp`: logits or keys of a lane, most logits that are kept.
const PER: usize = 16;
const MOST_K: usize = 64;

/// Most lanes of a workgroup, and least: with fewer, parts could be no larger than what
/// is kept of them.
const LANES: u32 = 256;
const LEAST_LANES: usize = 128;

/// Where a launch reads no keys.
const NONE: usize = u32::MAX as usize;

/// A key's bytes.
const KEY: u64 = 8;

fn k(problem: &Problem) -> usize {
    match problem.ops[0].op {
        Op::TopK { k } => k,
        _ => 0,
    }
}

fn fits(problem: &Problem) -> std::result::Result<(), String> {
    match k(problem) {
        1..=MOST_K => Ok(()),
        k => Err(format!("for up to {MOST_K} logits, not {k}")),
    }
}

fn lanes(gpu: Gpu) -> u32 {
    let subgroup = gpu.info.subgroup;
    let most = gpu.limits.workgroup_invocations.min(LANES);
    (most / subgroup * subgroup).max(subgroup)
}

/// Parts of each launch, the last of which has one, with so many lanes a workgroup.
fn levels(problem: &Problem, lanes: usize) -> Vec<usize> {
    let part = lanes * PER;
    let mut parts = vec![problem.inputs[0].row_len().div_ceil(part).max(1)];
    while let Some(more) = parts.last().copied().filter(|n| *n > 1) {
        parts.push((more * k(problem)).div_ceil(part));
    }
    parts
}

/// Keys that all launches but the last leave. With fewer lanes there are more parts.
fn keys(problem: &Problem, lanes: usize) -> usize {
    let parts: usize = levels(problem, lanes).iter().filter(|n| **n > 1).sum();
    problem.outputs[0].shape[0] * parts * k(problem)
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let lanes = step.constants.first().map_or(LANES, |n| *n) as usize;
    let (x, top, k) = (step.input(0)?, step.output(), k(step.problem));
    let mut len = step.problem.inputs[0].row_len();
    let (mut from, mut to) = (NONE, 0);
    for parts in levels(step.problem, lanes) {
        let mut args = step.args();
        let xs = args.rows(x)?;
        let base = match step.binds.workspace.as_ref() {
            Some(space) => args.bind(space, 0, space.bytes, KEY)? as usize,
            // One part has no keys to leave.
            None => args.words(top)? as usize,
        };
        let tops = args.rows(top)?;
        let meta = args.step(&step.binds.step)?;
        args.count(meta, step.problem.outputs[0].rows)?;
        args.u32s(&[len, xs.0, xs.1, tops.0, tops.1, k])?;
        let read = if from == NONE { NONE } else { base + from };
        args.u32s(&[read, base + to])?;
        step.dispatch(&args, [parts as u32, step.max_rows(), 1])?;
        len = parts * k;
        from = to;
        to += step.max_rows() as usize * parts * k;
    }
    Ok(())
}

const fn kernel() -> Plain {
    let mut plain = Plain::new(
        &Pattern::TOP_K,
        &["f32"],
        "plain",
        shader!("top_k.plain", 4, 9),
        record,
    )
    .with_constants(|_, gpu| match lanes(gpu) {
        few if (few as usize) < LEAST_LANES => Err(format!(
            "workgroups of {LEAST_LANES} lanes are needed, not {few}"
        )),
        lanes => Ok(gpu.lanes(lanes)),
    })
    .with_workspace(|problem| keys(problem, LEAST_LANES) as u64 * KEY);
    plain.fits = fits;
    plain
}

static F32: Plain = kernel();
registry::register!(F32);
