//! Prefixes of a row in its total order (logit descending, id ascending), found
//! without sorting the row.
//!
//! A [`Key`] packs one logit and its token into a u64 whose integer order is that
//! total order, so that ties need no thought anywhere else.

use std::cmp::Reverse;

use crate::math::{Weigh, fixed};

/// Larger is earlier in the order. High half: the logit's bits, made monotonic; low
/// half: the complement of the token id.
pub(crate) type Key = u64;

/// `logit` must not be NaN. Both zeros give the same key.
#[inline(always)]
pub(crate) fn key(logit: f32, token: u32) -> Key {
    let bits = (logit + 0.0).to_bits();
    let monotonic = bits ^ (((bits as i32 >> 31) as u32) | 0x8000_0000);
    u64::from(monotonic) << 32 | u64::from(!token)
}

#[inline(always)]
pub(crate) fn token_of(key: Key) -> u32 {
    !(key as u32)
}

#[inline(always)]
pub(crate) fn logit_of(key: Key) -> f32 {
    let monotonic = (key >> 32) as u32;
    let mask = if monotonic >> 31 == 1 {
        0x8000_0000
    } else {
        u32::MAX
    };
    f32::from_bits(monotonic ^ mask)
}

/// A token that may be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Candidate {
    pub key: Key,
    /// [`Weigh::fixed`].
    pub weight: u64,
}

impl Candidate {
    #[inline(always)]
    pub fn token(self) -> u32 {
        token_of(self.key)
    }
}

/// Values are compared in groups of this many before any is looked at alone.
const GROUP: usize = 16;

/// Calls `visit(index, value)` for each value ≥ the bound, in ascending index. Each
/// call returns the bound from there on.
#[inline(always)]
fn visit_from(mut bound: f32, values: &[f32], mut visit: impl FnMut(usize, f32) -> f32) {
    for (group, members) in values.chunks(GROUP).enumerate() {
        if !members.iter().fold(false, |any, &v| any | (v >= bound)) {
            continue;
        }
        for (i, &v) in members.iter().enumerate() {
            if v >= bound {
                bound = visit(group * GROUP + i, v);
            }
        }
    }
}

/// Writes the tokens whose weight is ≥ `bound` to `out`, in ascending id. `weights`
/// are those of `row`.
pub(crate) fn at_least(row: &[f32], weights: &[f32], bound: f32, out: &mut Vec<Candidate>) {
    out.clear();
    for (group, members) in weights.chunks(GROUP).enumerate() {
        if !members.iter().fold(false, |any, &w| any | (w >= bound)) {
            continue;
        }
        // Which ones pass is hard to predict, so no branch depends on it.
        let mut passed = [0u32; GROUP];
        let mut count = 0;
        for (i, &weight) in members.iter().enumerate() {
            passed[count] = (group * GROUP + i) as u32;
            count += usize::from(weight >= bound);
        }
        out.extend(passed[..count].iter().map(|&token| Candidate {
            key: key(row[token as usize], token),
            weight: fixed(weights[token as usize]),
        }));
    }
}

/// Writes the keys of the `k` largest logits to `out`, in no particular order.
/// 0 < k < row.len().
///
/// Candidates gather in a buffer of 2k; when it is full, the lower half goes and the
/// k-th largest so far becomes the bar for the rest. On real rows nearly everything
/// fails the bar, so this is one pass of comparisons.
pub(crate) fn largest(row: &[f32], k: usize, out: &mut Vec<Key>) {
    out.clear();
    let full = (2 * k).max(k + 256).min(row.len());
    out.reserve(full);
    let mut bar = f32::NEG_INFINITY;
    visit_from(bar, row, |i, logit| {
        out.push(key(logit, i as u32));
        if out.len() == full {
            bar = logit_of(keep_largest(out, k));
        }
        bar
    });
    if out.len() > k {
        keep_largest(out, k);
    }
}

/// Cuts `keys` down to its `k` largest and returns the smallest of them.
/// 0 < k ≤ keys.len().
fn keep_largest(keys: &mut Vec<Key>, k: usize) -> Key {
    let (_, &mut kth, _) = keys.select_nth_unstable_by(k - 1, |a, b| b.cmp(a));
    keys.truncate(k);
    kth
}

/// Bins per unit of log-weight, and how many there are (the last takes the rest).
const BINS_PER_NAT: f32 = 32.0;
const BINS: usize = 1024;

/// The last key of the shortest run of `candidates`, in descending order, whose
/// weights sum to at least `target`; the smallest key if all of them do not reach it.
/// `candidates` must not be empty; `scratch` is overwritten.
///
/// A histogram over log-weight says in which narrow bin the target is reached, and
/// only that bin is searched further. All sums are of integers, so no order of
/// summation can change the answer.
pub(crate) fn cut_at_mass(
    candidates: &[Candidate],
    weigh: Weigh,
    target: u64,
    scratch: &mut Vec<Candidate>,
) -> Key {
    // Never descends as the logit descends, since each of its roundings is monotonic.
    let bin_of = |candidate: &Candidate| {
        let depth = -weigh.log_weight(logit_of(candidate.key)) * BINS_PER_NAT;
        (depth as usize).min(BINS - 1)
    };
    let mut masses = [0u64; BINS];
    for candidate in candidates {
        masses[bin_of(candidate)] += candidate.weight;
    }
    let mut need = target;
    let reached = masses.iter().position(|&mass| {
        let here = mass >= need;
        need -= if here { 0 } else { mass };
        here
    });
    scratch.clear();
    match reached {
        Some(bin) => scratch.extend(candidates.iter().filter(|&c| bin_of(c) == bin)),
        None => return candidates.iter().map(|c| c.key).min().unwrap_or(0),
    }
    cut_by_halves(scratch, need)
}

