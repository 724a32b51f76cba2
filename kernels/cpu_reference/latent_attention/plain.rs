//! op: latent_attention. For each head, o = softmax(scale·(q_latent·c + q_rope·k))·c
//! over the positions [0, p] of a row at p.
//!
//! q_latent, o f32 [T, heads, L], q_rope f32 [T, heads, R]; cache in pages of
//! vectors c, k, f32, f16 or bf16. Numbers as in `attention`: scores f32, softmax
//! with its sum in f64, values accumulated in f32 in the order of positions.
//! Threads share the rows, dealt in turn because later rows see more. The maths:
//! DeepSeek-AI 2024, "DeepSeek-V2", section 2.1, with the up-projections absorbed.

use crate::common::lanes;
use crate::common::plumbing::{Plain, Result, Step};
use graph::Op;
use registry::Pattern;

fn record(mut step: Step<'_>) -> Result<()> {
    let Op::LatentAttention { scale } = step.problem.ops[0].op else {
        return Err(step.refuse("not a latent_attention"));
    };
    let &[_, heads, latent] = step.problem.ops[0].shape.as_slice() else {
        return Err(step.refuse("o must be [T, heads, L]"));
    };
    let (q_latent, q_rope) = (step.activation(0)?, step.activation(1)?);
    let cache = step.cache(2)?;
    let o = step.output()?;
    let meta = step.meta()?;
    let view = cache.view;
    let rope = view.head_dim - latent;
    step.task(move |ctx| {
        // SAFETY: a declared read.
        let meta = unsafe { meta.view() };
        let mut entry = vec![0f32; view.head_dim];
        let mut scores = Vec::new();
        for t in (ctx.thread..meta.rows()).step_by(ctx.threads) {
            let seen = meta.position(t) + 1;
            let table = meta.table(view.group, meta.row_span(t));
            // SAFETY: declared reads, and this thread's own row of the output.
            let (q_latent, q_rope, o) = unsafe { (q_latent.row(t), q_rope.row(t), o.row_mut(t)) };
            let load = |p: usize, entry: &mut [f32]| {
                let (page, token) = (table[p / view.block] as usize, p % view.block);
                // SAFETY: a declared read, and this step does not write it.
                unsafe { cache.load(page, 0, 0, token, entry) };
            };
            scores.clear();
            scores.resize(heads * seen, 0f32);
            for p in 0..seen {
                load(p, &mut entry);
                let (c, k) = entry.split_at(latent);
                for h in 0..heads {
                    let dot = lanes::dot(&q_latent[h * latent..][..latent], c)
                        + lanes::dot(&q_rope[h * rope..][..rope], k);
                    scores[h * seen + p] = dot * scale;
                }
            }
            let mut sums = Vec::with_capacity(heads);
            for scores in scores.chunks_exact_mut(seen) {
                let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                scores.iter_mut().for_each(|s| *s = (*s - max).exp());
                sums.push(scores.iter().map(|&s| f64::from(s)).sum::<f64>() as f32);
            }
            o.fill(0.0);
            for p in 0..seen {
                load(p, &mut entry);
                for (h, o) in o.chunks_exact_mut(latent).enumerate() {
                    let weight = scores[h * seen + p];
                    o.iter_mut().zip(&entry).for_each(|(o, c)| *o += weight * c);
                }
            }
            for (o, sum) in o.chunks_exact_mut(latent).zip(&sums) {
                o.iter_mut().for_each(|o| *o /= sum);
            }
        }
    })
}

const fn of(quant: &'static [&'static str]) -> Plain {
    Plain::new(&Pattern::LATENT_ATTENTION, quant, "plain", record)
}

static F32: Plain = of(&["f32"]);
static F16: Plain = of(&["f16"]);
static BF16: Plain = of(&["bf16"]);
registry::register!(F32, F16, BF16);
