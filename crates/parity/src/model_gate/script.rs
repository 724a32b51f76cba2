//! What a model is fed: token streams and the steps that run them.
//!
//! The same script drives the oracle and the candidate, so that both see the same
//! row buckets, chunks, batches and cache histories. Every row of every step asks
//! for its logits (teacher forcing).

use super::GateError;
use runtime::{Forward, Opened, Runner, SeqId, Span, Want};

/// One thing a script does. Slots are the script's own names for sequences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// One step: the next so many tokens of each slot's stream. A slot that does
    /// not exist is created.
    Forward(Vec<(usize, usize)>),
    /// A new slot that continues another from where it stands. Its stream must
    /// begin with what that slot was fed.
    Fork { of: usize, slot: usize },
    /// Forgets all but the first tokens of a slot.
    Truncate { slot: usize, len: usize },
    /// Ends a slot's sequence.
    Free(usize),
}

/// Token streams, one for each slot, and what to do with them.
#[derive(Clone, Debug)]
pub struct Script {
    pub name: String,
    pub streams: Vec<Vec<u32>>,
    pub actions: Vec<Action>,
}

impl Script {
    /// Each stream in one step of its own.
    pub fn whole(streams: &[Vec<u32>]) -> Self {
        let one = |(slot, s): (usize, &Vec<u32>)| {
            [Action::Forward(vec![(slot, s.len())]), Action::Free(slot)]
        };
        Script {
            name: "whole".into(),
            streams: streams.to_vec(),
            actions: streams.iter().enumerate().flat_map(one).collect(),
        }
    }

    /// Each stream alone, in chunks whose sizes repeat.
    ///
    /// # Panics
    /// When there are no sizes or one is 0.
    pub fn chunked(streams: &[Vec<u32>], sizes: &[usize]) -> Self {
        assert!(!sizes.is_empty() && !sizes.contains(&0), "sizes of chunks");
        let mut actions = Vec::new();
        let mut size = sizes.iter().cycle();
        for (slot, stream) in streams.iter().enumerate() {
            let mut left = stream.len();
            while left > 0 {
                let n = size.next().map_or(left, |n| left.min(*n));
                actions.push(Action::Forward(vec![(slot, n)]));
                left -= n;
            }
            actions.push(Action::Free(slot));
        }
        Script {
            name: format!("chunks {sizes:?}"),
            streams: streams.to_vec(),
            actions,
        }
    }

    /// All streams at once in ragged batches: stream i takes `sizes[i]` tokens of
    /// each step (the sizes repeat), until all have ended.
    ///
    /// # Panics
    /// When there are no sizes or one is 0.
    pub fn batched(streams: &[Vec<u32>], sizes: &[usize]) -> Self {
        assert!(!sizes.is_empty() && !sizes.contains(&0), "sizes of chunks");
        let mut fed = vec![0; streams.len()];
        let mut actions = Vec::new();
        loop {
            let mut spans = Vec::new();
            for (slot, stream) in streams.iter().enumerate() {
                let n = sizes[slot % sizes.len()].min(stream.len() - fed[slot]);
                if n > 0 {
                    spans.push((slot, n));
                    fed[slot] += n;
                }
            }
            if spans.is_empty() {
                break;
            }
            actions.push(Action::Forward(spans));
        }
        actions.extend((0..streams.len()).map(Action::Free));
        Script {
            name: format!("batch of {} {sizes:?}", streams.len()),
            streams: streams.to_vec(),
            actions,
        }
    }

