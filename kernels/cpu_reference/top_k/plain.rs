//! op: top_k. The k largest logits in descending order, ties to the lowest id, as ids
//! and bits of f32; NaN is larger than any number, both zeros are +0, and places behind
//! the last logit hold `u32::MAX` and −∞.
//!
//! logits f32 [R, V], top u32 [R, k, 2]. Threads share the rows. Exact.

use crate::common::plumbing::{Plain, Result, Step};
use registry::Pattern;

/// Grows with the logit, and falls with the id among equals.
fn key(logit: f32, id: usize) -> u64 {
    let bits = (logit + 0.0).to_bits();
    let rank = match (logit.is_nan(), bits >> 31) {
        (true, _) => u32::MAX,
        (_, 0) => bits | 0x8000_0000,
        _ => !bits,
    };
    u64::from(rank) << 32 | u64::from(!(id as u32))
}

/// The bits of a key's logit.
fn logit(key: u64) -> u32 {
    let rank = (key >> 32) as u32;
    match rank >> 31 {
        1 => rank ^ 0x8000_0000,
        _ => !rank,
    }
}

fn record(mut step: Step<'_>) -> Result<()> {
    let from = step.output_rows();
    let logits = step.activation(0)?;
    let top = step.output_ids(0)?;
    let meta = step.meta()?;
    step.task(move |ctx| {
        // SAFETY: a declared read.
        let rows = unsafe { meta.view() }.count(from);
        for r in ctx.share(rows) {
            // SAFETY: this thread's own row of the output.
            let top = unsafe { top.row_mut(r) }.as_chunks_mut::<2>().0;
            // Keys of what was met so far, the largest first.
            let mut best: Vec<u64> = Vec::with_capacity(top.len() + 1);
            // SAFETY: a declared read.
            for (i, &v) in unsafe { logits.row(r) }.iter().enumerate() {
                let key = key(v, i);
                if best.len() == top.len() && best.last().is_some_and(|last| key < *last) {
                    continue;
                }
                best.insert(best.partition_point(|b| *b > key), key);
                best.truncate(top.len());
            }
            for (j, pair) in top.iter_mut().enumerate() {
                *pair = match best.get(j) {
                    Some(key) => [!(*key as u32), logit(*key)],
                    None => [u32::MAX, f32::NEG_INFINITY.to_bits()],
                };
            }
        }
    })
}

static F32: Plain = Plain::new(&Pattern::TOP_K, &["f32"], "plain", record);
registry::register!(F32);
