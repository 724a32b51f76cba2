//! One run: prompt processing and decode, timed on the host's clock around the
//! whole step (submission and read-back included).

use anyhow::{Result, bail};
use runtime::{Forward, GenerateOptions, Generator, Runner, SeqId, Span, Want};
use sampling::SamplingParams;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub prompt: usize,
    pub generated: usize,
    pub depth: usize,
    pub batch: usize,
}

impl Shape {
    /// Tokens of the longest sequence.
    pub fn context(&self) -> usize {
        self.depth + self.prompt.max(self.generated + 1)
    }

    /// Sequences alive at a time: one holds the depth for those that run alone.
    pub fn sequences(&self) -> usize {
        self.batch + usize::from(self.depth > 0)
    }
}

/// What one run gives.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Tokens per second.
    pub prefill: f64,
    pub decode: f64,
    /// Of all sequences together, where there are several.
    pub batch: Option<f64>,
    /// Of drawn tokens.
    pub sampled: Option<f64>,
    /// Seconds from prompt to first token.
    pub ttft: f64,
}

/// A loaded model that is ready to be timed.
pub struct Bench<'r> {
    pub runner: &'r mut Runner,
    shape: Shape,
    /// A sample lasts at least this long: small models are measured over several
    /// prompts and answers, or the clock would see little but noise.
    least: Duration,
    /// Holds the first `depth` tokens.
    base: Option<SeqId>,
    /// How tokens of one more answer are drawn.
    pub sampling: Option<SamplingParams>,
}

/// Ids that differ from row to row; which ones does not matter to the work done.
fn id(i: usize, vocab: usize) -> u32 {
    ((i * 7919 + 13) % vocab) as u32
}

/// How far apart the sequences of a batch begin in the row of ids: a prime, so that few
/// vocabularies divide it.
const APART: usize = 104_729;

/// The prompt of one of several sequences. Each has ids of its own, as those of
/// different users have: the rows of one id would choose the same experts, and a
/// mixture would read far fewer of them than it does.
fn prompt_ids(sequence: usize, tokens: usize, vocab: usize) -> Vec<u32> {
    let first = sequence * APART;
    (first..first + tokens).map(|i| id(i, vocab)).collect()
}

impl<'r> Bench<'r> {
    pub fn new(runner: &'r mut Runner, shape: Shape, least: Duration) -> Result<Self> {
        let mut bench = Bench {
            least,
            ..Bench::alone(runner, shape)
        };
        if shape.depth > 0 {
            let base = bench.runner.create()?;
            bench.feed(base, 0, shape.depth)?;
            bench.base = Some(base);
        }
        Ok(bench)
    }

    /// For one sequence at a time: each is fed the depth anew, so that a plan for one
    /// suffices.
    pub fn alone(runner: &'r mut Runner, shape: Shape) -> Self {
        Bench {
            runner,
            shape,
            least: Duration::ZERO,
            base: None,
            sampling: None,
        }
    }

    /// Forgets what was cached.
    pub fn finish(self) -> Result<()> {
        Ok(self.base.map_or(Ok(()), |base| self.runner.free(base))?)
    }

    fn begin(&mut self) -> Result<SeqId> {
        Ok(match self.base {
            Some(base) => self.runner.fork(base)?,
            None => {
                let seq = self.runner.create()?;
                self.feed(seq, 0, self.shape.depth)?;
                seq
            }
        })
    }

    /// Sequences at the depth. Each of several has a cache of its own, as those of
    /// different users have: forks would read the same pages, which stay on chip.
    fn begin_all(&mut self, batch: usize) -> Result<Vec<SeqId>> {
        if batch == 1 {
            return Ok(vec![self.begin()?]);
        }
        let mut seqs = Vec::new();
        for sequence in 0..batch {
            let seq = self.runner.create()?;
            self.feed(seq, sequence, self.shape.depth)?;
            seqs.push(seq);
        }
        Ok(seqs)
    }

    /// Appends so many tokens of a sequence's prompt in steps of the largest size; the
    /// last one's next token is asked for.
    fn feed(&mut self, seq: SeqId, sequence: usize, tokens: usize) -> Result<()> {
        let (vocab, chunk) = (self.runner.vocab(), self.runner.program().limits.rows);
        let ids = prompt_ids(sequence, tokens, vocab);
        let mut left = &ids[..];
        while !left.is_empty() {
            let (now, rest) = left.split_at(chunk.min(left.len()));
            let span = Span::new(seq, now, usize::from(rest.is_empty()));
            self.runner.forward(&[span], Want::Argmax)?;
            left = rest;
        }
        Ok(())
    }

    /// Seconds of one prompt.
    pub fn prompt(&mut self) -> Result<Duration> {
        let seq = self.begin()?;
        let start = Instant::now();
        self.feed(seq, 0, self.shape.prompt)?;
        let spent = start.elapsed();
        self.runner.free(seq)?;
        Ok(spent)
    }

