//! Sequences over paged caches: block tables, reference counts, copy on write.
//!
//! Every cache group of the plan has one block table per sequence; all tables of the
//! groups on one target draw pages from its pool. A fork shares all pages; the first append to a
//! shared page copies it. In a window group, pages wholly behind the window of
//! the committed length are freed.
//!
//! A model with recurrent layers has a state for the whole sequence beside its
//! pages. A step reads the state behind the last token and writes to fresh slots:
//! always the state behind its own last token, and those of as many tokens before
//! it as the step asks for. What was kept goes with the next step, so until then a
//! sequence can return to the length before the step or to any kept one.

use crate::error::RuntimeError;
use crate::states::{Kept, Slots};
use graph::CacheKind;
use planner::{CachePlan, Limits};
use registry::NO_BLOCK;
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(pub u64);

/// A page to be copied on the device before the step that appends to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageCopy {
    /// The target whose pool it is.
    pub target: usize,
    pub from: u32,
    pub to: u32,
}

#[derive(Clone, Debug)]
struct Sequence {
    tokens: Vec<u32>,
    /// Group by group: the page of each block, [`NO_BLOCK`] where freed.
    tables: Vec<Vec<u32>>,
    /// By ascending length; the last one is the sequence's own. Empty without
    /// recurrent layers, and before the first token.
    states: Vec<Kept>,
}

/// The pages of a target.
#[derive(Clone, Debug)]
struct Pages {
    free: Vec<u32>,
    refs: Vec<u32>,
}

impl Pages {
    fn new(pages: usize) -> Self {
        Pages {
            free: (0..pages as u32).rev().collect(),
            refs: vec![0; pages],
        }
    }

    fn unref(&mut self, page: u32) {
        if page != NO_BLOCK {
            let r = &mut self.refs[page as usize];
            *r -= 1;
            if *r == 0 {
                self.free.push(page);
            }
        }
    }

    /// A free page; `append` has counted that there are enough.
    fn take(&mut self) -> u32 {
        let page = self.free.pop().expect("counted before taking");
        self.refs[page as usize] = 1;
        page
    }

    fn shared(&self, page: u32) -> bool {
        self.refs[page as usize] > 1
    }
}

/// All live sequences and the page pools they share.
#[derive(Clone, Debug)]
pub struct Sequences {
    /// Of each group: its kind and its target.
    groups: Vec<(CacheKind, usize)>,
    block: usize,
    context: usize,
    max_sequences: usize,
    /// By target.
    pools: Vec<Pages>,
    /// Slots of recurrent states, if the model has any.
    slots: Option<(usize, Slots)>,
    /// Most states that one step may keep of a sequence.
    max_kept: usize,
    live: BTreeMap<SeqId, Sequence>,
    next: u64,
}

impl Sequences {
    pub fn new(plan: &CachePlan, limits: &Limits) -> Self {
        Sequences {
            groups: plan.groups.iter().map(|g| (g.kind, g.target)).collect(),
            block: plan.block,
            context: limits.context,
            max_sequences: limits.sequences,
            pools: plan.pools.iter().map(|p| Pages::new(p.pages)).collect(),
            slots: match plan.states.slots {
                0 => None,
                n => Some((n, Slots::new(n))),
            },
            max_kept: limits.drafts + 1,
            live: BTreeMap::new(),
            next: 0,
        }
    }

    /// A new, empty sequence.
    pub fn create(&mut self) -> Result<SeqId, RuntimeError> {
        let tables = vec![Vec::new(); self.groups.len()];
        self.insert(Sequence {
            tokens: Vec::new(),
            tables,
            states: Vec::new(),
        })
    }

    fn insert(&mut self, sequence: Sequence) -> Result<SeqId, RuntimeError> {
        if self.live.len() >= self.max_sequences {
            return Err(RuntimeError::TooManySequences {
                wanted: self.live.len() + 1,
                limit: self.max_sequences,
            });
        }
        let id = SeqId(self.next);
        self.next += 1;
        self.live.insert(id, sequence);
        Ok(id)
    }

