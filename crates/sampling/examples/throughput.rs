//! Time per draw at a given vocabulary, for the usual settings: of whole rows, and of
//! what a device gives of them where that is enough.
//!
//! `cargo run --release -p sampling --example throughput [VOCAB]`

use std::hint::black_box;
use std::time::Instant;

use sampling::{HEAD, Head, History, Reads, Sampler, SamplingParams, Weigh, philox};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let vocab: usize = match std::env::args().nth(1) {
        Some(text) => text.parse()?,
        None => 151_936,
    };
    // Zipf-like, as language is: log-probability falls with the logarithm of the rank,
    // and ranks are scattered over the ids.
    let mut ranks: Vec<usize> = (1..=vocab).collect();
    ranks.sort_by_key(|&rank| philox::bits(1, 0, rank as u64));
    let logits: Vec<f32> = ranks
        .iter()
        .map(|&rank| 10.0 - 1.4 * (rank as f32).ln())
        .collect();
    let mut order: Vec<u32> = (0..vocab as u32).collect();
    order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
    let bits = |id: &u32| [*id, logits[*id as usize].to_bits()];
    let largest: Vec<[u32; 2]> = order[..HEAD.min(vocab)].iter().map(bits).collect();
    let history: Vec<u32> = (0..4096).map(|i| (i * 37) % vocab as u32).collect();
    let base = SamplingParams::default();
    let cases = [
        ("greedy", SamplingParams::greedy()),
        ("temperature 1", base.clone()),
        (
            "temperature 0.8",
            SamplingParams {
                temperature: 0.8,
                ..base.clone()
            },
        ),
        (
            "top_k 40",
            SamplingParams {
                top_k: 40,
                ..base.clone()
            },
        ),
        (
            "top_k 40, top_p .95",
            SamplingParams {
                top_k: 40,
                top_p: 0.95,
                ..base.clone()
            },
        ),
        (
            "top_p .95",
            SamplingParams {
                top_p: 0.95,
                ..base.clone()
            },
        ),
        (
            "top_p .95, T .6",
            SamplingParams {
                top_p: 0.95,
                temperature: 0.6,
                ..base.clone()
            },
        ),
        (
            "top_p .95, T 5 (flat)",
            SamplingParams {
                top_p: 0.95,
                temperature: 5.0,
                ..base.clone()
            },
        ),
        (
            "min_p .05",
            SamplingParams {
                min_p: 0.05,
                ..base.clone()
            },
        ),
        (
            "rep 1.1, top_k 40",
            SamplingParams {
                repetition_penalty: 1.1,
                top_k: 40,
                ..base
            },
        ),
    ];
    for (name, params) in cases {
        let mut sampler = Sampler::new(params)?;
        let history = History::split(&history, 1024);
        let (mut whole, mut of_head) = (Vec::new(), Vec::new());
        let weigh = Weigh::new(10.0, sampler.params().temperature.max(0.1));
        let total = Some(weigh.total(&logits));
        for position in 0..60 {
            let start = Instant::now();
            black_box(sampler.sample_token(black_box(&logits), history, 0, position)?);
            whole.push(start.elapsed().as_secs_f64() * 1e6);
            if sampler.reads(vocab) == Reads::Row {
                continue;
            }
            let head = Head {
                largest: &largest,
                vocab,
                total,
            };
            let start = Instant::now();
            let drawn = black_box(sampler.sample_head(black_box(head), history, 0, position)?);
            let micros = start.elapsed().as_secs_f64() * 1e6;
            of_head.extend(drawn.map(|_| micros));
        }
        whole.sort_by(f64::total_cmp);
        of_head.sort_by(f64::total_cmp);
        let median = |of: &[f64]| of.get(of.len() / 2).copied().unwrap_or(f64::NAN);
        println!(
            "{name:24} median {:8.1} µs; {} of {} by the head, {:6.1} µs",
            median(&whole),
            of_head.len(),
            whole.len(),
            median(&of_head)
        );
    }
    Ok(())
}
