//! A target's share of a loaded program: its device and the buffers there.

use crate::cache::PageCopy;
use crate::error::RuntimeError;
use crate::weights::Resident;
use hal::{Buffer, Device};
use planner::{Place, Plan, PlanStep, Program};
use registry::{Binds, Operand, OperandRole, RowsFrom, Scheme, TensorRef};
use std::sync::Arc;

pub(crate) struct Part {
    pub device: Arc<dyn Device>,
    resident: Resident,
    pub arena: Buffer,
    /// Of the caches: see `planner::PagePool`.
    pages: Vec<Buffer>,
    states: Option<Buffer>,
    workspace: Option<Buffer>,
    /// The step buffer of each plan.
    pub steps: Vec<Buffer>,
}

/// No buffer for nothing.
fn some(device: &dyn Device, bytes: u64, label: &str) -> Result<Option<Buffer>, RuntimeError> {
    Ok(match bytes {
        0 => None,
        bytes => Some(device.alloc(bytes, label)?),
    })
}

impl Part {
    /// Allocates what is not there yet: all but the weights and the workspace.
    pub fn new(
        program: &Program,
        target: usize,
        device: Arc<dyn Device>,
        resident: Resident,
        workspace: Option<Buffer>,
    ) -> Result<Self, RuntimeError> {
        let arena = program.plans.iter().map(|p| p.arenas[target]).max();
        let steps = program.plans.iter();
        Ok(Part {
            arena: device.alloc(arena.unwrap_or(0).max(4), "activations")?,
            pages: program.cache.pools[target]
                .buffers()
                .map(|bytes| device.alloc(bytes.max(4), "KV cache"))
                .collect::<Result<_, _>>()?,
            states: some(
                &*device,
                program.cache.states.pool_bytes_on(target),
                "recurrent states",
            )?,
            steps: steps
                .map(|p| device.alloc(p.step.bytes(), "step"))
                .collect::<Result<_, _>>()?,
            workspace,
            resident,
            device,
        })
    }

    pub fn workspace(device: &dyn Device, bytes: u64) -> Result<Option<Buffer>, RuntimeError> {
        some(device, bytes, "workspace")
    }

    /// The operands of a step of that plan; `scratch` is what its kernel wants.
    pub fn binds(&self, plan: &Plan, index: usize, s: &PlanStep, scratch: u64) -> Binds {
        let place = |(place, operand): (&Place, &Operand)| match place {
            Place::Arena { offset, bytes } => {
                TensorRef::contiguous(&self.arena, *offset, operand, *bytes)
            }
            Place::Resident(v) => self.resident[v].clone(),
            Place::Pages { buffer } => {
                let pages = &self.pages[*buffer];
                TensorRef::contiguous(pages, 0, operand, pages.len())
            }
            Place::States => {
                let states = self.states.as_ref().unwrap_or(&self.arena);
                TensorRef::contiguous(states, 0, operand, states.len())
            }
        };
        let words = |buffer: &Buffer, bytes: u64| {
            let operand = Operand {
                role: OperandRole::Vector,
                rows: RowsFrom::Fixed,
                shape: vec![(bytes / 4) as usize],
                scheme: Scheme::U32,
                layout: registry::ROW_MAJOR,
                cache: None,
                state: None,
            };
            TensorRef::contiguous(buffer, 0, &operand, bytes)
        };
        let workspace = self.workspace.as_ref().filter(|_| scratch > 0);
        Binds {
            inputs: s.inputs.iter().zip(&s.problem.inputs).map(place).collect(),
            outputs: s
                .outputs
                .iter()
                .zip(&s.problem.outputs)
                .map(place)
                .collect(),
            workspace: workspace.map(|b| words(b, scratch)),
            step: words(&self.steps[index], plan.step.bytes()),
        }
    }

    /// Copies pages, of which each buffer holds so many bytes.
    pub fn copy_pages(&self, copies: &[&PageCopy], parts: &[u64]) -> Result<(), RuntimeError> {
        if copies.is_empty() {
            return Ok(());
        }
        let mut recorder = self.device.recorder("copy pages")?;
        for (pages, part) in self.pages.iter().zip(parts) {
            for c in copies {
                let (from, to) = (u64::from(c.from) * part, u64::from(c.to) * part);
                recorder.copy(pages, from, pages, to, *part)?;
            }
        }
        Ok(recorder.finish()?.run()?)
    }

    /// Appends the states of a slot of so many bytes to `out`.
    pub fn read_states(
        &self,
        slot: u32,
        bytes: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), RuntimeError> {
        let Some(states) = &self.states else {
            return Ok(());
        };
        let at = out.len();
        out.resize(at + bytes as usize, 0);
        let offset = u64::from(slot) * bytes;
        Ok(self.device.download(states, offset, &mut out[at..])?)
    }
}