    /// A sequence that continues another from where it stands, sharing its pages.
    pub fn fork(&mut self, of: SeqId) -> Result<SeqId, RuntimeError> {
        let copy = self.get(of)?.clone();
        let id = self.insert(copy.clone())?;
        for ((_, target), table) in self.groups.iter().zip(&copy.tables) {
            for page in table.iter().filter(|p| **p != NO_BLOCK) {
                self.pools[*target].refs[*page as usize] += 1;
            }
        }
        if let Some((_, slots)) = &mut self.slots {
            copy.states.iter().for_each(|s| slots.share(s.slot));
        }
        Ok(id)
    }

    pub fn free(&mut self, id: SeqId) -> Result<(), RuntimeError> {
        let s = self.live.remove(&id).ok_or(RuntimeError::NoSequence(id))?;
        for ((_, target), table) in self.groups.iter().zip(s.tables) {
            let pool = &mut self.pools[*target];
            table.into_iter().for_each(|page| pool.unref(page));
        }
        self.drop_states(&s.states);
        Ok(())
    }

    fn drop_states(&mut self, states: &[Kept]) {
        if let Some((_, slots)) = &mut self.slots {
            states.iter().for_each(|s| slots.release(s.slot));
        }
    }

    fn get(&self, id: SeqId) -> Result<&Sequence, RuntimeError> {
        self.live.get(&id).ok_or(RuntimeError::NoSequence(id))
    }

    /// Tokens whose keys and values are in the cache.
    pub fn tokens(&self, id: SeqId) -> Result<&[u32], RuntimeError> {
        Ok(&self.get(id)?.tokens)
    }

    pub fn table(&self, id: SeqId, group: usize) -> Result<&[u32], RuntimeError> {
        Ok(&self.get(id)?.tables[group])
    }

    /// Of all targets.
    pub fn free_pages(&self) -> usize {
        self.pools.iter().map(|p| p.free.len()).sum()
    }

    /// Slots for recurrent states that nobody holds.
    pub fn free_states(&self) -> usize {
        self.slots.as_ref().map_or(0, |(_, s)| s.available())
    }

    /// The recurrent states that a sequence keeps, by ascending length.
    pub fn states(&self, id: SeqId) -> Result<&[Kept], RuntimeError> {
        Ok(&self.get(id)?.states)
    }

    /// The lengths that [`Sequences::truncate`] can go back to, the longest
    /// first, up to `len`: 0 always can.
    pub fn reachable(&self, id: SeqId, len: usize) -> Result<usize, RuntimeError> {
        let s = self.get(id)?;
        if self.slots.is_none() || len >= s.tokens.len() {
            return Ok(len.min(s.tokens.len()));
        }
        let kept = s.states.iter().rev().find(|k| k.len <= len);
        Ok(kept.map_or(0, |k| k.len))
    }

    /// Shortens a sequence to its first `len` tokens. Fails, changing nothing,
    /// where a window group has already freed what the next token would see, or
    /// where a recurrent layer's state of that length is not kept.
    pub fn truncate(&mut self, id: SeqId, len: usize) -> Result<(), RuntimeError> {
        let block = self.block;
        let recurrent = self.slots.is_some();
        let s = self.live.get_mut(&id).ok_or(RuntimeError::NoSequence(id))?;
        let old = s.tokens.len();
        if len >= old {
            return Ok(());
        }
        if recurrent && len > 0 && !s.states.iter().any(|k| k.len == len) {
            let kept: Vec<String> = s.states.iter().map(|k| k.len.to_string()).collect();
            return Err(RuntimeError::NoState {
                to: len,
                len: old,
                kept: kept.join(", "),
            });
        }
        for ((kind, _), table) in self.groups.iter().zip(&s.tables) {
            let first = first_visible(*kind, len) / block;
            let needed = &table[first.min(table.len())..len.div_ceil(block).min(table.len())];
            if needed.contains(&NO_BLOCK) {
                return Err(RuntimeError::BehindWindow { to: len, len: old });
            }
        }
        s.tokens.truncate(len);
        for ((_, target), table) in self.groups.iter().zip(&mut s.tables) {
            let pool = &mut self.pools[*target];
            let gone = table.drain(len.div_ceil(block).min(table.len())..);
            gone.for_each(|page| pool.unref(page));
        }
        let keep = s.states.iter().take_while(|k| k.len <= len).count();
        let states = s.states.split_off(keep);
        self.drop_states(&states);
        Ok(())
    }

