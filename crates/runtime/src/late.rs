//! Rows of logits that are read after all, once a step has shown that less will not do.

use crate::error::RuntimeError;
use crate::part::Part;
use crate::recorded::arena;
use hal::{Mailbox, Recording};
use planner::Plan;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// Recorded copies of single rows, by plan and row, all to one mailbox: logits are made on
/// the same device in every plan.
#[derive(Default)]
pub(crate) struct Late {
    out: Option<(usize, Arc<dyn Mailbox>)>,
    copies: HashMap<(usize, usize), Box<dyn Recording>>,
}

impl Late {
    /// Reads row `at.1`, of so many bytes, of output `output` of plan number `at.0`, the
    /// last that ran.
    pub fn read(
        &mut self,
        plan: &Plan,
        output: usize,
        at: (usize, usize),
        parts: &[Part],
        row_bytes: usize,
        bytes: &mut Vec<u8>,
    ) -> Result<(), RuntimeError> {
        let wanted = &plan.outputs[output];
        let target = plan.segments[wanted.segment].target;
        let home = &parts[target];
        let out = match &self.out {
            Some((made_for, out)) if *made_for == target => out.clone(),
            _ => {
                self.copies.clear();
                let out = home.device.mailbox(row_bytes)?;
                self.out = Some((target, out.clone()));
                out
            }
        };
        let copy = match self.copies.entry(at) {
            Entry::Occupied(made) => made.into_mut(),
            Entry::Vacant(place) => {
                let (offset, _) = arena(&wanted.place)?;
                let offset = offset + (at.1 * row_bytes) as u64;
                let mut recorder = home.device.recorder("a row of logits")?;
                recorder.copy_out(&home.arena, offset, row_bytes as u64, &out, 0)?;
                place.insert(recorder.finish()?)
            }
        };
        copy.run()?;
        bytes.resize(row_bytes, 0);
        Ok(out.read(0, bytes)?)
    }
}
