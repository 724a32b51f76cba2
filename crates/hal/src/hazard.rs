//! Which commands must wait for which: derived from declared ranges.

use crate::{Buffer, BufferId};
use std::ops::Range;

/// Bytes that a command reads or writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    pub buffer: BufferId,
    pub range: Range<u64>,
    pub write: bool,
}

impl Access {
    pub fn read(buffer: &Buffer, range: Range<u64>) -> Self {
        Access {
            buffer: buffer.id(),
            range,
            write: false,
        }
    }

    pub fn write(buffer: &Buffer, range: Range<u64>) -> Self {
        Access {
            buffer: buffer.id(),
            range,
            write: true,
        }
    }

    fn conflicts(&self, other: &Access) -> bool {
        (self.write || other.write)
            && self.buffer == other.buffer
            && self.range.start < other.range.end
            && other.range.start < self.range.end
    }
}

/// The accesses since the last barrier.
#[derive(Debug, Default)]
pub struct HazardTracker {
    pending: Vec<Access>,
}

impl HazardTracker {
    /// Adds the next command. True if a barrier must stand before it; the
    /// tracker then counts from that barrier on.
    pub fn next(&mut self, accesses: &[Access]) -> bool {
        let barrier = accesses
            .iter()
            .any(|a| self.pending.iter().any(|p| p.conflicts(a)));
        if barrier {
            self.pending.clear();
        }
        self.pending.extend_from_slice(accesses);
        barrier
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(buffer: u64, range: Range<u64>, write: bool) -> Access {
        Access {
            buffer: BufferId(buffer),
            range,
            write,
        }
    }

    #[test]
    fn barriers_stand_at_conflicts_only() {
        let mut t = HazardTracker::default();
        assert!(!t.next(&[access(1, 0..64, true)]));
        assert!(!t.next(&[access(1, 64..128, true)]), "disjoint writes");
        assert!(!t.next(&[access(2, 0..64, true)]), "another buffer");
        assert!(t.next(&[access(1, 32..96, false)]), "read after write");
        assert!(!t.next(&[access(1, 32..96, false)]), "read after read");
        assert!(t.next(&[access(1, 95..96, true)]), "write after read");
        assert!(t.next(&[access(1, 0..96, true)]), "write after write");
        assert!(!t.next(&[access(1, 96..96, true)]), "empty range");
    }
}