    /// Makes room for `tokens` at the end of a sequence: frees what fell behind
    /// its windows, allocates blocks, and lists the shared pages that must be
    /// copied first. Of the recurrent states the last `keep` are kept, at least
    /// one. Fails without changing the sequence's length.
    pub fn append(
        &mut self,
        id: SeqId,
        tokens: &[u32],
        keep: usize,
        copies: &mut Vec<PageCopy>,
    ) -> Result<(), RuntimeError> {
        let start = self.get(id)?.tokens.len();
        let end = start + tokens.len();
        if end > self.context {
            return Err(RuntimeError::PromptTooLong {
                tokens: end,
                context: self.context,
            });
        }
        let block = self.block;
        if tokens.is_empty() {
            return Ok(());
        }
        for (target, pool) in self.pools.iter().enumerate() {
            let s = self.get(id)?;
            let tables = self.groups.iter().zip(&s.tables);
            let here = tables.filter(|((_, t), _)| *t == target);
            let wanted: usize = here
                .map(|(_, table)| {
                    let partial = !start.is_multiple_of(block);
                    let copied = partial && pool.shared(table[start / block]);
                    end.div_ceil(block) - table.len() + usize::from(copied)
                })
                .sum();
            if wanted > pool.free.len() + self.behind(id, start, target)? {
                return Err(RuntimeError::OutOfPages {
                    pages: pool.refs.len(),
                });
            }
        }
        self.renew_states(id, start, tokens.len(), keep)?;
        self.release_behind(id, start)?;
        let mut s = self.live.remove(&id).ok_or(RuntimeError::NoSequence(id))?;
        for ((_, target), table) in self.groups.iter().zip(&mut s.tables) {
            let pool = &mut self.pools[*target];
            if !start.is_multiple_of(block) {
                let page = &mut table[start / block];
                if pool.shared(*page) {
                    let fresh = pool.take();
                    copies.push(PageCopy {
                        target: *target,
                        from: *page,
                        to: fresh,
                    });
                    pool.unref(*page);
                    *page = fresh;
                }
            }
            while table.len() < end.div_ceil(block) {
                table.push(pool.take());
            }
        }
        s.tokens.extend_from_slice(tokens);
        self.live.insert(id, s);
        Ok(())
    }

    /// Gives back all states but the one at `start` and takes slots for those
    /// behind the last `keep` of `count` more tokens.
    fn renew_states(
        &mut self,
        id: SeqId,
        start: usize,
        count: usize,
        keep: usize,
    ) -> Result<(), RuntimeError> {
        let keep = keep.clamp(1, count);
        let Some((total, slots)) = &mut self.slots else {
            return Ok(());
        };
        let s = self.live.get_mut(&id).ok_or(RuntimeError::NoSequence(id))?;
        let (now, old): (Vec<Kept>, Vec<Kept>) = s.states.iter().partition(|k| k.len == start);
        let released = old.iter().filter(|k| slots.sole(k.slot)).count();
        if keep > self.max_kept || slots.available() + released < keep {
            return Err(RuntimeError::OutOfStates { slots: *total });
        }
        old.iter().for_each(|k| slots.release(k.slot));
        s.states = now;
        for len in start + count - keep + 1..=start + count {
            let slot = slots
                .take()
                .ok_or(RuntimeError::OutOfStates { slots: *total })?;
            s.states.push(Kept { len, slot });
        }
        Ok(())
    }

