//! Slots of recurrent states: who holds which, and for which length.

use std::collections::BTreeMap;

/// A state that a sequence keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Tokens that it has seen.
    pub len: usize,
    pub slot: u32,
}

/// The pool's slots with their reference counts: a fork shares states, and since
/// every step writes to fresh slots nothing needs copying.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    free: Vec<u32>,
    refs: BTreeMap<u32, u32>,
}

impl Slots {
    pub fn new(slots: usize) -> Self {
        Slots {
            free: (0..slots as u32).rev().collect(),
            refs: BTreeMap::new(),
        }
    }

    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Whether releasing the slot would free it.
    pub fn sole(&self, slot: u32) -> bool {
        self.refs.get(&slot) == Some(&1)
    }

    pub fn take(&mut self) -> Option<u32> {
        let slot = self.free.pop()?;
        self.refs.insert(slot, 1);
        Some(slot)
    }

    pub fn share(&mut self, slot: u32) {
        *self.refs.entry(slot).or_insert(0) += 1;
    }

    pub fn release(&mut self, slot: u32) {
        if let Some(count) = self.refs.get_mut(&slot) {
            *count -= 1;
            if *count == 0 {
                self.refs.remove(&slot);
                self.free.push(slot);
            }
        }
    }
}
