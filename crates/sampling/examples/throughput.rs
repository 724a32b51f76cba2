//! Time per draw at a given vocabulary, for the usual settings.
//!
//! `cargo run --release -p sampling --example throughput [VOCAB]`

use std::hint::black_box;
use std::time::Instant;

use sampling::{History, Sampler, SamplingParams, philox};

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
        let mut micros: Vec<f64> = Vec::new();
        for position in 0..60 {
            let start = Instant::now();
            black_box(sampler.sample(
                black_box(&logits),
                History::split(&history, 1024),
                0,
                position,
            )?);
            micros.push(start.elapsed().as_secs_f64() * 1e6);
        }
        micros.sort_by(f64::total_cmp);
        println!(
            "{name:24} median {:8.1} µs of {} draws",
            micros[30],
            micros.len()
        );
    }
    Ok(())
}
