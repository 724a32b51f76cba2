//! Routers' logits whose choice of experts does not hang on a rounding.

use super::rng::Rng;
use graph::{RouteScore, RouteSpec};

/// Keys nearer than this, relative to their terms, are taken for near ties.
const NEAR: f64 = 2e-5;

/// One expert of a row: what it scores, and what it is selected by.
#[derive(Clone, Copy)]
struct Candidate {
    expert: usize,
    /// The bits that the key is made of: equal ones give equal keys anywhere.
    bits: (u32, u32),
    key: f64,
    /// The sum of the magnitudes of the key's terms.
    size: f64,
}

fn candidates(spec: &RouteSpec, logits: &[f32], bias: Option<&[f32]>) -> Vec<Candidate> {
    let wide = || logits.iter().map(|l| f64::from(*l));
    let scores: Vec<f64> = match spec.score {
        RouteScore::Sigmoid => wide().map(|l| 1.0 / (1.0 + (-l).exp())).collect(),
        RouteScore::Softmax => {
            let max = wide().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = wide().map(|l| (l - max).exp()).sum();
            wide().map(|l| (l - max).exp() / sum).collect()
        }
    };
    let of = |(expert, score): (usize, f64)| {
        let bias = bias.map_or(0.0, |b| b[expert]);
        Candidate {
            expert,
            bits: (logits[expert].to_bits(), bias.to_bits()),
            key: score + f64::from(bias),
            size: score + f64::from(bias.abs()),
        }
    };
    scores.into_iter().enumerate().map(of).collect()
}

/// Largest first, the lowest expert first among equals.
fn descend(list: &mut [Candidate]) {
    list.sort_by(|a, b| b.key.total_cmp(&a.key).then(a.expert.cmp(&b.expert)));
}

/// Whether any sound arithmetic chooses the same experts in the same order: all
/// that compete are either equal in their bits or further apart than `slack`
/// (relative) on top of what rounding explains. Equal bits count only where the
/// logits are given; what a kernel computes itself may differ.
pub fn settled(
    spec: &RouteSpec,
    logits: &[f32],
    bias: Option<&[f32]>,
    slack: f64,
    given: bool,
) -> bool {
    let slack = NEAR + slack;
    let apart = |a: &Candidate, b: &Candidate| {
        (given && a.bits == b.bits) || (a.key - b.key).abs() > slack * a.size.max(b.size)
    };
    let mut all = candidates(spec, logits, bias);
    if let Some(groups) = spec.groups {
        let size = all.len() / groups.count;
        let mut best: Vec<(usize, Vec<Candidate>)> = (all.chunks(size))
            .map(|g| {
                let mut g = g.to_vec();
                descend(&mut g);
                g.truncate(2);
                g
            })
            .enumerate()
            .collect();
        let total = |g: &[Candidate]| g.iter().map(|c| c.key).sum::<f64>();
        // A stable sort: the lowest group first among equals.
        best.sort_by(|a, b| total(&b.1).total_cmp(&total(&a.1)));
        if let [kept, dropped] = &best[groups.keep - 1..(groups.keep + 1).min(groups.count)] {
            let extent = |g: &[Candidate]| g.iter().map(|c| c.size).sum::<f64>();
            let mut pairs = kept.1.iter().zip(&dropped.1);
            let equal = given && pairs.all(|(a, b)| a.bits == b.bits);
            let gap = total(&kept.1) - total(&dropped.1);
            if !equal && gap <= slack * extent(&kept.1).max(extent(&dropped.1)) {
                return false;
            }
        }
        let stays: Vec<usize> = best[..groups.keep].iter().map(|(g, _)| *g).collect();
        all.retain(|c| stays.contains(&(c.expert / size)));
    }
    descend(&mut all);
    all.windows(2)
        .take(spec.top_k)
        .all(|pair| apart(&pair[0], &pair[1]))
}

