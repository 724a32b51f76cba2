//! op: attention. o = softmax(scale·q·kᵀ)·v over the positions that a row sees:
//! (p − window, p], or [0, p] without a window. A soft cap makes scores s
//! cap·tanh(s/cap); a sink joins the softmax as a score whose value is zero.
//!
//! q, o f32 [T, heads, head_dim]; cache in pages, f32, f16, bf16 or int8_kv; query
//! head h reads kv head h / (heads / kv_heads). Scores are f32; the softmax subtracts
//! the maximum, takes exp in f32 and sums in f64; values are accumulated in f32 in
//! the order of positions and divided by the sum at the end. Threads share the
//! (row, kv head) pairs, dealt in turn because later rows see more. Pages that no
//! row sees are not read.

use crate::common::act::Round;
use crate::common::lanes;
use crate::common::plumbing::{Plain, Result, Step};
use graph::Op;
use registry::{Act, Pattern};

/// Heads of q as they are, or in an activation format.
pub(super) fn attend(mut step: Step<'_>, round: Option<Round>) -> Result<()> {
    let Op::Attention(spec) = step.problem.ops[0].op else {
        return Err(step.refuse("not an attention"));
    };
    let q = step.activation(0)?;
    let cache = step.cache(1)?;
    let sinks = match step.has_input(2) {
        true => Some(step.vector(2)?),
        false => None,
    };
    let o = step.output()?;
    let meta = step.meta()?;
    let view = cache.view;
    let dim = view.head_dim;
    let group = q.len / dim / view.kv_heads;
    step.task(move |ctx| {
        // SAFETY: a declared read.
        let meta = unsafe { meta.view() };
        // SAFETY: a declared read.
        let sinks = sinks.map(|s| unsafe { s.get() });
        let mut kv = vec![0f32; dim];
        let mut scores = Vec::new();
        for item in (ctx.thread..meta.rows() * view.kv_heads).step_by(ctx.threads) {
            let (t, kv_head) = (item / view.kv_heads, item % view.kv_heads);
            let position = meta.position(t);
            let first = spec.window.map_or(0, |w| (position + 1).saturating_sub(w));
            let seen = first..position + 1;
            let table = meta.table(view.group, meta.row_span(t));
            let page = |p: usize| (table[p / view.block] as usize, p % view.block);
            let heads = kv_head * group * dim;
            // SAFETY: a declared read; the output heads of this kv head are
            // written by this thread alone.
            let (q, o) = unsafe { (&q.row(t)[heads..], o.part_mut(t, heads, group * dim)) };
            let rounded = round.map(|round| {
                let mut rounded = vec![0f32; group * dim];
                round(&q[..group * dim], &mut rounded);
                rounded
            });
            let queries = rounded
                .as_deref()
                .unwrap_or(q)
                .chunks_exact(dim)
                .take(group);

            scores.clear();
            scores.resize(group * seen.len(), 0f32);
            for (i, p) in seen.clone().enumerate() {
                let (page, token) = page(p);
                // SAFETY: a declared read, and this step does not write it.
                unsafe { cache.load(page, 0, kv_head, token, &mut kv) };
                for (h, q) in queries.clone().enumerate() {
                    let score = lanes::dot(q, &kv) * spec.scale;
                    scores[h * seen.len() + i] = match spec.softcap {
                        Some(cap) => (score / cap).tanh() * cap,
                        None => score,
                    };
                }
            }
            let mut sums = Vec::with_capacity(group);
            for (h, scores) in scores.chunks_exact_mut(seen.len()).enumerate() {
                let sink = sinks.map(|s| s[kv_head * group + h]);
                let lowest = sink.unwrap_or(f32::NEG_INFINITY);
                let max = scores.iter().copied().fold(lowest, f32::max);
                scores.iter_mut().for_each(|s| *s = (*s - max).exp());
                let sum: f64 = scores.iter().map(|&s| f64::from(s)).sum();
                let sink = sink.map_or(0.0, |s| f64::from((s - max).exp()));
                sums.push((sum + sink) as f32);
            }
            o.fill(0.0);
            for (i, p) in seen.clone().enumerate() {
                let (page, token) = page(p);
                // SAFETY: as above.
                unsafe { cache.load(page, 1, kv_head, token, &mut kv) };
                for (h, o) in o.chunks_exact_mut(dim).enumerate() {
                    let weight = scores[h * seen.len() + i];
                    o.iter_mut().zip(&kv).for_each(|(o, v)| *o += weight * v);
                }
            }
            for (o, sum) in o.chunks_exact_mut(dim).zip(&sums) {
                o.iter_mut().for_each(|o| *o /= sum);
            }
        }
    })
}

/// The kernel of one activation format for one scheme of caches.
pub(super) const fn kernel(
    quant: &'static [&'static str],
    variant: &'static str,
    act: Act,
    record: fn(Step<'_>) -> Result<()>,
) -> Plain {
    let mut plain = Plain::new(&Pattern::ATTENTION, quant, variant, record);
    plain.spec.act = act;
    // Unless asked for a format, nothing is rounded.
    plain.spec.rank = if matches!(act, Act::F32) { 1 } else { 0 };
    plain
}

const fn of(quant: &'static [&'static str]) -> Plain {
    kernel(quant, "plain", Act::F32, |step| attend(step, None))
}

static F32: Plain = of(&["f32"]);
static F16: Plain = of(&["f16"]);
static BF16: Plain = of(&["bf16"]);
static INT8: Plain = of(&["int8_kv"]);
registry::register!(F32, F16, BF16, INT8);
