//! A kernel's outputs against the oracle's.

use super::case::{Case, Data};
use super::chain::OpValue;
use super::stored::{decode, rounded};
use graph::Op;
use registry::{OperandRole, OperandSrc, Problem};

/// Errors below this are no errors, even where the oracle's output is all zeros:
/// what underflows differs between exponentials.
const NOTHING: f64 = 1e-25;

/// Largest error over tolerance, or what is wrong.
pub type Verdict = Result<f64, String>;

/// Compares output `i`, given as the bytes of its real rows or of its cache.
pub fn output(
    case: &Case,
    problem: &Problem,
    i: usize,
    got: &[u8],
    want: &[OpValue],
    tolerance: f32,
) -> Verdict {
    let tolerance = f64::from(tolerance);
    let op = problem
        .ops
        .iter()
        .position(|o| o.output == Some(i))
        .ok_or_else(|| format!("no op writes output {i}"))?;
    if problem.outputs[i].role == OperandRole::Cache {
        return cache(case, problem, op, got, want, tolerance);
    }
    match &want[op] {
        OpValue::Rows(want) => {
            let got = decode(registry::Scheme::F32, got).unwrap_or_default();
            rows(
                &got,
                want,
                scale(case, problem, op, want),
                tolerance,
                problem.outputs[i].row_len(),
            )
        }
        OpValue::Ids(want_ids) => {
            let got: Vec<u32> = (got.as_chunks().0.iter())
                .map(|w| u32::from_le_bytes(*w))
                .collect();
            ids(case, problem, op, &got, want_ids, want, tolerance)
        }
        OpValue::Cache(_) => Err("the oracle gave a cache for an activation".into()),
    }
}

pub fn rms(x: &[f32]) -> f64 {
    let sum: f64 = x.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
    (sum / x.len().max(1) as f64).sqrt()
}

/// What errors are measured by: the root mean square of the oracle's output. A
/// handful of sums may all come out near zero by chance, so those of a linear are
/// measured at least by a quarter of what such sums come to on average.
fn scale(case: &Case, problem: &Problem, op: usize, want: &[f32]) -> f64 {
    let plain = rms(want);
    if want.len() >= 64 || !matches!(problem.ops[op].op, Op::Linear { .. }) {
        return plain;
    }
    let Some(Data::Matrix { values, .. }) = case.data(op, 1) else {
        return plain;
    };
    let x = match case.data(op, 0) {
        Some(Data::Rows(x)) => rms(x),
        _ => return plain,
    };
    let k = problem.input(op, 1).map_or(1, |(_, o)| o.shape[1]);
    plain.max(0.25 * x * rms(values) * (k as f64).sqrt())
}

fn rows(got: &[f32], want: &[f32], scale: f64, tolerance: f64, len: usize) -> Verdict {
    let mut worst = (0.0, 0);
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        if !w.is_finite() {
            return Err(format!(
                "the oracle gives {w} at element {i}: not a fair case"
            ));
        }
        let error = (f64::from(*g) - f64::from(*w)).abs();
        let error = if error.is_nan() { f64::INFINITY } else { error };
        if error > worst.0 {
            worst = (error, i);
        }
    }
    let ratio = match worst.0 {
        0.0 => 0.0,
        e => e / (tolerance * scale).max(NOTHING),
    };
    if ratio > 1.0 {
        let (at, len) = (worst.1, len.max(1));
        return Err(format!(
            "element {} of row {} is {}, the oracle has {}: {:.1e} of the rms {:.3e}, tolerance {:.1e}",
            at % len,
            at / len,
            got[at],
            want[at],
            worst.0 / scale,
            scale,
            tolerance
        ));
    }
    Ok(ratio)
}

/// Ids must be the oracle's; where the logits were computed on the way, an id
/// whose logit is within twice the tolerance of the largest will do.
fn ids(
    case: &Case,
    problem: &Problem,
    op: usize,
    got: &[u32],
    want: &[u32],
    values: &[OpValue],
    tolerance: f64,
) -> Verdict {
    let computed = match problem.ops[op].inputs[0] {
        OperandSrc::Op(j) => Some(values[j].rows()),
        OperandSrc::Input(_) => None,
    };
    for (r, (g, w)) in got.iter().zip(want).enumerate() {
        if g == w {
            continue;
        }
        let near = computed.is_some_and(|logits| {
            let vocab = logits.len() / want.len().max(1);
            let row = &logits[r * vocab..][..vocab];
            row.get(*g as usize)
                .is_some_and(|l| f64::from(row[*w as usize] - l) <= 2.0 * tolerance * rms(logits))
        });
        if !near {
            let of = case.batch.rows();
            return Err(format!("row {r} of {of}: id {g}, the oracle has {w}"));
        }
    }
    Ok(0.0)
}

/// The batch's cells must be what the oracle's keys and values, give or take the
/// tolerance, round to. Everything else in the cache is guarded byte by byte.
fn cache(
    case: &Case,
    problem: &Problem,
    op: usize,
    got: &[u8],
    want: &[OpValue],
    tolerance: f64,
) -> Verdict {
    let (_, operand) = problem.input(op, 2).ok_or("no external cache")?;
    let view = operand.cache.ok_or("no cache view")?;
    let got = decode(operand.scheme, got).ok_or("a scheme that cannot be read")?;
    let mut worst: f64 = 0.0;
    for kv in 0..2 {
        let exact = match problem.ops[op].inputs[kv] {
            OperandSrc::Op(j) => want[j].rows(),
            OperandSrc::Input(n) => match &case.inputs[n] {
                Data::Rows(x) => x,
                _ => return Err("keys that are no activation".into()),
            },
        };
        let computed = matches!(problem.ops[op].inputs[kv], OperandSrc::Op(_));
        let slack = if computed {
            tolerance * rms(exact)
        } else {
            0.0
        };
        let heads = exact.chunks_exact(view.head_dim);
        for (row, (span, position)) in case.batch.places().into_iter().enumerate() {
            let page = case.page(&view, span, position);
            for (head, x) in heads
                .clone()
                .skip(row * view.kv_heads)
                .take(view.kv_heads)
                .enumerate()
            {
                let at = view.at(page, kv, head, position % view.block);
                for (d, (x, g)) in x.iter().zip(&got[at..]).enumerate() {
                    let x = f64::from(*x);
                    let lo = rounded(operand.scheme, (x - slack) as f32);
                    let hi = rounded(operand.scheme, (x + slack) as f32);
                    if !(lo <= *g && *g <= hi) {
                        let what = ["key", "value"][kv];
                        return Err(format!(
                            "{what} of row {row} (position {position}), head {head}, element {d} is {g}, the oracle stores {lo} to {hi}"
                        ));
                    }
                    // Only unrounded caches show how much of the slack was used.
                    if slack > 0.0 && operand.scheme == registry::Scheme::F32 {
                        worst = worst.max((f64::from(*g) - x).abs() / slack);
                    }
                }
            }
        }
    }
    Ok(worst)
}
