//! Recurrent states: what the kernels that update them share.

use crate::common::launch::{Gpu, Result, Step};
use registry::{Problem, StateView};

/// The view of state input `i` of op `op`.
pub fn view_of(problem: &Problem, op: usize, i: usize) -> std::result::Result<StateView, String> {
    let (_, operand) = problem.input(op, i).ok_or("the state is missing")?;
    operand.state.ok_or("the operand is not a state".into())
}

/// The view of state input `i` of a primitive, once it is known that one binding can
/// hold the pool.
pub fn check(problem: &Problem, gpu: Gpu, i: usize) -> std::result::Result<StateView, String> {
    let view = view_of(problem, 0, i)?;
    check_pool(&view, gpu)?;
    Ok(view)
}

/// Refuses a pool that one binding cannot hold.
pub fn check_pool(view: &StateView, gpu: Gpu) -> std::result::Result<(), String> {
    let bytes = (view.slots as u64)
        .saturating_mul(view.slot_stride as u64)
        .saturating_mul(4);
    if bytes > gpu.limits.storage_range {
        return Err(format!(
            "the states take {bytes} bytes and {} binds {} at most: serve fewer sequences",
            gpu.info.name, gpu.limits.storage_range
        ));
    }
    Ok(())
}

/// The view of state input `i` while recording.
pub fn view(step: &Step<'_>, i: usize) -> Result<StateView> {
    view_of(step.problem, 0, i).map_err(|e| step.refuse(e))
}
