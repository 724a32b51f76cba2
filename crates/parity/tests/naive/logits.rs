//! What is told of a row of logits: greedy tokens, the largest, sums of weights.

use super::{row_len, rows};
use graph::Op;
use parity::kernel_gate::{Case, Data};

/// The output of the case's one op.
pub fn ids(case: &Case) -> Vec<u32> {
    let (x, len) = (rows(case, 0), row_len(case, 0));
    let all = x.chunks(len);
    match &case.problem.ops[0].op {
        Op::ArgMax => all.map(best).collect(),
        Op::TopK { k } => all.flat_map(|row| largest(row, *k)).collect(),
        Op::ExpSum { parts } => {
            let Some(Data::Ids(top)) = case.data(0, 1) else {
                panic!("input 1 holds no pairs");
            };
            let firsts = top.chunks(row_len(case, 1)).map(|p| f32::from_bits(p[1]));
            let each = all.zip(firsts).zip(case.batch.inv_temps());
            each.flat_map(|((row, first), t)| sums(row, first, t, *parts))
                .collect()
        }
        other => panic!("{other:?} tells nothing of logits"),
    }
}

/// The lowest id of the largest number.
fn best(row: &[f64]) -> u32 {
    let numbers = row.iter().copied().filter(|v| *v > f64::NEG_INFINITY);
    let max = numbers.reduce(f64::max);
    max.and_then(|max| row.iter().position(|v| *v == max))
        .map_or(u32::MAX, |i| i as u32)
}

/// NaN ahead of all numbers, ids in order where logits are equal.
fn largest(row: &[f64], k: usize) -> Vec<u32> {
    let mut ids: Vec<usize> = (0..row.len()).collect();
    let falls = |a: f64, b: f64| match (a.is_nan(), b.is_nan()) {
        (false, false) => b.partial_cmp(&a).expect("numbers"),
        (a, b) => b.cmp(&a),
    };
    ids.sort_by(|a, b| falls(row[*a], row[*b]));
    let logit = |v: f64| match v.is_nan() {
        true => 0x7fff_ffff,
        false => (v as f32 + 0.0).to_bits(),
    };
    let pair = |j: usize| match ids.get(j) {
        Some(i) => [*i as u32, logit(row[*i])],
        None => [u32::MAX, f32::NEG_INFINITY.to_bits()],
    };
    (0..k).flat_map(pair).collect()
}

/// Sums of e^((x − first) · t), at most 1 each, in units of 2⁻⁴⁰.
fn sums(row: &[f64], first: f32, t: f32, parts: usize) -> Vec<u32> {
    let of = |v: &f64| (v - f64::from(first)).min(0.0) * f64::from(t);
    let fixed = |v: &f64| (of(v).exp() * 2f64.powi(40)) as u64;
    let (len, run) = (row.len(), row.len().div_ceil(parts));
    let part = |i: usize| {
        let (from, to) = ((i * run).min(len), ((i + 1) * run).min(len));
        let sum: u64 = match first.is_finite() {
            true => row[from..to].iter().map(fixed).sum(),
            false => 0,
        };
        [sum as u32, (sum >> 32) as u32]
    };
    (0..parts).flat_map(part).collect()
}
