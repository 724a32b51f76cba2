//! How well a model predicts a text, and how far from another: perplexity and KL
//! over chunks of it.

use super::{BaseReader, BaseWriter, GateError};
use crate::stats::{Summary, Tally, compare_row, log_sum_exp};
use runtime::{Forward, Runner, Span, Want};

/// Which positions of a text are scored. The text is cut into chunks that know
/// nothing of each other; what is left at its end is not scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvalOptions {
    /// Tokens of a chunk.
    pub chunk: usize,
    /// The first position of a chunk that is scored: those before it only give
    /// context. The last position has no next token and is never scored.
    pub first: usize,
    /// Chunks of one step.
    pub batch: usize,
}

impl Default for EvalOptions {
    fn default() -> Self {
        EvalOptions {
            chunk: 512,
            first: 256,
            batch: 1,
        }
    }
}

impl EvalOptions {
    /// Scored positions of a chunk.
    pub fn scored(&self) -> usize {
        self.chunk.saturating_sub(1 + self.first)
    }

    /// What is wrong with the sizes for a text of `tokens`, if anything.
    pub fn check(&self, tokens: usize) -> Result<(), GateError> {
        if self.scored() == 0 || self.batch == 0 {
            return Err(GateError::Empty(format!(
                "chunks of {} tokens that are scored from position {} on have no position to score",
                self.chunk, self.first
            )));
        }
        if tokens < self.chunk {
            return Err(GateError::Empty(format!(
                "the text has {tokens} tokens and a chunk {}: give a longer text or shorter chunks",
                self.chunk
            )));
        }
        Ok(())
    }
}

/// What a text says of a model.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Evaluation {
    pub chunks: usize,
    /// Scored positions.
    pub positions: usize,
    /// Mean of −ln p of the text's next token, in nats.
    pub nll: f64,
    /// e^nll
    pub perplexity: f64,
    /// Standard error of the perplexity, from the scatter of −ln p.
    pub perplexity_error: f64,
    /// Against the reference, where there is one.
    pub against: Option<Summary>,
    /// The reference's own perplexity.
    pub reference_perplexity: Option<f64>,
}

#[derive(Default)]
struct Nll {
    n: usize,
    sum: f64,
    squares: f64,
}

impl Nll {
    fn add(&mut self, row: &[f32], next: u32) {
        let x = log_sum_exp(row) - f64::from(row[next as usize]);
        self.n += 1;
        self.sum += x;
        self.squares += x * x;
    }

    fn mean(&self) -> f64 {
        self.sum / self.n as f64
    }

    /// Standard error of the mean.
    fn error(&self) -> f64 {
        let mean = self.mean();
        let variance = (self.squares / self.n as f64 - mean * mean).max(0.0);
        (variance / (self.n as f64 - 1.0).max(1.0)).sqrt()
    }
}

/// What a candidate is compared with, position by position.
pub enum Reference<'a> {
    Runner(&'a mut Runner),
    Base(BaseReader),
}

impl Reference<'_> {
    fn logits(&mut self, batch: &[&[u32]], options: &EvalOptions) -> Result<Vec<f32>, GateError> {
        match self {
            Reference::Runner(runner) => logits(runner, batch, options),
            Reference::Base(base) => base.next(batch.len()),
        }
    }
}

/// Scores `ids` on `runner` and compares with `reference` position by position,
/// where there is one. `save` takes the runner's logits to be a reference later;
/// `progress` hears of chunks done and chunks in all.
///
/// The runners need room for `batch` sequences of `chunk` tokens, steps of
/// `batch·chunk` rows, and all logits.
pub fn evaluate(
    runner: &mut Runner,
    mut reference: Option<Reference<'_>>,
    mut save: Option<&mut BaseWriter>,
    ids: &[u32],
    options: &EvalOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Evaluation, GateError> {
    options.check(ids.len())?;
    let chunks: Vec<&[u32]> = ids.chunks_exact(options.chunk).collect();
    let (mut own, mut other, mut tally) = (Nll::default(), Nll::default(), Tally::default());
    let mut done = 0;
    for batch in chunks.chunks(options.batch) {
        progress(done, chunks.len());
        let rows = logits(runner, batch, options)?;
        let against = match &mut reference {
            Some(r) => Some(r.logits(batch, options)?),
            None => None,
        };
        if let Some(base) = &mut save {
            base.append(&rows)?;
        }
        let vocab = runner.vocab();
        for (i, row) in rows.chunks_exact(vocab).enumerate() {
            // Each chunk gave its scored positions and the last one.
            let (chunk, at) = (i / (options.scored() + 1), i % (options.scored() + 1));
            if at == options.scored() {
                continue;
            }
            let next = batch[chunk][options.first + at + 1];
            own.add(row, next);
            if let Some(against) = &against {
                let want = &against[i * vocab..][..vocab];
                other.add(want, next);
                tally.push(compare_row(want, row));
            }
        }
        done += batch.len();
    }
    progress(done, chunks.len());
    let nll = own.mean();
    Ok(Evaluation {
        chunks: done,
        positions: own.n,
        nll,
        perplexity: nll.exp(),
        perplexity_error: nll.exp() * own.error(),
        against: tally.summary(),
        reference_perplexity: (other.n > 0).then(|| other.mean().exp()),
    })
}

/// Logits of the scored positions and of the last one of each chunk.
fn logits(
    runner: &mut Runner,
    batch: &[&[u32]],
    options: &EvalOptions,
) -> Result<Vec<f32>, GateError> {
    let mut sequences = Vec::new();
    for _ in batch {
        sequences.push(runner.create()?);
    }
    let spans: Vec<Span<'_>> = sequences
        .iter()
        .zip(batch)
        .map(|(seq, tokens)| Span::new(*seq, tokens, options.scored() + 1))
        .collect();
    let rows = match runner.forward(&spans, Want::Logits)? {
        Forward::Logits { rows, .. } => rows.to_vec(),
        Forward::Argmax(_) | Forward::TopK { .. } => Vec::new(),
    };
    for seq in sequences {
        runner.free(seq)?;
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uniform_guess_has_the_perplexity_of_the_vocabulary() {
        let mut nll = Nll::default();
        for next in 0..50 {
            nll.add(&[0.25; 50], next);
        }
        assert!((nll.mean().exp() - 50.0).abs() < 1e-9);
        assert!(nll.error() < 1e-9);
    }

    #[test]
    fn sizes_without_a_position_are_refused() {
        let ok = EvalOptions::default();
        assert_eq!(ok.scored(), 255);
        assert!(ok.check(512).is_ok() && ok.check(511).is_err());
        for bad in [
            EvalOptions { first: 511, ..ok },
            EvalOptions { chunk: 1, ..ok },
            EvalOptions { batch: 0, ..ok },
        ] {
            assert!(bad.check(10_000).is_err(), "{bad:?}");
        }
    }
}
