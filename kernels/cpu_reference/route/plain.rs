//! op: route. The top_k experts of each row and their weights.
//!
//! logits f32 [T, E], bias f32 [E]?, weights f32 [T, k], experts u32 [T, k]. Scores
//! are a softmax (maximum subtracted, exp in f32, sum in f64) or σ of the logits;
//! selection goes by score + bias, in eligible groups, largest first and the lowest
//! expert on ties; a NaN is never selected before a number. Weights are the scores
//! without bias, over their sum if normalised, times the scale. Threads share the
//! rows.

use crate::common::plumbing::{Plain, Result, Step};
use graph::{Op, RouteScore, RouteSpec};
use registry::Pattern;

fn scores(spec: &RouteSpec, logits: &[f32], out: &mut Vec<f32>) {
    out.clear();
    match spec.score {
        RouteScore::Sigmoid => out.extend(logits.iter().map(|x| 1.0 / (1.0 + (-x).exp()))),
        RouteScore::Softmax => {
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            out.extend(logits.iter().map(|x| (x - max).exp()));
            let sum = out.iter().map(|&x| f64::from(x)).sum::<f64>() as f32;
            out.iter_mut().for_each(|x| *x /= sum);
        }
    }
}

/// Index of the largest of the candidates that are left; the lowest on ties.
fn best(keys: &[f32], left: &[bool]) -> usize {
    let candidates = (0..keys.len()).filter(|i| left[*i]);
    let better = |a: f32, b: f32| a > b || (b.is_nan() && !a.is_nan());
    candidates
        .reduce(|a, b| if better(keys[b], keys[a]) { b } else { a })
        .unwrap_or(0)
}

/// Strikes out the experts of all groups but the best.
fn keep_groups(spec: &RouteSpec, keys: &[f32], left: &mut [bool]) {
    let Some(groups) = spec.groups else {
        return;
    };
    let size = keys.len() / groups.count;
    let two_largest = |g: &[f32]| {
        let mut top = [f32::NEG_INFINITY; 2];
        for &x in g {
            if x > top[0] {
                top = [x, top[0]];
            } else if x > top[1] {
                top[1] = x;
            }
        }
        top[0] + top[1]
    };
    let totals: Vec<f32> = keys.chunks_exact(size).map(two_largest).collect();
    let mut out = vec![true; groups.count];
    for _ in 0..groups.keep {
        let g = best(&totals, &out);
        out[g] = false;
    }
    for (i, left) in left.iter_mut().enumerate() {
        *left = !out[i / size];
    }
}

fn record(mut step: Step<'_>) -> Result<()> {
    let Op::Route(spec) = step.problem.ops[0].op else {
        return Err(step.refuse("not a route"));
    };
    let logits = step.activation(0)?;
    let bias = match step.has_input(1) {
        true => Some(step.vector(1)?),
        false => None,
    };
    let weights = step.output()?;
    let experts = step.output_ids(1)?;
    let meta = step.meta()?;
    step.task(move |ctx| {
        // SAFETY: declared reads.
        let rows = unsafe { meta.view() }.rows();
        // SAFETY: as above.
        let bias = bias.map(|b| unsafe { b.get() });
        let (mut score, mut keys) = (Vec::new(), Vec::new());
        for t in ctx.share(rows) {
            // SAFETY: a declared read, and this thread's own rows of the outputs.
            let (logits, weights, experts) =
                unsafe { (logits.row(t), weights.row_mut(t), experts.row_mut(t)) };
            scores(&spec, logits, &mut score);
            keys.clear();
            keys.extend((score.iter().enumerate()).map(|(i, s)| s + bias.map_or(0.0, |b| b[i])));
            let mut left = vec![true; keys.len()];
            keep_groups(&spec, &keys, &mut left);
            for (w, e) in weights.iter_mut().zip(experts.iter_mut()) {
                let i = best(&keys, &left);
                left[i] = false;
                (*w, *e) = (score[i], i as u32);
            }
            if spec.normalise {
                let sum: f32 = weights.iter().sum();
                weights.iter_mut().for_each(|w| *w /= sum);
            }
            weights.iter_mut().for_each(|w| *w *= spec.scale);
        }
    })
}

static F32: Plain = Plain::new(&Pattern::ROUTE, &["f32"], "plain", record);
registry::register!(F32);
