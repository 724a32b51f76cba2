//! Recurrent states: what the kernels that update them share.

use crate::common::args::Args;
use crate::common::launch::{Result, Step};
use registry::StateView;

/// The view of state input `i` of op `op`.
pub fn view_of(step: &Step<'_>, op: usize, i: usize) -> Result<StateView> {
    let found = step.problem.input(op, i).and_then(|(_, o)| o.state);
    found.ok_or_else(|| step.refuse(format!("input {i} of op {op} is not a state")))
}

/// Pointer to the layer's state in slot 0.
pub fn start(
    args: &mut Args,
    step: &Step<'_>,
    op: usize,
    i: usize,
    view: &StateView,
) -> Result<()> {
    let t = step.operand(op, i)?;
    let at = view.offset as u64 * 4;
    args.part(step, t, at, t.bytes.saturating_sub(at))?;
    Ok(())
}

/// Pointers to the span of each row, where spans start, and the slots.
pub fn words(args: &mut Args, step: &Step<'_>) -> Result<()> {
    let layout = &step.problem.step;
    args.step(step, layout.row_span())?;
    args.step(step, layout.span_start())?;
    args.step(step, layout.state_in())?;
    args.step(step, layout.state_out())
}

/// The view of state input `i` of a primitive.
pub fn view(step: &Step<'_>, i: usize) -> Result<StateView> {
    view_of(step, 0, i)
}

/// Both kinds of pointers of a primitive.
pub fn pointers(args: &mut Args, step: &Step<'_>, i: usize, view: &StateView) -> Result<()> {
    start(args, step, 0, i, view)?;
    words(args, step)
}
