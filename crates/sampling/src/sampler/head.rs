//! Drawing from a row's largest logits what drawing from the row would give.

use super::adjust::{Changes, adjusts, raises};
use super::{HEAD, History, Sampler, draw_from_keys, mass_target};
use crate::math::{Weigh, fixed};
use crate::select::{self, logit_of, token_of};
use crate::{MAX_VOCAB, SampleError, philox};

/// What a draw wants to see of a row, each more than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reads {
    /// The largest logit alone.
    First,
    /// The largest logits.
    Head,
    /// Those, and the sum of the row's weights.
    HeadAndTotal,
    /// All of it.
    Row,
}

/// The largest logits of a row, as a device gives them.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// Ids and bits of f32 of the [`HEAD`] largest, in descending order, ties in ascending
    /// id; NaN is ahead of all.
    pub largest: &'a [[u32; 2]],
    /// Logits of the whole row: more than these.
    pub vocab: usize,
    /// [`Weigh::total`] of the row, by the first of `largest` and the draw's temperature;
    /// for draws that [read](Sampler::reads) it.
    pub total: Option<u64>,
}

impl Sampler {
    /// What a draw wants to see of a row of `vocab` logits.
    ///
    /// Steps that can only lower logits leave those that stay above the least of the
    /// head where they were: the largest. A step that can raise one may raise any.
    pub fn reads(&self, vocab: usize) -> Reads {
        let p = &self.params;
        match (adjusts(p), p.is_greedy(), self.keeps(vocab)) {
            _ if raises(p) => Reads::Row,
            (false, true, _) => Reads::First,
            _ if vocab <= HEAD => Reads::Row,
            (_, true, _) | (_, _, 1..=HEAD) => Reads::Head,
            (_, _, 1..) => Reads::Row,
            _ if p.top_p >= 1.0 && p.min_p > 0.0 => Reads::Head,
            (false, ..) => Reads::HeadAndTotal,
            // The sum behind penalties is not what it was.
            (true, ..) => Reads::Row,
        }
    }

    /// The `top_k` of a row, or 0 if that keeps all.
    fn keeps(&self, vocab: usize) -> usize {
        let top_k = self.params.top_k as usize;
        if top_k < vocab { top_k } else { 0 }
    }

    /// Draws the token that [`sample`](Self::sample) draws from the row whose head this
    /// is, or `None` if that depends on the rest of the row.
    ///
    /// # Errors
    /// As [`sample`](Self::sample), of NaN before +inf whatever their ids.
    pub fn sample_head(
        &mut self,
        head: Head<'_>,
        history: History<'_>,
        sequence: u64,
        position: u64,
    ) -> Result<Option<u32>, SampleError> {
        let vocab = head.vocab;
        let ends = head.largest.first().zip(head.largest.last());
        let Some((first, last)) = ends.filter(|_| vocab <= MAX_VOCAB) else {
            return Err(SampleError::VocabSize {
                found: if ends.is_none() { 0 } else { vocab },
                max: MAX_VOCAB,
            });
        };
        let logit = |pair: &[u32; 2]| f32::from_bits(pair[1]);
        let max = logit(first);
        if max.is_nan() || max == f32::INFINITY {
            return Err(SampleError::BadLogit {
                sequence,
                position,
                token: first[0],
                value: max,
            });
        }
        if max == f32::NEG_INFINITY {
            return Err(SampleError::NoCandidates {
                sequence,
                position,
                vocab,
            });
        }
        // No logit outside is larger than this.
        let floor = logit(last);
        let lowered = self.keys_of_head(head, history, floor)?;
        let Some(&best) = self.keys.first() else {
            return Ok(None);
        };
        let p = &self.params;
        if p.is_greedy() {
            return Ok(Some(token_of(best)));
        }
        let bits = philox::bits(p.seed, sequence, position)[0];
        let weigh = Weigh::new(logit_of(best), p.temperature);
        let top_k = self.keeps(vocab);
        if top_k > 0 {
            if top_k > self.keys.len() {
                return Ok(None);
            }
            self.keys.truncate(top_k);
            let total = self.of_keys(weigh);
            return Ok(Some(self.draw_listed(bits, total)));
        }
        // The most that a token outside can weigh.
        let outside = weigh.fixed(floor);
        let inside = || self.keys.iter().map(|&key| weigh.fixed(logit_of(key)));
        let total = match outside {
            0 => Some(inside().sum()),
            _ => head.total.filter(|_| !lowered),
        };
        if p.top_p >= 1.0 && p.min_p <= 0.0 {
            let target = total.map(|total| philox::below(bits, total));
            return Ok(target.and_then(|t| draw_from_keys(&self.keys, weigh, t).ok()));
        }
        let target = match (p.top_p < 1.0, total) {
            (true, None) => return Ok(None),
            (true, Some(total)) => Some(mass_target(p.top_p, total)),
            (false, _) => None,
        };
        let reached = target.is_some_and(|target| inside().sum::<u64>() >= target);
        if !reached && outside >= fixed(p.min_p).max(1) {
            return Ok(None);
        }
        self.list_keys(weigh);
        let total = self.filter(weigh, target);
        Ok(Some(self.draw_listed(bits, total)))
    }

    /// Makes `self.keys` those of the head that are the largest of the row behind bias and
    /// penalties, in descending order. Whether there were any to apply.
    fn keys_of_head(
        &mut self,
        head: Head<'_>,
        history: History<'_>,
        floor: f32,
    ) -> Result<bool, SampleError> {
        let pairs = head.largest.iter();
        self.keys.clear();
        let Some(changes) = Changes::of(&self.params, history, head.vocab)? else {
            let keys = pairs.map(|&[id, bits]| select::key(f32::from_bits(bits), id));
            self.keys.extend(keys);
            return Ok(false);
        };
        let (values, places) = (&mut self.adjusted, &mut self.places);
        values.clear();
        values.extend(pairs.map(|pair| f32::from_bits(pair[1])));
        places.resize(places.len().max(head.vocab), 0);
        for (place, pair) in (1..).zip(head.largest) {
            places[pair[0] as usize] = place;
        }
        changes.apply(&mut self.counts, values, |token| {
            (places[token as usize] as usize).checked_sub(1)
        });
        for pair in head.largest {
            places[pair[0] as usize] = 0;
        }
        let keys = head.largest.iter().zip(values.iter());
        let above = keys.filter(|(_, logit)| **logit > floor);
        self.keys
            .extend(above.map(|(pair, &logit)| select::key(logit, pair[0])));
        self.keys.sort_unstable_by(|a, b| b.cmp(a));
        Ok(true)
    }
}