    /// Prefixes found in the cache. The stream runs up to `at`, is forked, and the
    /// fork goes on with the tokens of `other` while the first goes on with its own,
    /// in turns of `turn` tokens; then the first is cut back to `at`, and runs its
    /// rest again in one step.
    ///
    /// Caches with a window keep what the last token saw: the rest must be no longer
    /// than the window forgives, or the cut fails.
    pub fn prefix_hit(stream: &[u32], at: usize, other: &[u32], turn: usize) -> Self {
        let mut forked = stream[..at].to_vec();
        forked.extend_from_slice(other);
        let rest = stream.len() - at;
        let mut actions = vec![
            Action::Forward(vec![(0, at)]),
            Action::Fork { of: 0, slot: 1 },
        ];
        let (mut a, mut b) = (0, 0);
        let turn = turn.max(1);
        while a < rest || b < other.len() {
            for (slot, fed, len) in [(1, &mut b, other.len()), (0, &mut a, rest)] {
                let n = turn.min(len - *fed);
                if n > 0 {
                    actions.push(Action::Forward(vec![(slot, n)]));
                    *fed += n;
                }
            }
        }
        actions.extend([
            Action::Free(1),
            Action::Truncate { slot: 0, len: at },
            Action::Forward(vec![(0, rest)]),
            Action::Free(0),
        ]);
        Script {
            name: format!("prefix hit at {at}"),
            streams: vec![stream.to_vec(), forked],
            actions,
        }
    }

    /// Tokens of each step.
    pub fn steps(&self) -> impl Iterator<Item = usize> + '_ {
        self.actions.iter().filter_map(|a| match a {
            Action::Forward(spans) => Some(spans.iter().map(|(_, n)| n).sum()),
            _ => None,
        })
    }

    /// Tokens of the largest step.
    pub fn max_rows(&self) -> usize {
        self.steps().max().unwrap_or(0)
    }

    /// Rows of all steps: the positions that a comparison sees.
    pub fn positions(&self) -> usize {
        self.steps().sum()
    }

    /// Most sequences alive at a time.
    pub fn sequences(&self) -> usize {
        let mut alive = vec![false; self.streams.len()];
        let mut most = 0;
        for a in &self.actions {
            match a {
                Action::Forward(spans) => spans.iter().for_each(|(s, _)| alive[*s] = true),
                Action::Fork { slot, .. } => alive[*slot] = true,
                Action::Free(slot) => alive[*slot] = false,
                Action::Truncate { .. } => {}
            }
            most = most.max(alive.iter().filter(|a| **a).count());
        }
        most
    }

    /// Tokens of the longest stream.
    pub fn context(&self) -> usize {
        self.streams.iter().map(Vec::len).max().unwrap_or(0)
    }
}

/// Where a row of logits belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowId {
    pub slot: usize,
    pub position: usize,
}

/// The rows of a step and their logits, one after another.
pub type StepRows<'p, 'r> = (&'p [RowId], &'r [f32]);

/// Runs a script's actions on a runner.
pub struct Player<'s> {
    script: &'s Script,
    slots: Vec<Option<SeqId>>,
    next: usize,
    ids: Vec<RowId>,
}

impl<'s> Player<'s> {
    pub fn new(script: &'s Script) -> Self {
        Player {
            script,
            slots: vec![None; script.streams.len()],
            next: 0,
            ids: Vec::new(),
        }
    }

    /// Tokens that the next action runs; `None` at the end.
    pub fn next_rows(&self) -> Option<usize> {
        match self.script.actions.get(self.next)? {
            Action::Forward(spans) => Some(spans.iter().map(|(_, n)| n).sum()),
            _ => Some(0),
        }
    }

    /// Performs the next action: the rows of its logits and the logits, both empty
    /// for an action without a step. `None` at the end.
    pub fn step<'r>(
        &mut self,
        runner: &'r mut Runner,
    ) -> Result<Option<StepRows<'_, 'r>>, GateError> {
        let Some(action) = self.script.actions.get(self.next) else {
            return Ok(None);
        };
        self.next += 1;
        self.ids.clear();
        let seq = |slots: &[Option<SeqId>], slot: usize| {
            slots[slot].ok_or_else(|| GateError::Script {
                script: self.script.name.clone(),
                reason: format!("slot {slot} does not exist yet"),
            })
        };
        match action {
            Action::Fork { of, slot } => {
                self.slots[*slot] = Some(runner.fork(seq(&self.slots, *of)?)?);
            }
            Action::Truncate { slot, len } => runner.truncate(seq(&self.slots, *slot)?, *len)?,
            Action::Free(slot) => {
                runner.free(seq(&self.slots, *slot)?)?;
                self.slots[*slot] = None;
            }
            Action::Forward(parts) => {
                let mut spans = Vec::with_capacity(parts.len());
                for &(slot, n) in parts {
                    let id = match self.slots[slot] {
                        Some(id) => id,
                        None => runner.create()?,
                    };
                    self.slots[slot] = Some(id);
                    let from = runner.sequences().tokens(id)?.len();
                    let stream = &self.script.streams[slot];
                    let tokens = stream
                        .get(from..from + n)
                        .ok_or_else(|| GateError::Script {
                            script: self.script.name.clone(),
                            reason: format!("slot {slot} has no {n} tokens after {from}"),
                        })?;
                    spans.push(Span {
                        seq: id,
                        tokens,
                        outputs: n,
                        states: 1,
                    });
                    let row = |position| RowId { slot, position };
                    self.ids.extend((from..from + n).map(row));
                }
                if let Forward::Logits { rows, .. } = runner.forward(&spans, Want::Logits)? {
                    return Ok(Some((&self.ids, rows)));
                }
            }
        }
        Ok(Some((&[], &[])))
    }

    /// Ends the sequences that are still alive.
    pub fn finish(self, runner: &mut Runner) -> Result<(), GateError> {
        for id in self.slots.into_iter().flatten() {
            runner.free(id)?;
        }
        Ok(())
    }
}

