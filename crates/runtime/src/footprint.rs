//! What a program takes, known before any of it is loaded.

use crate::edges::Edges;
use crate::error::{RuntimeError, human};
use graph::{Dim, ElemType, ValueKind};
use hal::{Device, DeviceKind};
use planner::{Plan, Program};
use registry::Prepared;
use std::sync::Arc;

/// Memory left to the rest of the process and of the machine.
const HEADROOM: u64 = 64 << 20;

/// Every step's kernel, ready for recording.
pub(crate) type Kernels = Vec<Box<dyn Prepared>>;

/// Prepares the kernels of one plan, each on the device of its target.
pub(crate) fn prepare(plan: &Plan, devices: &[Arc<dyn Device>]) -> Result<Kernels, RuntimeError> {
    let steps = plan.steps.iter();
    steps
        .map(|s| Ok(s.kernel.prepare(&s.problem, &*devices[s.target])?))
        .collect()
}

/// Scratch that serves every kernel of a target, one at a time.
pub(crate) fn workspace(program: &Program, kernels: &[Kernels], target: usize) -> u64 {
    let plans = program.plans.iter().zip(kernels);
    let all = plans.flat_map(|(plan, kernels)| plan.steps.iter().zip(kernels));
    let here = all.filter(|(s, _)| s.target == target);
    here.map(|(_, k)| k.workspace()).max().unwrap_or(0)
}

/// Host bytes of the buffers that steps are written to and results read from.
fn host_bytes(program: &Program) -> u64 {
    let per_row = |v: &graph::ValueId| {
        let value = program.graph.value(*v);
        let width = value.shape.dims().iter().fold(1u64, |n, d| match d {
            Dim::Fixed(k) => n.saturating_mul(*k as u64),
            _ => n,
        });
        match value.kind {
            ValueKind::Activation(ElemType::F32 | ElemType::U32) => width.saturating_mul(4),
            _ => 0,
        }
    };
    let out = |plan: &Plan| -> u64 {
        let rows = plan.step.max_logit_rows as u64;
        let outputs = program.graph.outputs().iter().map(per_row);
        outputs.fold(0u64, |n, b| n.saturating_add(b.saturating_mul(rows)))
    };
    let mailboxes = (program.plans.iter()).map(|p| out(p) + p.step.bytes() + Edges::of(p).bytes());
    // The runner's own copies: bytes as they come, and as numbers.
    let copies = program.plans.iter().map(out).max().unwrap_or(0) * 2;
    // And of a row that is read alone.
    let late = program.graph.outputs().iter().map(per_row).max();
    mailboxes.fold(
        copies.saturating_add(late.unwrap_or(0)),
        u64::saturating_add,
    )
}

/// Whether what is known before kernels are prepared fits on a target's device.
pub(crate) fn known_to_fit(program: &Program, target: usize, device: &dyn Device) -> bool {
    let memory = program.memory_on(target);
    memory.total().saturating_add(HEADROOM) <= device.available_memory()
}

/// Prepares a program on its devices, one for each target, and refuses what would not
/// fit: unsupported sizes as well as memory. Nothing is loaded.
pub fn check_memory(program: &Program, devices: &[Arc<dyn Device>]) -> Result<(), RuntimeError> {
    let on_host = host_bytes(program);
    let host = hal::cpu::available_memory();
    let refuse = |needed: u64, available: u64, place: &str, detail: String| {
        Err(RuntimeError::Memory {
            device: place.into(),
            needed: human(needed),
            available: human(available),
            detail,
            instead: Box::default(),
        })
    };
    let detail = |target: usize, workspace: u64| {
        let memory = program.memory_on(target);
        format!(
            "weights {}, KV cache {} for {} tokens, activations {}, headroom {}",
            human(memory.weights),
            human(memory.cache),
            program.limits.context,
            human(memory.activations.saturating_add(workspace)),
            human(HEADROOM)
        )
    };
    for (target, device) in devices.iter().enumerate() {
        if !known_to_fit(program, target, &**device) {
            let known = program.memory_on(target).total().saturating_add(HEADROOM);
            let available = device.available_memory();
            return refuse(known, available, &device.info().name, detail(target, 0));
        }
    }
    let mut kernels = Vec::new();
    for plan in &program.plans {
        kernels.push(prepare(plan, devices)?);
    }
    // What lies in the host's memory, whichever device has it.
    let mut together = 0u64;
    for (target, device) in devices.iter().enumerate() {
        let workspace = workspace(program, &kernels, target);
        let on_device = program.memory_on(target).total();
        let on_device = on_device.saturating_add(HEADROOM).saturating_add(workspace);
        let shared = !matches!(device.info().kind, DeviceKind::Discrete);
        let (needed, available) = match shared {
            true => (on_device.saturating_add(on_host), device.available_memory()),
            false => (on_device, device.available_memory()),
        };
        if needed > available {
            let name = &device.info().name;
            let detail = detail(target, workspace);
            let detail = format!("{detail}, host buffers {}", human(on_host));
            return refuse(needed, available, name, detail);
        }
        if shared {
            together = together.saturating_add(on_device);
        }
    }
    let together = together.saturating_add(on_host);
    if devices.len() > 1 && together > host {
        return refuse(together, host, "the host", "both parts of the model".into());
    }
    if on_host > host {
        return refuse(on_host, host, "the host", "logits of a step".into());
    }
    Ok(())
}