    /// Pages that [`Sequences::release_behind`] would give back on a target.
    fn behind(&self, id: SeqId, committed: usize, target: usize) -> Result<usize, RuntimeError> {
        let s = self.get(id)?;
        let pool = &self.pools[target];
        let gone = |((kind, _), table): (&(CacheKind, usize), &Vec<u32>)| {
            let blocks = first_visible(*kind, committed) / self.block;
            let pages = table.iter().take(blocks).filter(|p| **p != NO_BLOCK);
            pages.filter(|p| !pool.shared(**p)).count()
        };
        let tables = self.groups.iter().zip(&s.tables);
        Ok(tables.filter(|((_, t), _)| *t == target).map(gone).sum())
    }

    fn release_behind(&mut self, id: SeqId, committed: usize) -> Result<(), RuntimeError> {
        let s = self.live.get_mut(&id).ok_or(RuntimeError::NoSequence(id))?;
        for ((kind, target), table) in self.groups.iter().zip(&mut s.tables) {
            let gone = first_visible(*kind, committed) / self.block;
            for page in table.iter_mut().take(gone) {
                self.pools[*target].unref(std::mem::replace(page, NO_BLOCK));
            }
        }
        Ok(())
    }
}

/// The first position that the token at `position` sees.
fn first_visible(kind: CacheKind, position: usize) -> usize {
    match kind {
        CacheKind::Full | CacheKind::Recurrent => 0,
        CacheKind::Window { window } => (position + 1).saturating_sub(window),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use registry::Scheme;
    use std::collections::HashMap;

    fn sequences(kinds: &[CacheKind], pages: usize) -> Sequences {
        with_states(kinds, pages, 0, 0)
    }

    fn with_states(kinds: &[CacheKind], pages: usize, states: usize, drafts: usize) -> Sequences {
        let plan = CachePlan {
            groups: kinds
                .iter()
                .map(|k| planner::CacheGroup {
                    target: 0,
                    kind: *k,
                    slots: vec![],
                })
                .collect(),
            scheme: Scheme::F32,
            block: 4,
            pools: vec![planner::PagePool {
                parts: vec![1],
                pages,
            }],
            slots: HashMap::new(),
            states: planner::StatePlan {
                slot_bytes: vec![4],
                slots: states,
                views: HashMap::new(),
            },
        };
        let limits = Limits {
            context: 64,
            sequences: 4,
            drafts,
            ..Limits::default()
        };
        Sequences::new(&plan, &limits)
    }

    #[test]
    fn a_fork_shares_pages_until_one_side_appends() {
        let mut s = sequences(&[CacheKind::Full], 8);
        let a = s.create().unwrap();
        let mut copies = vec![];
        s.append(a, &[1, 2, 3, 4, 5, 6], 1, &mut copies).unwrap();
        let b = s.fork(a).unwrap();
        assert_eq!(s.free_pages(), 6);
        s.append(b, &[7], 1, &mut copies).unwrap();
        let (ta, tb) = (s.table(a, 0).unwrap(), s.table(b, 0).unwrap());
        assert_eq!(ta[0], tb[0], "the full block stays shared");
        assert_ne!(ta[1], tb[1]);
        assert_eq!(
            copies,
            [PageCopy {
                target: 0,
                from: ta[1],
                to: tb[1]
            }]
        );
        copies.clear();
        s.append(a, &[8], 1, &mut copies).unwrap();
        assert!(copies.is_empty(), "nobody shares it any more");
        s.free(a).unwrap();
        s.free(b).unwrap();
        assert_eq!(s.free_pages(), 8);
    }

    #[test]
    fn a_window_frees_behind_the_committed_length_only() {
        let mut s = sequences(&[CacheKind::Window { window: 5 }, CacheKind::Full], 40);
        let a = s.create().unwrap();
        let mut copies = vec![];
        for t in 0..13 {
            s.append(a, &[t], 1, &mut copies).unwrap();
        }
        // The append at position 12 saw positions 8..=12: blocks 0 and 1 are gone.
        assert_eq!(s.table(a, 0).unwrap()[..2], [NO_BLOCK; 2]);
        assert!(!s.table(a, 0).unwrap()[2..].contains(&NO_BLOCK));
        assert!(!s.table(a, 1).unwrap().contains(&NO_BLOCK));
        // Position 12 again sees 8..=12; position 11 would see 7.
        s.truncate(a, 12).unwrap();
        let back = s.truncate(a, 11);
        assert!(matches!(back, Err(RuntimeError::BehindWindow { .. })));
        assert_eq!(s.tokens(a).unwrap().len(), 12);
    }

    #[test]
    fn exhaustion_changes_nothing() {
        let mut s = sequences(&[CacheKind::Full], 2);
        let a = s.create().unwrap();
        let mut copies = vec![];
        s.append(a, &[0; 7], 1, &mut copies).unwrap();
        let full = s.append(a, &[0; 4], 1, &mut copies);
        assert!(matches!(full, Err(RuntimeError::OutOfPages { pages: 2 })));
        assert_eq!(s.tokens(a).unwrap().len(), 7);
        s.append(a, &[0], 1, &mut copies).unwrap();
    }

    fn lens(s: &Sequences, id: SeqId) -> Vec<usize> {
        s.states(id).unwrap().iter().map(|k| k.len).collect()
    }

    #[test]
    fn a_step_writes_its_state_beside_the_one_it_read() {
        let mut s = with_states(&[CacheKind::Full], 40, 8, 0);
        let (a, mut copies) = (s.create().unwrap(), vec![]);
        assert!(s.states(a).unwrap().is_empty());
        s.append(a, &[1; 6], 1, &mut copies).unwrap();
        assert_eq!(lens(&s, a), [6]);
        let first = s.states(a).unwrap()[0].slot;
        s.append(a, &[1], 1, &mut copies).unwrap();
        assert_eq!(lens(&s, a), [6, 7]);
        assert_ne!(s.states(a).unwrap()[1].slot, first);
        s.append(a, &[1; 2], 1, &mut copies).unwrap();
        assert_eq!(lens(&s, a), [7, 9], "the one before last is gone");
        s.free(a).unwrap();
        assert_eq!(s.free_states(), 8);
    }

    #[test]
    fn rolling_back_needs_a_kept_state() {
        let mut s = with_states(&[CacheKind::Full], 40, 24, 3);
        let (a, mut copies) = (s.create().unwrap(), vec![]);
        s.append(a, &[1; 10], 1, &mut copies).unwrap();
        s.append(a, &[1; 4], 4, &mut copies).unwrap();
        assert_eq!(lens(&s, a), [10, 11, 12, 13, 14]);
        assert_eq!(s.reachable(a, 9).unwrap(), 0);
        assert_eq!(s.reachable(a, 12).unwrap(), 12);
        let refused = s.truncate(a, 9);
        assert!(matches!(refused, Err(RuntimeError::NoState { to: 9, .. })));
        s.truncate(a, 12).unwrap();
        assert_eq!(lens(&s, a), [10, 11, 12]);
        s.append(a, &[1], 1, &mut copies).unwrap();
        assert_eq!(lens(&s, a), [12, 13]);
        s.truncate(a, 0).unwrap();
        assert_eq!(s.free_states(), 24);
        let greedy = s.append(a, &[1; 8], 5, &mut copies);
        assert!(matches!(
            greedy,
            Err(RuntimeError::OutOfStates { slots: 24 })
        ));
        assert!(s.tokens(a).unwrap().is_empty());
    }

    #[test]
    fn a_fork_shares_its_state() {
        let mut s = with_states(&[CacheKind::Full], 40, 8, 0);
        let (a, mut copies) = (s.create().unwrap(), vec![]);
        s.append(a, &[1; 5], 1, &mut copies).unwrap();
        let b = s.fork(a).unwrap();
        assert_eq!(s.free_states(), 7);
        s.append(b, &[2], 1, &mut copies).unwrap();
        s.append(a, &[3], 1, &mut copies).unwrap();
        let (of_a, of_b) = (s.states(a).unwrap(), s.states(b).unwrap());
        assert_eq!(of_a[0], of_b[0], "both read the same state");
        assert_ne!(of_a[1].slot, of_b[1].slot);
        s.free(a).unwrap();
        s.append(b, &[2], 1, &mut copies).unwrap();
        s.free(b).unwrap();
        assert_eq!(s.free_states(), 8);
    }
}