/// [`cut_at_mass`] by quickselect: halve the range, sum the larger half, keep the
/// side where the target is reached. Reorders `candidates`.
fn cut_by_halves(candidates: &mut [Candidate], target: u64) -> Key {
    const SORTED: usize = 64;
    let (mut lo, mut hi, mut need) = (0, candidates.len(), target);
    while hi - lo > SORTED {
        let half = (hi - lo) / 2;
        candidates[lo..hi].select_nth_unstable_by_key(half, |c| Reverse(c.key));
        let mass: u64 = candidates[lo..lo + half].iter().map(|c| c.weight).sum();
        if mass >= need {
            hi = lo + half;
        } else {
            need -= mass;
            lo += half;
        }
    }
    let range = &mut candidates[lo..hi];
    range.sort_unstable_by_key(|c| Reverse(c.key));
    let mut mass = 0;
    for candidate in range.iter() {
        mass += candidate.weight;
        if mass >= need {
            return candidate.key;
        }
    }
    range[range.len() - 1].key
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    /// Few distinct values, so that ties are common.
    fn logits() -> impl Strategy<Value = Vec<f32>> {
        let value = prop_oneof![
            8 => (-6i32..6).prop_map(|v| v as f32 * 0.5),
            4 => -8.0f32..8.0,
            1 => Just(-0.0f32),
            1 => Just(f32::NEG_INFINITY),
        ];
        proptest::collection::vec(value, 1..700)
    }

    fn sorted(row: &[f32]) -> Vec<(u32, f32)> {
        let mut all: Vec<(u32, f32)> = (0..).zip(row.iter().copied()).collect();
        all.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
        all
    }

    #[test]
    fn keys_order_by_logit_then_by_lower_id() {
        let order = [
            (f32::MAX, 9),
            (1.0, 0),
            (1.0, 1),
            (1e-40, 7),
            (0.0, 2),
            (-0.0, 3),
            (0.0, 4),
            (-1e-40, 0),
            (-1.0, 5),
            (f32::MIN, 1),
            (f32::NEG_INFINITY, 0),
            (f32::NEG_INFINITY, u32::MAX),
        ];
        for pair in order.windows(2) {
            assert!(
                key(pair[0].0, pair[0].1) > key(pair[1].0, pair[1].1),
                "{pair:?}"
            );
        }
        for (logit, token) in order {
            assert_eq!(logit_of(key(logit, token)), logit);
            assert_eq!(token_of(key(logit, token)), token);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            rng_seed: RngSeed::Fixed(1),
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn largest_is_the_head_of_the_sorted_row(row in logits(), pick in 0usize..10_000) {
            prop_assume!(row.len() > 1);
            let k = 1 + pick % (row.len() - 1);
            let mut out = Vec::new();
            largest(&row, k, &mut out);
            out.sort_unstable_by(|a, b| b.cmp(a));
            let got: Vec<u32> = out.iter().map(|&key| token_of(key)).collect();
            let want: Vec<u32> = sorted(&row)[..k].iter().map(|t| t.0).collect();
            prop_assert_eq!(got, want);
        }

        #[test]
        fn at_least_is_a_filter(row in logits(), bound in 0.0f32..1.0) {
            let weights: Vec<f32> = row.iter().map(|v| v.max(-9.0) / 20.0 + 0.5).collect();
            let mut out = Vec::new();
            at_least(&row, &weights, bound, &mut out);
            let want: Vec<Candidate> = (0..)
                .zip(row.iter().zip(&weights))
                .filter(|(_, (_, w))| **w >= bound)
                .map(|(t, (v, w))| Candidate { key: key(*v, t), weight: fixed(*w) })
                .collect();
            prop_assert_eq!(out, want);
        }

        #[test]
        fn cut_is_the_first_of_the_sorted_row_to_reach_the_mass(
            row in logits(), share in 0.0f64..1.1, temperature in 0.05f32..20.0,
        ) {
            let max = crate::math::max_or_bad(&row).unwrap();
            prop_assume!(max > f32::NEG_INFINITY);
            let weigh = Weigh::new(max, temperature);
            let all = sorted(&row);
            let total: u64 = all.iter().map(|t| weigh.fixed(t.1)).sum();
            let target = ((total as f64 * share) as u64).max(1);
            let mut mass = 0;
            let want = all.iter().find(|t| {
                mass += weigh.fixed(t.1);
                mass >= target
            });
            let want = want.unwrap_or(all.last().unwrap()).0;
            let mut candidates: Vec<Candidate> = (0..)
                .zip(&row)
                .map(|(t, &v)| Candidate { key: key(v, t), weight: weigh.fixed(v) })
                .collect();
            let cut = cut_at_mass(&candidates, weigh, target, &mut Vec::new());
            prop_assert_eq!(token_of(cut), want);
            prop_assert_eq!(token_of(cut_by_halves(&mut candidates, target)), want);
        }
    }
}
