//! What a program takes, known before any of it is loaded.

use crate::error::{RuntimeError, human};
use graph::{Dim, ElemType, ValueKind};
use hal::{Device, DeviceKind};
use planner::{Plan, Program};
use registry::Prepared;

/// Memory left to the rest of the process and of the machine.
const HEADROOM: u64 = 64 << 20;

/// Every step's kernel, ready for recording.
pub(crate) type Kernels = Vec<Box<dyn Prepared>>;

/// Prepares the kernels of one plan.
pub(crate) fn prepare(plan: &Plan, device: &dyn Device) -> Result<Kernels, RuntimeError> {
    let steps = plan.steps.iter();
    steps
        .map(|s| Ok(s.kernel.prepare(&s.problem, device)?))
        .collect()
}

/// Scratch that serves every kernel, one at a time.
pub(crate) fn workspace<'k>(kernels: impl Iterator<Item = &'k Kernels>) -> u64 {
    let all = kernels.flatten();
    all.map(|k| k.workspace()).max().unwrap_or(0)
}

/// Host bytes of the buffers that steps are written to and results read from.
fn host_bytes(program: &Program) -> u64 {
    let out = |plan: &Plan| -> u64 {
        let rows = plan.step.max_logit_rows as u64;
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
        let outputs = program.graph.outputs().iter().map(per_row);
        outputs.fold(0u64, |n, b| n.saturating_add(b.saturating_mul(rows)))
    };
    let mailboxes = program.plans.iter().map(|p| out(p) + p.step.bytes());
    // The runner's own copies: bytes as they come, and as numbers.
    let copies = program.plans.iter().map(out).max().unwrap_or(0) * 2;
    mailboxes.fold(copies, u64::saturating_add)
}

/// Prepares a program on a device and refuses what would not fit: unsupported
/// sizes as well as memory. Nothing is loaded.
pub fn check_memory(program: &Program, device: &dyn Device) -> Result<(), RuntimeError> {
    let memory = program.memory();
    let refuse = |needed: u64, available: u64, place: &str, detail: String| {
        Err(RuntimeError::Memory {
            device: place.into(),
            needed: human(needed),
            available: human(available),
            detail,
        })
    };
    let detail = |workspace: u64| {
        format!(
            "weights {}, KV cache {} for {} tokens, activations {}, headroom {}",
            human(memory.weights),
            human(memory.cache),
            program.limits.context,
            human(memory.activations.saturating_add(workspace)),
            human(HEADROOM)
        )
    };
    let name = &device.info().name;
    let available = device.available_memory();
    let known = memory.total().saturating_add(HEADROOM);
    if known > available {
        return refuse(known, available, name, detail(0));
    }
    let mut plans = Vec::new();
    for plan in &program.plans {
        plans.push(prepare(plan, device)?);
    }
    let workspace = workspace(plans.iter());
    let on_device = known.saturating_add(workspace);
    let on_host = host_bytes(program);
    let shared = !matches!(device.info().kind, DeviceKind::Discrete);
    let needed = if shared {
        on_device.saturating_add(on_host)
    } else {
        on_device
    };
    if needed > available {
        return refuse(
            needed,
            available,
            name,
            format!("{}, host buffers {}", detail(workspace), human(on_host)),
        );
    }
    let host = hal::cpu::available_memory();
    if on_host > host {
        return refuse(on_host, host, "the host", "logits of a step".into());
    }
    Ok(())
}
