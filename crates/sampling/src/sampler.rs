use std::fmt::Write as _;

use crate::logprobs::{checked_max, first_bad, log_sum, logprob};
use crate::math::{BLOCK, FIXED_ONE, Weigh, fixed, max_or_bad};
use crate::select::{self, Candidate, Key, logit_of, token_of};
use crate::{InvalidParam, SampleError, SamplingParams, philox};

mod adjust;
mod head;

use adjust::Changes;
pub use head::{Head, Reads};

/// How many of the largest logits a draw that keeps all tokens looks at first, and a
/// device gives.
pub const HEAD: usize = 64;

/// The tokens before the one to draw. Only the penalties look at it.
#[derive(Debug, Clone, Copy, Default)]
pub struct History<'a> {
    /// What the model was given: the repetition penalty counts it.
    pub prompt: &'a [u32],
    /// What it has answered so far: all three penalties count it.
    pub generated: &'a [u32],
}

impl<'a> History<'a> {
    /// No tokens: nothing is penalised.
    pub const EMPTY: History<'static> = History {
        prompt: &[],
        generated: &[],
    };

    /// Splits a sequence whose first `prompt_len` tokens are the prompt (all of it,
    /// if it has fewer).
    pub fn split(tokens: &'a [u32], prompt_len: usize) -> Self {
        let (prompt, generated) = tokens.split_at(prompt_len.min(tokens.len()));
        Self { prompt, generated }
    }
}

/// A drawn token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampled {
    pub token: u32,
    /// Natural logarithm of the token's probability under the model: the softmax of
    /// the logits as they were passed in, before the chain. Within 1e-5.
    pub logprob: f32,
}

/// A token and its probability once the chain has run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenProb {
    pub token: u32,
    pub prob: f64,
}

/// Draws tokens by one set of [`SamplingParams`].
///
/// It holds no state that a draw depends on, only scratch space that it keeps
/// between calls (a few vectors of the vocabulary's length, and those only for the
/// steps in use), so one sampler may serve any number of sequences that share its
/// parameters.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    /// Logits after bias and penalties; unused when neither is on.
    adjusted: Vec<f32>,
    /// Occurrences by token; all zero between calls.
    counts: Vec<u32>,
    /// Places of tokens in a head, from 1; all zero between calls.
    places: Vec<u32>,
    weights: Vec<f32>,
    blocks: Vec<u64>,
    keys: Vec<Key>,
    candidates: Vec<Candidate>,
    scratch: Vec<Candidate>,
}

/// What the chain left over, before the draw.
enum Survivors {
    One(u32),
    /// The whole row; `Sampler::blocks` has the sums of its weights.
    All {
        weigh: Weigh,
        total: u64,
    },
    /// `Sampler::candidates`, in ascending id, whose weights sum to `total`; and the
    /// sum over the whole row, where it had to be found.
    Listed {
        total: u64,
        row_total: Option<u64>,
    },
}

impl Sampler {
    /// # Errors
    /// A parameter out of range: see [`SamplingParams::validate`].
    pub fn new(params: SamplingParams) -> Result<Self, InvalidParam> {
        params.validate()?;
        Ok(Self {
            params,
            adjusted: Vec::new(),
            counts: Vec::new(),
            places: Vec::new(),
            weights: Vec::new(),
            blocks: Vec::new(),
            keys: Vec::new(),
            candidates: Vec::new(),
            scratch: Vec::new(),
        })
    }

    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// The steps that these parameters switch on, in the order in which they run, as
    /// one line for people: `repetition_penalty 1.1 (last 64) → temperature 0.8 →
    /// top_k 40 → draw (philox4x32-10, seed 7)`.
    pub fn chain(&self) -> String {
        let p = &self.params;
        let mut line = String::new();
        let mut step = |text: String| {
            let arrow = if line.is_empty() { "" } else { " → " };
            let _ = write!(line, "{arrow}{text}");
        };
        if !p.logit_bias.is_empty() {
            let n = p.logit_bias.len();
            step(format!(
                "logit_bias ({n} token{})",
                if n == 1 { "" } else { "s" }
            ));
        }
        if adjust::repeats(p) {
            match p.penalty_last_n {
                Some(n) => step(format!(
                    "repetition_penalty {} (last {n})",
                    p.repetition_penalty
                )),
                None => step(format!("repetition_penalty {}", p.repetition_penalty)),
            }
        }
        if p.frequency_penalty != 0.0 {
            step(format!("frequency_penalty {}", p.frequency_penalty));
        }
        if p.presence_penalty != 0.0 {
            step(format!("presence_penalty {}", p.presence_penalty));
        }
        if p.is_greedy() {
            step("argmax".to_owned());
            return line;
        }
        if p.temperature != 1.0 {
            step(format!("temperature {}", p.temperature));
        }
        if p.top_k > 0 {
            step(format!("top_k {}", p.top_k));
        }
        if p.top_p < 1.0 {
            step(format!("top_p {}", p.top_p));
        }
        if p.min_p > 0.0 {
            step(format!("min_p {}", p.min_p));
        }
        step(format!("draw (philox4x32-10, seed {})", p.seed));
        line
    }

