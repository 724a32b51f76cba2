//! op: gated_delta. See `recurrent.cu`.

use crate::common::args::Args;
use crate::common::delta;
use crate::common::launch::{Fits, Plain, Result, Step, blocks, ptx};
use crate::common::state;
use registry::{Pattern, Problem, StepLayout};

fn fits(problem: &Problem) -> Fits {
    delta::entry("", &delta::sizes(problem, 0)?).map(|_| ())
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
    let entry = delta::entry("gated_delta", &sizes).map_err(|e| step.refuse(e))?;
    step.launch(&entry, &args, grid, 256)
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