    /// Seconds of one answer to each of `batch` sequences, token by token.
    fn answer(&mut self, batch: usize) -> Result<Duration> {
        self.decode(batch, self.shape.generated, |_| Ok(()))
    }

    fn decode(
        &mut self,
        batch: usize,
        steps: usize,
        mut after: impl FnMut(&mut Runner) -> Result<()>,
    ) -> Result<Duration> {
        let vocab = self.runner.vocab();
        let seqs = self.begin_all(batch)?;
        let mut next: Vec<u32> = (0..batch).map(|i| id(i, vocab)).collect();
        let start = Instant::now();
        for _ in 0..steps {
            let spans: Vec<Span<'_>> = seqs
                .iter()
                .zip(&next)
                .map(|(seq, token)| Span::new(*seq, std::slice::from_ref(token), 1))
                .collect();
            if let Forward::Argmax(ids) = self.runner.forward(&spans, Want::Argmax)? {
                let ids = ids.to_vec();
                next.copy_from_slice(&ids);
            }
        }
        let spent = start.elapsed();
        after(self.runner)?;
        for seq in seqs {
            self.runner.free(seq)?;
        }
        Ok(spent)
    }

    /// Steps of an answer of drawn tokens that are timed: the first token is the prompt's.
    fn drawn_steps(&self) -> usize {
        self.shape.generated - 1
    }

    /// Seconds of an answer whose tokens are drawn as users' are, scheduler included.
    fn drawn(&mut self, sampling: &SamplingParams) -> Result<Duration> {
        let seq = self.begin()?;
        let (depth, vocab) = (self.shape.depth, self.runner.vocab());
        let mut prompt = prompt_ids(0, depth, vocab);
        prompt.push(id(depth, vocab));
        let options = GenerateOptions {
            max_tokens: self.shape.generated,
            sampling: sampling.clone(),
            ..GenerateOptions::default()
        };
        let mut generator = Generator::new(self.runner, None);
        generator.add_to(seq, &prompt, options)?;
        while !generator.is_idle() {
            for event in generator.step()? {
                if let Some(e) = event.error {
                    bail!("no token could be drawn: {e}");
                }
            }
        }
        let (steps, seconds) = generator.decode;
        drop(generator);
        self.runner.free(seq)?;
        if steps != self.drawn_steps() {
            bail!("{steps} tokens were drawn, not {}", self.drawn_steps());
        }
        Ok(Duration::from_secs_f64(seconds))
    }

    /// Mean seconds over as many calls as a sample needs.
    fn mean(&mut self, once: impl Fn(&mut Self) -> Result<Duration>) -> Result<f64> {
        let (mut calls, mut spent) = (0, Duration::ZERO);
        while calls == 0 || spent < self.least {
            spent += once(self)?;
            calls += 1;
        }
        Ok(spent.as_secs_f64() / f64::from(calls))
    }

    pub fn run(&mut self) -> Result<Sample> {
        let shape = self.shape;
        let ttft = self.mean(Self::prompt)?;
        let answer = self.mean(|b| b.answer(1))?;
        let batch = match shape.batch {
            1 => None,
            n => Some(self.mean(|b| b.answer(n))?),
        };
        let sampled = match self.sampling.clone() {
            None => None,
            Some(params) => {
                let seconds = self.mean(|b| b.drawn(&params))?;
                Some(self.drawn_steps() as f64 / seconds)
            }
        };
        Ok(Sample {
            sampled,
            prefill: shape.prompt as f64 / ttft,
            decode: shape.generated as f64 / answer,
            batch: batch.map(|s| (shape.generated * shape.batch) as f64 / s),
            ttft,
        })
    }

    /// Runs one step of `rows` rows (a span, or that many sequences) at the depth,
    /// and then `after` while its sequences are there.
    pub fn step(
        &mut self,
        rows: usize,
        sequences: usize,
        mut after: impl FnMut(&mut Runner) -> Result<()>,
    ) -> Result<()> {
        if sequences > 1 || rows == 1 {
            self.decode(sequences, 1, after)?;
            return Ok(());
        }
        let seq = self.begin()?;
        self.feed(seq, 0, rows)?;
        after(self.runner)?;
        Ok(self.runner.free(seq)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_sequences_of_a_batch_read_the_same_ids() {
        for vocab in [2048, 32_000, 49_152, 128_256, 151_936, 248_320, 262_144] {
            let prompts: Vec<_> = (0..1024).map(|s| prompt_ids(s, 64, vocab)).collect();
            for at in 0..64 {
                let ids: std::collections::BTreeSet<u32> = prompts.iter().map(|p| p[at]).collect();
                assert_eq!(ids.len(), prompts.len(), "{vocab}");
                assert!(ids.last().is_some_and(|id| (*id as usize) < vocab));
            }
        }
        assert_eq!(prompt_ids(3, 64, 512), prompt_ids(3, 64, 512));
    }
}
