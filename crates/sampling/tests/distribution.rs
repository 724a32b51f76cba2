//! The chain against a plain f64 version of itself, written to be read.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use sampling::{HEAD, History, SampleError, Sampler, SamplingParams, TokenProb, philox};

/// A filter may decide either way about a token this near its threshold.
const NEAR: f64 = 1e-5;

fn same_cases_every_run(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

#[derive(Debug, Clone, Copy)]
struct Reference {
    token: u32,
    prob: f64,
    /// The distance to the nearest threshold that decided about this row.
    margin: f64,
}

/// Bias, penalties, temperature, top-k, top-p, min-p, in f64 with full sorts. Returns
/// the distribution in ascending id; `margin` is the smallest distance at which any
/// filter's decision could have gone the other way.
fn reference(logits: &[f32], history: History<'_>, p: &SamplingParams) -> Vec<Reference> {
    let mut row: Vec<f64> = logits.iter().map(|&v| f64::from(v)).collect();
    for &(token, bias) in &p.logit_bias {
        row[token as usize] += f64::from(bias);
    }
    let all: Vec<u32> = [history.prompt, history.generated].concat();
    let window = &all[all.len() - p.penalty_last_n.unwrap_or(all.len()).min(all.len())..];
    for (token, logit) in row.iter_mut().enumerate() {
        if window.contains(&(token as u32)) {
            let penalty = f64::from(p.repetition_penalty);
            *logit = if *logit > 0.0 {
                *logit / penalty
            } else {
                *logit * penalty
            };
        }
        let count = history
            .generated
            .iter()
            .filter(|&&t| t as usize == token)
            .count();
        if count > 0 {
            *logit -= f64::from(p.frequency_penalty) * count as f64;
            *logit -= f64::from(p.presence_penalty);
        }
    }
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| row[b].partial_cmp(&row[a]).unwrap().then(a.cmp(&b)));
    if p.temperature == 0.0 {
        let gap = order
            .get(1)
            .map_or(1.0, |&second| row[order[0]] - row[second]);
        let margin = if gap == 0.0 { 1.0 } else { gap };
        return vec![Reference {
            token: order[0] as u32,
            prob: 1.0,
            margin,
        }];
    }
    let mut margin = f64::INFINITY;
    let max = row[order[0]];
    let weight = |i: usize| ((row[i] - max) / f64::from(p.temperature)).exp();
    if p.top_k > 0 && (p.top_k as usize) < order.len() {
        let k = p.top_k as usize;
        let gap = row[order[k - 1]] - row[order[k]];
        // An exact tie is decided by id, so it is not a near miss.
        if gap > 0.0 {
            margin = margin.min(gap);
        }
        order.truncate(k);
    }
    let total: f64 = order.iter().map(|&i| weight(i)).sum();
    if p.top_p < 1.0 {
        let target = f64::from(p.top_p) * total;
        let mut mass = 0.0;
        let mut keep = order.len();
        for (n, &i) in order.iter().enumerate() {
            mass += weight(i);
            margin = margin.min((mass - target).abs() / total);
            if mass >= target {
                keep = n + 1;
                break;
            }
        }
        order.truncate(keep);
    }
    if p.min_p > 0.0 {
        for &i in &order {
            margin = margin.min((weight(i) - f64::from(p.min_p)).abs());
        }
        order.retain(|&i| weight(i) >= f64::from(p.min_p));
    }
    let total: f64 = order.iter().map(|&i| weight(i)).sum();
    order.sort_unstable();
    order
        .into_iter()
        .map(|i| Reference {
            token: i as u32,
            prob: weight(i) / total,
            margin,
        })
        .filter(|r| r.prob > 1e-11)
        .collect()
}

fn logits(max_len: usize) -> impl Strategy<Value = Vec<f32>> {
    let value = prop_oneof![
        6 => -6.0f32..6.0,
        3 => (-4i32..4).prop_map(|v| v as f32),
        1 => Just(f32::NEG_INFINITY),
    ];
    proptest::collection::vec(value, 2..max_len).prop_filter("some token is allowed", |row| {
        row.iter().any(|v| v.is_finite())
    })
}