    /// Draws the token that follows `history`.
    ///
    /// `logits`: one row, `[vocab]`; -inf for tokens that are not allowed.
    /// `sequence` and `position` choose the random number, together with the seed:
    /// give each sequence its own number, the same whenever the request is repeated,
    /// and let the position be the index of the drawn token in its sequence.
    ///
    /// # Errors
    /// An empty or absurdly long row; a logit that is NaN or +inf, or becomes +inf by
    /// bias and penalties; no logit above -inf; a token of the bias list, or (with
    /// penalties on) of the history, outside the vocabulary.
    pub fn sample(
        &mut self,
        logits: &[f32],
        history: History<'_>,
        sequence: u64,
        position: u64,
    ) -> Result<Sampled, SampleError> {
        let (token, max, total) = self.draw(logits, history, sequence, position)?;
        let total = total.unwrap_or_else(|| Weigh::new(max, 1.0).total(logits));
        Ok(Sampled {
            token,
            logprob: logprob(logits[token as usize], max, log_sum(total)),
        })
    }

    /// The token of [`sample`](Self::sample) alone, sooner.
    ///
    /// # Errors
    /// As [`sample`](Self::sample).
    pub fn sample_token(
        &mut self,
        logits: &[f32],
        history: History<'_>,
        sequence: u64,
        position: u64,
    ) -> Result<u32, SampleError> {
        Ok(self.draw(logits, history, sequence, position)?.0)
    }

    /// The token, the largest of `logits`, and the sum of their plain weights where the
    /// draw came by it.
    fn draw(
        &mut self,
        logits: &[f32],
        history: History<'_>,
        sequence: u64,
        position: u64,
    ) -> Result<(u32, f32, Option<u64>), SampleError> {
        let max = checked_max(logits, sequence, position)?;
        let adjusted = self.adjust(logits, history)?;
        let survivors = self.run(logits, max, adjusted, sequence, position)?;
        let bits = philox::bits(self.params.seed, sequence, position)[0];
        let row = if adjusted { &self.adjusted[..] } else { logits };
        let (token, total) = match survivors {
            Survivors::One(token) => (token, None),
            Survivors::All { weigh, total } => {
                let target = philox::below(bits, total);
                let token = draw_from_all(row, &mut self.keys, &mut self.blocks, weigh, target);
                (token, Some(total))
            }
            Survivors::Listed { total, row_total } => (self.draw_listed(bits, total), row_total),
        };
        let plain = !adjusted && self.params.temperature == 1.0;
        Ok((token, max, total.filter(|_| plain)))
    }

