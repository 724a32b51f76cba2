//! Free ranges of one memory block: first fit, neighbours merged on release.

#[derive(Debug)]
pub(crate) struct Ranges {
    size: u64,
    /// Free `(offset, length)`, ascending, never adjacent.
    free: Vec<(u64, u64)>,
}

impl Ranges {
    pub fn new(size: u64) -> Self {
        Ranges {
            size,
            free: vec![(0, size)],
        }
    }

    /// Takes `size` bytes at a multiple of `alignment`, a power of two.
    pub fn take(&mut self, size: u64, alignment: u64) -> Option<u64> {
        for i in 0..self.free.len() {
            let (start, len) = self.free[i];
            let at = start.next_multiple_of(alignment);
            let Some(rest) = (start + len).checked_sub(at + size) else {
                continue;
            };
            let before = at - start;
            match (before > 0, rest > 0) {
                (false, false) => {
                    self.free.remove(i);
                }
                (true, false) => self.free[i] = (start, before),
                (false, true) => self.free[i] = (at + size, rest),
                (true, true) => {
                    self.free[i] = (start, before);
                    self.free.insert(i + 1, (at + size, rest));
                }
            }
            return Some(at);
        }
        None
    }

    pub fn give(&mut self, offset: u64, size: u64) {
        let i = self.free.partition_point(|r| r.0 < offset);
        self.free.insert(i, (offset, size));
        if i + 1 < self.free.len() && self.free[i].0 + self.free[i].1 == self.free[i + 1].0 {
            self.free[i].1 += self.free[i + 1].1;
            self.free.remove(i + 1);
        }
        if i > 0 && self.free[i - 1].0 + self.free[i - 1].1 == self.free[i].0 {
            self.free[i - 1].1 += self.free[i].1;
            self.free.remove(i);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.free == [(0, self.size)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_disjoint_aligned_and_merge_again() {
        let mut r = Ranges::new(4096);
        let sizes = [100, 256, 1, 700, 64];
        let taken: Vec<_> = sizes
            .iter()
            .map(|&s| (r.take(s, 256).expect("room"), s))
            .collect();
        for (i, &(at, size)) in taken.iter().enumerate() {
            assert_eq!(at % 256, 0);
            for &(other, len) in &taken[i + 1..] {
                assert!(at + size <= other || other + len <= at);
            }
        }
        assert_eq!(r.take(4096, 1), None);
        for i in [3, 0, 4, 1, 2] {
            assert!(!r.is_empty());
            r.give(taken[i].0, taken[i].1);
        }
        assert!(r.is_empty());
        assert_eq!(r.take(4096, 1), Some(0));
    }
}
