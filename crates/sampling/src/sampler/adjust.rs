//! Bias and penalties, on a whole row or on some of its logits.

use super::History;
use crate::{SampleError, SamplingParams};

/// Whether the repetition penalty is on.
pub(super) fn repeats(p: &SamplingParams) -> bool {
    p.repetition_penalty != 1.0 && p.penalty_last_n != Some(0)
}

/// Whether there is a step that can change a logit.
pub(super) fn adjusts(p: &SamplingParams) -> bool {
    let penalises = p.presence_penalty != 0.0 || p.frequency_penalty != 0.0;
    !p.logit_bias.is_empty() || repeats(p) || penalises
}

/// Whether one can raise it.
pub(super) fn raises(p: &SamplingParams) -> bool {
    p.logit_bias.iter().any(|(_, bias)| *bias > 0.0)
        || (repeats(p) && p.repetition_penalty < 1.0)
        || p.presence_penalty < 0.0
        || p.frequency_penalty < 0.0
}

/// What bias and penalties do behind a history: tokens are known to be in the vocabulary.
pub(super) struct Changes<'a> {
    params: &'a SamplingParams,
    vocab: usize,
    /// Tokens that the repetition penalty counts.
    windows: [&'a [u32]; 2],
    /// Tokens that the other two count.
    generated: &'a [u32],
}

impl<'a> Changes<'a> {
    /// `None` if there is nothing to do.
    ///
    /// # Errors
    /// A token of the bias list, or (with penalties on) of the history, outside the
    /// vocabulary.
    pub fn of(
        params: &'a SamplingParams,
        history: History<'a>,
        vocab: usize,
    ) -> Result<Option<Self>, SampleError> {
        let counts_generated = params.presence_penalty != 0.0 || params.frequency_penalty != 0.0;
        let generated = match counts_generated {
            true => history.generated,
            false => &[],
        };
        let windows = match repeats(params) {
            true => latest(history, params.penalty_last_n.unwrap_or(usize::MAX)),
            false => [&[][..], &[][..]],
        };
        let counted = [generated, windows[0], windows[1]];
        if params.logit_bias.is_empty() && counted.iter().all(|w| w.is_empty()) {
            return Ok(None);
        }
        // All ids are checked before anything is counted: an error must not leave
        // counts behind.
        let biased = params.logit_bias.iter().find(|(t, _)| *t as usize >= vocab);
        if let Some(&(token, _)) = biased {
            return Err(SampleError::BiasToken { token, vocab });
        }
        for tokens in counted {
            if let Some(&token) = tokens.iter().find(|t| **t as usize >= vocab) {
                return Err(SampleError::HistoryToken { token, vocab });
            }
        }
        Ok(Some(Changes {
            params,
            vocab,
            windows,
            generated,
        }))
    }

    /// Changes `logits`, among which `place` says where a token's is, if it is there.
    /// `counts`: by token, all zero before and behind.
    pub fn apply(
        &self,
        counts: &mut Vec<u32>,
        logits: &mut [f32],
        place: impl Fn(u32) -> Option<usize>,
    ) {
        let p = self.params;
        let counting = !self.generated.is_empty() || self.windows.iter().any(|w| !w.is_empty());
        if counting && counts.len() < self.vocab {
            counts.resize(self.vocab, 0);
        }
        for &(token, bias) in &p.logit_bias {
            if let Some(at) = place(token) {
                logits[at] += bias;
            }
        }
        for &token in self.windows.into_iter().flatten() {
            let seen = std::mem::replace(&mut counts[token as usize], 1);
            if let (0, Some(at)) = (seen, place(token)) {
                let logit = &mut logits[at];
                if *logit > 0.0 {
                    *logit /= p.repetition_penalty;
                } else {
                    *logit *= p.repetition_penalty;
                }
            }
        }
        for &token in self.windows.into_iter().flatten() {
            counts[token as usize] = 0;
        }
        for &token in self.generated {
            counts[token as usize] += 1;
        }
        for &token in self.generated {
            let count = std::mem::take(&mut counts[token as usize]);
            if let (1.., Some(at)) = (count, place(token)) {
                logits[at] -= p.frequency_penalty * count as f32 + p.presence_penalty;
            }
        }
    }
}

/// The last `n` tokens of prompt + generated, as the tail of each.
fn latest(history: History<'_>, n: usize) -> [&[u32]; 2] {
    let History { prompt, generated } = history;
    let from_generated = n.min(generated.len());
    let from_prompt = (n - from_generated).min(prompt.len());
    [
        &prompt[prompt.len() - from_prompt..],
        &generated[generated.len() - from_generated..],
    ]
}