    /// The distribution that [`sample`](Self::sample) draws from: the tokens that the
    /// chain leaves, in ascending id, with probabilities that sum to 1. Tokens of
    /// probability 0 are left out; greedy gives one token.
    ///
    /// # Errors
    /// As [`sample`](Self::sample).
    pub fn distribution(
        &mut self,
        logits: &[f32],
        history: History<'_>,
    ) -> Result<Vec<TokenProb>, SampleError> {
        let max = checked_max(logits, 0, 0)?;
        let adjusted = self.adjust(logits, history)?;
        let survivors = self.run(logits, max, adjusted, 0, 0)?;
        let row = if adjusted { &self.adjusted[..] } else { logits };
        Ok(match survivors {
            Survivors::One(token) => vec![TokenProb { token, prob: 1.0 }],
            Survivors::All { weigh, total } => (0..)
                .zip(row)
                .map(|(token, &logit)| TokenProb {
                    token,
                    prob: weigh.fixed(logit) as f64 / total as f64,
                })
                .filter(|t| t.prob > 0.0)
                .collect(),
            Survivors::Listed { total, .. } => self
                .candidates
                .iter()
                .map(|c| TokenProb {
                    token: c.token(),
                    prob: c.weight as f64 / total as f64,
                })
                .collect(),
        })
    }

    /// Bias and penalties, into `self.adjusted`. False if there is nothing to do.
    fn adjust(&mut self, logits: &[f32], history: History<'_>) -> Result<bool, SampleError> {
        let Some(changes) = Changes::of(&self.params, history, logits.len())? else {
            return Ok(false);
        };
        let row = &mut self.adjusted;
        row.clear();
        row.extend_from_slice(logits);
        changes.apply(&mut self.counts, row, |token| Some(token as usize));
        Ok(true)
    }

    /// Temperature and filters. `max` is that of `logits`.
    fn run(
        &mut self,
        logits: &[f32],
        max: f32,
        adjusted: bool,
        sequence: u64,
        position: u64,
    ) -> Result<Survivors, SampleError> {
        let (row, max) = if adjusted {
            let row = &self.adjusted[..];
            let Some(max) = max_or_bad(row) else {
                let (token, value) = first_bad(row);
                return Err(SampleError::Overflow {
                    sequence,
                    position,
                    token,
                    value,
                });
            };
            if max == f32::NEG_INFINITY {
                return Err(SampleError::NoCandidates {
                    sequence,
                    position,
                    vocab: row.len(),
                });
            }
            (row, max)
        } else {
            (logits, max)
        };
        let p = &self.params;
        if p.is_greedy() {
            return Ok(Survivors::One(first_equal(row, max)));
        }
        let weigh = Weigh::new(max, p.temperature);
        let top_k = (p.top_k as usize).min(row.len());
        let by_k = top_k > 0 && top_k < row.len();

        if !by_k && p.top_p >= 1.0 && p.min_p <= 0.0 {
            self.blocks.clear();
            self.blocks
                .extend(row.chunks(BLOCK).map(|block| weigh.sum(block)));
            let total = self.blocks.iter().sum();
            return Ok(Survivors::All { weigh, total });
        }

        if by_k {
            select::largest(row, top_k, &mut self.keys);
            let total = self.of_keys(weigh);
            let row_total = None;
            return Ok(Survivors::Listed { total, row_total });
        }
        let row_total = weigh.write(row, &mut self.weights);
        let mut target = None;
        // What weighs as much as min-p in units of the sums: several f32 may.
        let mut bound = fixed(p.min_p) as f32 / FIXED_ONE as f32;
        if p.top_p < 1.0 {
            target = Some(mass_target(p.top_p, row_total));
            // Tokens below this weight are together less than the share that
            // top-p may leave out, so none of them is needed to reach it.
            let sum = row_total as f64 / FIXED_ONE as f64;
            let spare = (1.0 - f64::from(p.top_p)) * sum / row.len() as f64;
            bound = bound.max((spare as f32).next_down());
        }
        select::at_least(row, &self.weights, bound, &mut self.candidates);
        let total = self.filter(weigh, target);
        let row_total = Some(row_total);
        Ok(Survivors::Listed { total, row_total })
    }

    /// Candidates of `self.keys`, the `top_k` largest, as the other filters leave them;
    /// the sum of their weights.
    fn of_keys(&mut self, weigh: Weigh) -> u64 {
        let total = self.list_keys(weigh);
        let top_p = self.params.top_p;
        let target = (top_p < 1.0).then(|| mass_target(top_p, total));
        self.filter(weigh, target)
    }