prop_compose! {
    fn params()(
        temperature in prop_oneof![1 => Just(0.0f32), 2 => Just(1.0), 6 => 0.05f32..3.0],
        top_k in prop_oneof![Just(0u32), 1u32..12, Just(1000)],
        top_p in prop_oneof![Just(1.0f32), 0.0f32..1.0, Just(0.95)],
        min_p in prop_oneof![Just(0.0f32), 0.0f32..1.0, Just(0.05)],
        repetition_penalty in prop_oneof![Just(1.0f32), 0.5f32..2.0],
        presence_penalty in prop_oneof![Just(0.0f32), -2.0f32..2.0],
        frequency_penalty in prop_oneof![Just(0.0f32), -2.0f32..2.0],
        penalty_last_n in prop_oneof![Just(None), (0usize..10).prop_map(Some)],
        bias in proptest::collection::btree_map(0u32..6, prop_oneof![
            4 => -3.0f32..3.0, 1 => Just(f32::NEG_INFINITY)], 0..3),
        seed in any::<u64>(),
    ) -> SamplingParams {
        SamplingParams {
            temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty,
            frequency_penalty, penalty_last_n, logit_bias: bias.into_iter().collect(), seed,
        }
    }
}

/// What both versions make of one case; the sampler's own draw must come from the
/// distribution it states.
fn compare(
    row: &[f32],
    history: History<'_>,
    params: &SamplingParams,
) -> Result<(), TestCaseError> {
    let mut sampler = Sampler::new(params.clone()).unwrap();
    let got = match sampler.distribution(row, history) {
        Err(SampleError::NoCandidates { .. }) => {
            let banned = |t: usize| {
                params.logit_bias.contains(&(t as u32, f32::NEG_INFINITY))
                    || row[t] == f32::NEG_INFINITY
            };
            prop_assert!((0..row.len()).all(banned));
            return Ok(());
        }
        other => other.unwrap(),
    };
    let sum: f64 = got.iter().map(|t| t.prob).sum();
    prop_assert!((sum - 1.0).abs() < 1e-9, "probabilities sum to {sum}");
    for position in 0..4 {
        let drawn = sampler.sample(row, history, 9, position).unwrap();
        prop_assert!(
            got.iter().any(|t| t.token == drawn.token),
            "{drawn:?} not in {got:?}"
        );
    }
    let want = reference(row, history, params);
    if want.iter().any(|r| r.margin < NEAR) {
        return Ok(());
    }
    let tokens: Vec<u32> = got
        .iter()
        .filter(|t| t.prob > 1e-11)
        .map(|t| t.token)
        .collect();
    let want_tokens: Vec<u32> = want.iter().map(|r| r.token).collect();
    prop_assert_eq!(&tokens, &want_tokens);
    for r in &want {
        let t = got.iter().find(|t| t.token == r.token).unwrap();
        prop_assert!(
            (t.prob - r.prob).abs() <= 2e-5 * r.prob + 1e-11,
            "token {}: {} instead of {}",
            t.token,
            t.prob,
            r.prob
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(same_cases_every_run(1500))]

    #[test]
    fn small_vocabularies_match_the_reference(
        row in logits(24),
        params in params(),
        tokens in proptest::collection::vec(0u32..24, 0..30),
        prompt_len in 0usize..30,
    ) {
        let mut params = params;
        params.logit_bias.retain(|(t, _)| (*t as usize) < row.len());
        let tokens: Vec<u32> = tokens.into_iter().filter(|t| (*t as usize) < row.len()).collect();
        compare(&row, History::split(&tokens, prompt_len), &params)?;
    }
}

proptest! {
    #![proptest_config(same_cases_every_run(60))]

    /// Long enough for several blocks, groups and histogram bins.
    #[test]
    fn rows_of_several_blocks_match_the_reference(row in logits(5000), params in params()) {
        let mut params = params;
        params.logit_bias.retain(|(t, _)| (*t as usize) < row.len());
        compare(&row, History::EMPTY, &params)?;
    }

    /// One sampler serving everything gives what a fresh one gives: no state leaks
    /// from one call into the next.
    #[test]
    fn scratch_space_leaks_nothing(
        rows in proptest::collection::vec(logits(300), 2..6),
        params in params(),
        tokens in proptest::collection::vec(0u32..2, 0..10),
    ) {
        let mut params = params;
        params.logit_bias.retain(|(t, bias)| *t < 2 && bias.is_finite());
        let history = History::split(&tokens, 3);
        let mut shared = Sampler::new(params.clone()).unwrap();
        for (sequence, row) in rows.iter().enumerate() {
            let mut fresh = Sampler::new(params.clone()).unwrap();
            let want = fresh.sample(row, history, sequence as u64, 5);
            prop_assert_eq!(shared.sample(row, history, sequence as u64, 5), want);
        }
    }
}

/// Draws at fixed seeds fall on tokens as often as their probability says.
#[test]
fn frequencies_pass_a_chi_square_test() {
    const DRAWS: u64 = 40_000;
    let row: Vec<f32> = (0..40).map(|i| (i as f32 * 2.3).sin() * 2.0).collect();
    let base = SamplingParams {
        seed: 20,
        ..Default::default()
    };
    let cases = [
        base.clone(),
        SamplingParams {
            temperature: 0.7,
            ..base.clone()
        },
        SamplingParams {
            top_k: 10,
            ..base.clone()
        },
        SamplingParams {
            top_p: 0.8,
            min_p: 0.05,
            ..base.clone()
        },
    ];
    for params in cases {
        let mut sampler = Sampler::new(params.clone()).unwrap();
        let want = reference(&row, History::EMPTY, &params);
        let mut counts = vec![0u64; row.len()];
        for draw in 0..DRAWS {
            let (sequence, position) = (draw % 7, draw / 7);
            let sampled = sampler
                .sample(&row, History::EMPTY, sequence, position)
                .unwrap();
            counts[sampled.token as usize] += 1;
        }
        assert_eq!(
            want.iter().map(|r| counts[r.token as usize]).sum::<u64>(),
            DRAWS
        );
        let statistic: f64 = want
            .iter()
            .map(|r| {
                let expected = r.prob * DRAWS as f64;
                (counts[r.token as usize] as f64 - expected).powi(2) / expected
            })
            .sum();
        // Mean n, standard deviation √2n: four of those is about 1 in 10,000, and the
        // draws are the same on every run.
        let n = (want.len() - 1) as f64;
        assert!(
            statistic < n + 4.0 * (2.0 * n).sqrt(),
            "χ² {statistic:.1} of {n} ({params:?})"
        );
        assert!(
            statistic > n - 4.0 * (2.0 * n).sqrt(),
            "χ² {statistic:.1} of {n} ({params:?})"
        );
    }
}

/// The draw is the inverse of the cumulative distribution at the documented number.
#[test]
fn draw_inverts_the_cumulative_distribution() {
    let row: Vec<f32> = (0..3000).map(|i| (i as f32 * 0.37).cos() * 3.0).collect();
    for top_k in [0, 700] {
        let params = SamplingParams {
            top_k,
            seed: 77,
            ..Default::default()
        };
        let mut sampler = Sampler::new(params).unwrap();
        let mut distribution = sampler.distribution(&row, History::EMPTY).unwrap();
        if top_k == 0 {
            // All are kept: the head comes first.
            let logit = |t: &TokenProb| row[t.token as usize];
            distribution.sort_by(|a, b| logit(b).total_cmp(&logit(a)).then(a.token.cmp(&b.token)));
            distribution[HEAD..].sort_by_key(|t| t.token);
        }
        for position in 0..500 {
            let u = philox::unit(philox::bits(77, 3, position)[0]);
            let got = sampler
                .sample(&row, History::EMPTY, 3, position)
                .unwrap()
                .token;
            let at = distribution.iter().position(|t| t.token == got).unwrap();
            let before: f64 = distribution[..at].iter().map(|t| t.prob).sum();
            let prob = distribution[at].prob;
            assert!(
                before - 1e-9 <= u && u < before + prob + 1e-9,
                "{before} {u} {prob}"
            );
        }
    }
}

#[test]
fn logprob_is_the_models_own() {
    let row: Vec<f32> = (0..2000).map(|i| (i as f32 * 0.11).sin() * 8.0).collect();
    let total: f64 = row.iter().map(|&v| f64::from(v).exp()).sum();
    let base = SamplingParams::default();
    for params in [
        SamplingParams::greedy(),
        base.clone(),
        SamplingParams {
            temperature: 1.3,
            ..base.clone()
        },
        SamplingParams {
            top_p: 0.9,
            ..base.clone()
        },
        SamplingParams {
            top_k: 5,
            repetition_penalty: 1.5,
            ..base.clone()
        },
        SamplingParams {
            min_p: 0.1,
            logit_bias: vec![(14, 3.0)],
            ..base
        },
    ] {
        let mut sampler = Sampler::new(params).unwrap();
        for position in 0..20 {
            let got = sampler
                .sample(&row, History::split(&[14, 15], 1), 0, position)
                .unwrap();
            let want = f64::from(row[got.token as usize]) - total.ln();
            assert!(
                (f64::from(got.logprob) - want).abs() < 1e-5,
                "{got:?} {want}"
            );
        }
    }
}
