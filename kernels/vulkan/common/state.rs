//! Recurrent states: what the kernels that update them share.

use crate::common::launch::{Gpu, Result, Step};
use registry::{Problem, StateView};

/// The view of state input `i` once it is known that one binding can hold the pool.
pub fn check(problem: &Problem, gpu: Gpu, i: usize) -> std::result::Result<StateView, String> {
    let (_, operand) = problem.input(0, i).ok_or("the state is missing")?;
    let view = operand.state.ok_or("the operand is not a state")?;
    let bytes = (view.slots as u64)
        .saturating_mul(view.slot_stride as u64)
        .saturating_mul(4);
    if bytes > gpu.limits.storage_range {
        return Err(format!(
            "the states take {bytes} bytes and {} binds {} at most: serve fewer sequences",
            gpu.info.name, gpu.limits.storage_range
        ));
    }
    Ok(view)
}

/// The view of state input `i` while recording.
pub fn view(step: &Step<'_>, i: usize) -> Result<StateView> {
    let found = step.problem.input(0, i).and_then(|(_, o)| o.state);
    found.ok_or_else(|| step.refuse(format!("input {i} is not a state")))
}
