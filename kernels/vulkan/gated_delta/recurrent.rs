//! op: gated_delta. See `recurrent.comp`.

use crate::common::launch::{Gpu, Plain, Result, Step, shader};
use crate::common::state;
use graph::Op;
use registry::{Pattern, Problem, StepLayout};

/// Longest column of a head's state: a lane keeps one in registers.
const MOST_DIM: usize = 256;

/// Lanes of a workgroup, unless a subgroup has more: registers are scarce.
const LANES: usize = 64;

pub(super) fn head_dims(
    problem: &Problem,
    i: usize,
) -> std::result::Result<(usize, usize), String> {
    match problem.input(0, i).map(|(_, o)| o.shape.as_slice()) {
        Some(&[_, heads, dim]) => Ok((heads, dim)),
        _ => Err(format!("input {i} must be [T, heads, head_dim]")),
    }
}

fn constants(problem: &Problem, gpu: Gpu) -> std::result::Result<Vec<u32>, String> {
    state::check(problem, gpu, 7)?;
    let mut all = gpu.reduce(4 * head_dims(problem, 2)?.1.min(LANES));
    let (lanes, dim) = (all[0] as usize, head_dims(problem, 0)?.1);
    // Products with the state, a row's loads, and the state that it leaves.
    let step = if dim.is_multiple_of(8) { 8 } else { 1 };
    let joined = 2 * lanes / gpu.info.subgroup.max(1) as usize;
    let row = 1 + 2 * (dim / step) + dim.div_ceil(lanes) + joined;
    let rows = problem.rows.max;
    gpu.check_turns(
        2 * dim + rows * row,
        &format!("a delta rule over {rows} rows"),
    )?;
    all.push(dim as u32);
    Ok(all)
}

fn fits(problem: &Problem) -> std::result::Result<(), String> {
    match head_dims(problem, 0)? {
        (_, dim) if dim <= MOST_DIM => Ok(()),
        (_, dim) => Err(format!("for key heads of up to {MOST_DIM}, not {dim}")),
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::GatedDelta(spec) = step.problem.ops[0].op else {
        return Err(step.refuse("not a gated_delta"));
    };
    let dims = |i| head_dims(step.problem, i).map_err(|e| step.refuse(e));
    let ((key_heads, _), (heads, dv)) = (dims(0)?, dims(2)?);
    let view = state::view(step, 7)?;
    let mut args = step.args();
    args.u32s(&[heads, key_heads, dv])?;
    for i in 0..5 {
        let rows = args.rows(step.input(i)?)?;
        args.u32s(&[rows.0, rows.1])?;
    }
    let decay = args.words(step.input(5)?)? as usize;
    let dt_bias = args.words(step.input(6)?)? as usize;
    let s = args.words(step.input(7)?)? as usize + view.offset;
    let o = args.rows(step.output())?;
    let meta = args.step(&step.binds.step)?;
    let layout = &step.problem.step;
    args.u32s(&[decay, dt_bias, s, view.slot_stride, view.slots, o.0, o.1])?;
    args.u32s(&[meta + StepLayout::SPANS, meta + layout.span_start()])?;
    args.u32s(&[meta + layout.state_in(), meta + layout.state_out()])?;
    args.u32s(&[usize::from(spec.log_decay), usize::from(spec.tiled)])?;
    let chunks = step.groups_of(dv);
    step.dispatch(&args, [heads as u32 * chunks, layout.max_spans as u32, 1])
}

const fn recurrent() -> Plain {
    let shader = shader!("gated_delta.recurrent", 10, 26);
    let mut plain = Plain::new(&Pattern::GATED_DELTA, &["f32"], "recurrent", shader, record)
        .with_constants(constants);
    plain.fits = fits;
    plain.spec.tolerance = 5e-5;
    plain
}

static F32: Plain = recurrent();
registry::register!(F32);