/// Plays a script to its end, or to an error; the sequences it made are freed
/// either way.
pub fn play(
    runner: &mut Runner,
    script: &Script,
    rows: &mut dyn FnMut(&[RowId], &[f32]),
) -> Result<(), GateError> {
    let mut player = Player::new(script);
    let played = loop {
        match player.step(runner) {
            Ok(Some((ids, logits))) => rows(ids, logits),
            Ok(None) => break Ok(()),
            Err(e) => break Err(e),
        }
    };
    player.finish(runner)?;
    played
}

/// All logits of a script.
#[derive(Clone, Debug)]
pub struct Trace {
    pub vocab: usize,
    pub ids: Vec<RowId>,
    /// `ids.len() × vocab`, row-major.
    pub logits: Vec<f32>,
}

impl Trace {
    /// Plays the script to its end. The runner's sequences are as before.
    pub fn record(runner: &mut Runner, script: &Script) -> Result<Self, GateError> {
        let mut trace = Trace {
            vocab: runner.vocab(),
            ids: Vec::with_capacity(script.positions()),
            logits: Vec::new(),
        };
        play(runner, script, &mut |ids, logits| {
            trace.ids.extend_from_slice(ids);
            trace.logits.extend_from_slice(logits);
        })?;
        Ok(trace)
    }

    pub fn row(&self, i: usize) -> &[f32] {
        &self.logits[i * self.vocab..(i + 1) * self.vocab]
    }

    /// The last row recorded for a slot and position.
    pub fn find(&self, slot: usize, position: usize) -> Option<&[f32]> {
        let id = RowId { slot, position };
        let at = self.ids.iter().rposition(|i| *i == id)?;
        Some(self.row(at))
    }

    /// The first row whose bits differ, if any.
    pub fn first_difference(&self, other: &Trace) -> Option<RowId> {
        if self.ids != other.ids {
            return Some(RowId {
                slot: usize::MAX,
                position: usize::MAX,
            });
        }
        let bits = |row: &[f32]| row.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let differs = |i: &usize| bits(self.row(*i)) != bits(other.row(*i));
        (0..self.ids.len()).find(differs).map(|i| self.ids[i])
    }
}

/// Token ids without a tokenizer: deterministic, over the whole vocabulary.
pub fn pseudo_random_ids(vocab: usize, n: usize, seed: u64) -> Vec<u32> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % vocab.max(1) as u64
    };
    (0..n).map(|_| next() as u32).collect()
}

/// The tokens of a text where the model has a tokenizer, or else pseudo-random
/// ones.
pub fn text_ids(model: &Opened, text: &str) -> Vec<u32> {
    let vocab = model.model.vocab_size;
    let tokenizer = model.files.tokenizer().ok().flatten();
    let ids = tokenizer.and_then(|t| t.encode(text, false).ok());
    match ids {
        Some(ids) if !ids.is_empty() && ids.iter().all(|i| (*i as usize) < vocab) => ids,
        _ => pseudo_random_ids(vocab, text.len() / 4, 1),
    }
}
