//! One run: prompt processing and decode, timed on the host's clock around the
//! whole step (submission and read-back included).

use anyhow::Result;
use runtime::{Forward, Runner, Span, Want};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub prompt: usize,
    pub generated: usize,
    pub depth: usize,
    pub batch: usize,
}

/// Tokens per second.
#[derive(Clone, Copy, Debug)]
pub struct Speeds {
    pub prefill: f64,
    pub decode: f64,
}

/// Ids that differ from row to row; which ones does not matter to the work done.
fn id(i: usize, vocab: usize) -> u32 {
    ((i * 7919 + 13) % vocab) as u32
}

fn fill(runner: &mut Runner, seq: runtime::SeqId, tokens: usize) -> Result<()> {
    let (vocab, chunk) = (runner.vocab(), runner.program().limits.rows);
    let ids: Vec<u32> = (0..tokens).map(|i| id(i, vocab)).collect();
    let mut left = &ids[..];
    while !left.is_empty() {
        let (now, rest) = left.split_at(chunk.min(left.len()));
        let span = Span {
            seq,
            tokens: now,
            outputs: usize::from(rest.is_empty()),
            states: 1,
        };
        runner.forward(&[span], Want::Argmax)?;
        left = rest;
    }
    Ok(())
}

/// A sample lasts at least this long: small models are measured over several
/// prompts and answers, or the clock would see little but noise.
const SAMPLE: Duration = Duration::from_millis(300);

pub fn run(runner: &mut Runner, shape: &Shape) -> Result<Speeds> {
    Ok(Speeds {
        prefill: rate(shape.prompt, || prefill(runner, shape))?,
        decode: rate(shape.generated * shape.batch, || decode(runner, shape))?,
    })
}

/// Tokens per second over as many calls as a sample needs.
fn rate(tokens: usize, mut once: impl FnMut() -> Result<Duration>) -> Result<f64> {
    let (mut calls, mut spent) = (0, Duration::ZERO);
    while calls == 0 || spent < SAMPLE {
        spent += once()?;
        calls += 1;
    }
    Ok((tokens * calls) as f64 / spent.as_secs_f64())
}

fn prefill(runner: &mut Runner, shape: &Shape) -> Result<Duration> {
    let seq = runner.create()?;
    fill(runner, seq, shape.depth)?;
    let start = Instant::now();
    fill(runner, seq, shape.prompt)?;
    let spent = start.elapsed();
    runner.free(seq)?;
    Ok(spent)
}

fn decode(runner: &mut Runner, shape: &Shape) -> Result<Duration> {
    let vocab = runner.vocab();
    let mut seqs = Vec::new();
    for _ in 0..shape.batch {
        let seq = runner.create()?;
        fill(runner, seq, shape.depth)?;
        seqs.push(seq);
    }
    let mut next: Vec<u32> = (0..shape.batch).map(|i| id(i, vocab)).collect();
    let start = Instant::now();
    for _ in 0..shape.generated {
        let spans: Vec<Span<'_>> = seqs
            .iter()
            .zip(&next)
            .map(|(seq, token)| Span {
                seq: *seq,
                tokens: std::slice::from_ref(token),
                outputs: 1,
                states: 1,
            })
            .collect();
        if let Forward::Argmax(ids) = runner.forward(&spans, Want::Argmax)? {
            let ids = ids.to_vec();
            next.copy_from_slice(&ids);
        }
    }
    let spent = start.elapsed();
    for seq in seqs {
        runner.free(seq)?;
    }
    Ok(spent)
}

/// Prints the time of each kernel of one prefill chunk and one decode step, the
/// mean of several.
pub fn profile(runner: &mut Runner, shape: &Shape) -> Result<()> {
    const REPEATS: u32 = 20;
    for rows in [shape.prompt.min(runner.program().limits.rows), shape.batch] {
        let mut by_key: BTreeMap<String, (u32, f64)> = BTreeMap::new();
        for _ in 0..REPEATS {
            for step in runner.profile(rows, Want::Argmax)? {
                let entry = by_key.entry(step.label).or_default();
                entry.0 += 1;
                entry.1 += step.seconds;
            }
        }
        let mut sorted: Vec<_> = by_key.into_iter().collect();
        sorted.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
        println!("{rows} rows, µs per step:");
        for (label, (count, seconds)) in sorted {
            let each = f64::from(REPEATS);
            println!(
                "  {:>9.1}  {:>4} × {label}",
                seconds / each * 1e6,
                count / REPEATS
            );
        }
    }
    Ok(())
}