/// Draws each row again until its choice is settled.
pub fn settle(
    spec: &RouteSpec,
    x: &mut [f32],
    experts: usize,
    bias: Option<&[f32]>,
    rng: &mut Rng,
    draw: impl Fn(&mut Rng) -> f32,
) -> Result<(), String> {
    for row in x.chunks_exact_mut(experts) {
        let mut tries = 0;
        while !settled(spec, row, bias, 0.0, true) {
            tries += 1;
            if tries > 200 {
                return Err(format!("no logits settle the choice of {spec:?}"));
            }
            // Saturated scores are equal: nearer to zero they are not.
            let narrow = 1.0 / (1.0 + tries as f32 / 20.0);
            row.fill_with(|| draw(rng) * narrow);
        }
    }
    Ok(())
}

/// Experts of each row: any, few of them, one that all rows share, or the same one
/// several times in a row.
pub fn experts(rows: usize, top_k: usize, experts: usize, rng: &mut Rng) -> Vec<u32> {
    let kind = rng.below(4);
    let few = top_k.max(experts.div_ceil(3)).min(experts);
    let first = rng.below(experts - few + 1);
    let shared = rng.below(experts) as u32;
    let mut all: Vec<u32> = (0..experts as u32).collect();
    let mut out = Vec::with_capacity(rows * top_k);
    for _ in 0..rows {
        let mut row: Vec<u32> = match kind {
            0 | 2 => {
                rng.shuffle(&mut all);
                all[..top_k].to_vec()
            }
            1 => {
                let mut some: Vec<u32> = (first..first + few).map(|e| e as u32).collect();
                rng.shuffle(&mut some);
                some[..top_k].to_vec()
            }
            _ => (0..top_k).map(|_| rng.below(experts) as u32).collect(),
        };
        if kind == 2 && !row.contains(&shared) {
            row[rng.below(top_k)] = shared;
        }
        out.extend(row);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: RouteSpec = RouteSpec {
        top_k: 2,
        score: RouteScore::Softmax,
        normalise: false,
        scale: 1.0,
        groups: None,
    };

    #[test]
    fn near_ties_are_told_from_ties() {
        let tie = [1.0, 3.0, 3.0, 0.0];
        let near = [1.0, 3.0, 3.000_001, 0.0];
        let behind = [5.0, 4.0, 1.0, 1.000_000_1];
        assert!(settled(&SPEC, &tie, None, 0.0, true));
        assert!(!settled(&SPEC, &tie, None, 0.0, false));
        assert!(!settled(&SPEC, &near, None, 0.0, true));
        assert!(settled(&SPEC, &behind, None, 0.0, true));
        assert!(!settled(
            &SPEC,
            &behind,
            Some(&[0.0, 0.0, 9.0, 9.0]),
            0.0,
            true
        ));
    }

    #[test]
    fn groups_near_to_each_other_are_not_settled() {
        let spec = RouteSpec {
            top_k: 1,
            groups: Some(graph::RouteGroups { count: 2, keep: 1 }),
            score: RouteScore::Sigmoid,
            ..SPEC
        };
        assert!(settled(&spec, &[1.0, 0.0, 1.0, 0.0], None, 0.0, true));
        assert!(!settled(&spec, &[1.0, 0.0, 1.0, 1e-6], None, 0.0, true));
        assert!(settled(&spec, &[1.0, 0.0, 2.0, 0.5], None, 0.0, true));
    }

    #[test]
    fn rows_are_drawn_until_they_settle() {
        let mut rng = Rng::named("rows");
        let spec = RouteSpec {
            score: RouteScore::Sigmoid,
            ..SPEC
        };
        let mut x = vec![90.0, 91.0, 92.0, 93.0];
        let drawn = settle(&spec, &mut x, 4, None, &mut rng, |rng| 60.0 * rng.normal());
        assert!(drawn.is_ok() && settled(&spec, &x, None, 0.0, true));
    }
}
