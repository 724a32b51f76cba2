//! op: gated_delta. See `recurrent.cu`.

use crate::common::args::Args;
use crate::common::delta;
use crate::common::launch::{Fits, Plain, Result, Step, blocks, ptx};
use crate::common::state;
use registry::{Pattern, Problem, StepLayout};

/// Largest key: one element for each thread.
const MOST_DK: usize = 256;

fn fits(problem: &Problem) -> Fits {
    match delta::sizes(problem)?.dk {
        dk if dk <= MOST_DK => Ok(()),
        dk => Err(format!("for keys of up to {MOST_DK}, not {dk}")),
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let mut args = Args::default();
    let sizes = delta::inputs(&mut args, step)?;
    let view = state::view(step, 7)?;
    state::pointers(&mut args, step, 7, &view)?;
    args.step(step, StepLayout::SPANS)?;
    delta::words(&mut args, step, &sizes, &view, &delta::strides(step)?)?;
    let spans = step.problem.step.max_spans as u32;
    let grid = [blocks(sizes.dv, 32), sizes.heads as u32, spans];
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
