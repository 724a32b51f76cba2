//! op: gated_delta. See `recurrent.cu`.

use crate::common::args::Args;
use crate::common::launch::{Fits, Plain, Result, Step, blocks, ptx};
use crate::common::state;
use graph::Op;
use registry::{Pattern, Problem, StepLayout};

/// Largest key: one element for each thread.
const MOST_DK: usize = 256;

fn fits(problem: &Problem) -> Fits {
    match problem.input(0, 0).and_then(|(_, q)| q.shape.get(2)) {
        Some(dk) if *dk <= MOST_DK => Ok(()),
        Some(dk) => Err(format!("for keys of up to {MOST_DK}, not {dk}")),
        None => Err("q must be [T, heads, dk]".into()),
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::GatedDelta(spec) = step.problem.ops[0].op else {
        return Err(step.refuse("not a gated_delta"));
    };
    let view = state::view(step, 7)?;
    let (q, v, o) = (step.input(0)?, step.input(2)?, step.output());
    let (&[_, key_heads, dk], &[_, heads, dv]) = (q.shape.as_slice(), v.shape.as_slice()) else {
        return Err(step.refuse("q, k and v must be [T, heads, head_dim]"));
    };
    let mut args = Args::default();
    for i in 0..7 {
        args.tensor(step, step.input(i)?)?;
    }
    args.tensor(step, o)?;
    state::pointers(&mut args, step, 7, &view)?;
    args.step(step, StepLayout::SPANS)?;
    args.u32s(step, &[key_heads, heads, dk, dv])?;
    args.u32s(
        step,
        &[usize::from(spec.log_decay), usize::from(spec.tiled)],
    )?;
    args.u32s(step, &[view.slots, view.slot_stride])?;
    for i in 0..5 {
        args.u32(step, step.input(i)?.row_stride())?;
    }
    args.u32(step, o.row_stride())?;
    let spans = step.problem.step.max_spans as u32;
    let grid = [blocks(dv, 32), heads as u32, spans];
    step.launch("gated_delta", &args, grid, 256)
}

static F32: Plain = Plain::new(
    &Pattern::GATED_DELTA,
    &["f32"],
    "recurrent",
    ptx!("gated_delta.recurrent"),
    record,
)
.with_fits(fits)
.with_tolerance(1e-4);
registry::register!(F32);
