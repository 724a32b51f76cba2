//! Which mailboxes the edge copies of a plan go through.

use planner::{Place, Plan};

/// Mailboxes for all edge copies of a plan. Copies that are not under way at the same
/// time share them: a model whose experts lie elsewhere has two edges a layer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Edges {
    /// Target and bytes of each mailbox.
    pub boxes: Vec<(usize, u64)>,
    /// Of each copy: the box that it leaves by and the one that it comes by.
    pub copies: Vec<(usize, usize)>,
}

struct Shelf {
    index: usize,
    target: usize,
    bytes: u64,
    /// The segment before which the copies so far are done with it.
    until: usize,
}

impl Edges {
    pub fn of(plan: &Plan) -> Self {
        let mut edges = Edges::default();
        // A box to leave by is taken until the copy comes to the other side; one to
        // come by while the segment there runs.
        let (mut out, mut into) = (Vec::new(), Vec::new());
        for copy in &plan.copies {
            let target = |segment: usize| plan.segments[segment].target;
            let left = edges.take(&mut out, target(copy.from), &copy.src, copy.from..copy.to);
            let came = edges.take(&mut into, target(copy.to), &copy.dst, copy.to..copy.to + 1);
            edges.copies.push((left, came));
        }
        edges
    }

    /// A box that is free from the start of the range, and taken to its end.
    fn take(
        &mut self,
        shelves: &mut Vec<Shelf>,
        target: usize,
        place: &Place,
        busy: std::ops::Range<usize>,
    ) -> usize {
        let bytes = match place {
            Place::Arena { bytes, .. } => *bytes,
            _ => 0,
        };
        let fits = |s: &&mut Shelf| s.target == target && s.bytes >= bytes;
        let free = shelves
            .iter_mut()
            .filter(fits)
            .filter(|s| s.until <= busy.start);
        if let Some(shelf) = free.min_by_key(|s| s.bytes) {
            shelf.until = busy.end;
            return shelf.index;
        }
        self.boxes.push((target, bytes));
        shelves.push(Shelf {
            index: self.boxes.len() - 1,
            target,
            bytes,
            until: busy.end,
        });
        self.boxes.len() - 1
    }

    /// Host bytes of all boxes.
    pub fn bytes(&self) -> u64 {
        self.boxes.iter().fold(0, |n, (_, b)| n.saturating_add(*b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use graph::ValueId;
    use planner::{EdgeCopy, Segment};
    use registry::{RowRange, RowsFrom, StepLayout};
    use std::sync::Arc;

    /// (from, to, bytes); segments are on targets 0 and 1 in turn.
    fn plan(copies: &[(usize, usize, u64)]) -> Plan {
        let place = |bytes| Place::Arena { offset: 0, bytes };
        let copy = |(i, &(from, to, bytes)): (usize, &(usize, usize, u64))| EdgeCopy {
            value: ValueId(i as u32),
            from,
            to,
            rows: RowsFrom::Batch,
            row_bytes: bytes,
            src: place(bytes),
            dst: place(bytes),
        };
        let segment = |i: usize| Segment {
            target: i % 2,
            steps: i..i + 1,
        };
        Plan {
            rows: RowRange { min: 1, max: 1 },
            step: Arc::new(StepLayout {
                max_rows: 1,
                max_spans: 1,
                max_logit_rows: 1,
                groups: Vec::new(),
            }),
            steps: Vec::new(),
            segments: (0..20).map(segment).collect(),
            copies: copies.iter().enumerate().map(copy).collect(),
            arenas: Vec::new(),
            outputs: Vec::new(),
        }
    }

    #[test]
    fn copies_share_boxes_unless_they_are_under_way_together() {
        // A table goes over at once, rows go to and fro, two at a time.
        let copies = [
            (0, 1, 64),
            (0, 1, 8),
            (1, 2, 64),
            (2, 3, 64),
            (2, 3, 8),
            (3, 4, 64),
            (0, 9, 64),
            (8, 9, 64),
        ];
        let edges = Edges::of(&plan(&copies));
        let pairs = || edges.copies.iter().zip(&copies).enumerate();
        for (i, ((out, into), (from, to, bytes))) in pairs() {
            assert_eq!(edges.boxes[*out].0, from % 2);
            assert_eq!(edges.boxes[*into].0, to % 2);
            assert!(edges.boxes[*out].1 >= *bytes && edges.boxes[*into].1 >= *bytes);
            for (_, ((other, came), (f, t, _))) in pairs().take(i) {
                assert!(other != out || t <= from || to <= f, "{copies:?}");
                assert!(came != into || t != to, "{copies:?}");
                assert!(other != into && came != out);
            }
        }
        // To leave by, a pair and the one that stays, and one on the other side; to
        // come by, a pair and the one that stays comes with, and one.
        assert_eq!(edges.boxes.len(), 2 * (3 + 1));
        assert_eq!(edges.bytes(), 2 * (64 + 8 + 64 + 64));
    }
}