    /// Makes `self.keys` the candidates, in ascending id; the sum of their weights.
    fn list_keys(&mut self, weigh: Weigh) -> u64 {
        self.keys.sort_unstable_by_key(|&key| token_of(key));
        self.candidates.clear();
        self.candidates
            .extend(self.keys.iter().map(|&key| Candidate {
                key,
                weight: weigh.fixed(logit_of(key)),
            }));
        self.candidates.iter().map(|c| c.weight).sum()
    }

    /// Leaves the candidates that reach the mass `target` and min-p; the sum of their
    /// weights.
    fn filter(&mut self, weigh: Weigh, target: Option<u64>) -> u64 {
        let cut = match target {
            Some(target) => select::cut_at_mass(&self.candidates, weigh, target, &mut self.scratch),
            None => 0,
        };
        let least = fixed(self.params.min_p).max(1);
        let mut total = 0;
        self.candidates.retain(|c| {
            let keep = c.key >= cut && c.weight >= least;
            total += if keep { c.weight } else { 0 };
            keep
        });
        total
    }

    /// The candidate where the running sum of weights passes a random share of `total`.
    fn draw_listed(&self, bits: u64, total: u64) -> u32 {
        let mut left = philox::below(bits, total);
        let drawn = self.candidates.iter().find(|c| {
            let here = left < c.weight;
            left -= if here { 0 } else { c.weight };
            here
        });
        // `left` < total, the sum of these weights, so one of them is found.
        drawn.unwrap_or(&self.candidates[0]).token()
    }
}

/// The fixed-point mass that top-p must reach: at least 1, so that one token is kept
/// whatever happens.
fn mass_target(top_p: f32, total: u64) -> u64 {
    ((f64::from(top_p) * total as f64).ceil() as u64).max(1)
}

/// The lowest id whose logit is `max`.
fn first_equal(row: &[f32], max: f32) -> u32 {
    let near = row
        .chunks(BLOCK)
        .position(|block| block.iter().fold(false, |any, &v| any | (v == max)))
        .unwrap_or(0);
    let from = near * BLOCK;
    let within = row[from..].iter().position(|&v| v == max).unwrap_or(0);
    (from + within) as u32
}

/// The token where the running sum of weights passes `target`, which is below their
/// total: first of the [`HEAD`] largest in descending order, then of the others by
/// blocks (of whose sums the head's weights are taken), then inside one. A token of
/// weight 0 is never returned.
fn draw_from_all(
    row: &[f32],
    keys: &mut Vec<Key>,
    blocks: &mut [u64],
    weigh: Weigh,
    target: u64,
) -> u32 {
    if row.len() > HEAD {
        select::largest(row, HEAD, keys);
    } else {
        keys.clear();
        keys.extend(
            (0..)
                .zip(row)
                .map(|(token, &logit)| select::key(logit, token)),
        );
    }
    keys.sort_unstable_by(|a, b| b.cmp(a));
    let mut left = match draw_from_keys(keys, weigh, target) {
        Ok(token) => return token,
        Err(left) => left,
    };
    for &key in keys.iter() {
        blocks[token_of(key) as usize / BLOCK] -= weigh.fixed(logit_of(key));
    }
    // `target` is below the sum of all, so it is passed in some block.
    let passed = blocks.iter().position(|&mass| {
        let here = left < mass;
        left -= if here { 0 } else { mass };
        here
    });
    let from = passed.unwrap_or(0) * BLOCK;
    let last_of_head = keys.last().copied().unwrap_or(0);
    let block = (from as u32..).zip(&row[from..(from + BLOCK).min(row.len())]);
    let mut others = block.filter(|&(id, &logit)| select::key(logit, id) < last_of_head);
    let drawn = others.find(|&(_, &logit)| {
        let weight = weigh.fixed(logit);
        let here = left < weight;
        left -= if here { 0 } else { weight };
        here
    });
    drawn.map_or(from as u32, |(id, _)| id)
}

/// The token where the running sum of the weights of `keys` passes `target`, or what of
/// it is left behind them.
fn draw_from_keys(keys: &[Key], weigh: Weigh, target: u64) -> Result<u32, u64> {
    let mut left = target;
    for &key in keys {
        let weight = weigh.fixed(logit_of(key));
        if left < weight {
            return Ok(token_of(key));
        }
        left -= weight;
    }
    Err(left)
}
