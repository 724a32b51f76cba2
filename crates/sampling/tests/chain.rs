//! What each step does, in which order, and what is refused.

use sampling::{History, SampleError, Sampler, SamplingParams, TokenProb};

const BAN: f32 = f32::NEG_INFINITY;

fn sampler(params: SamplingParams) -> Sampler {
    Sampler::new(params).unwrap()
}

fn kept(params: SamplingParams, logits: &[f32], history: History<'_>) -> Vec<u32> {
    let distribution = sampler(params).distribution(logits, history).unwrap();
    distribution.iter().map(|t| t.token).collect()
}

/// Probabilities relative to token 0's, as logits that the chain ended with.
fn log_ratios(params: SamplingParams, logits: &[f32], history: History<'_>) -> Vec<f64> {
    let all = sampler(params).distribution(logits, history).unwrap();
    assert_eq!(all.len(), logits.len());
    all.iter()
        .map(|t: &TokenProb| (t.prob / all[0].prob).ln())
        .collect()
}

fn assert_close(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() < 1e-5, "{got:?} instead of {want:?}");
    }
}

#[test]
fn greedy_takes_the_largest_and_of_equals_the_lowest_id() {
    let mut greedy = sampler(SamplingParams::greedy());
    let mut pick = |row: &[f32]| greedy.sample(row, History::EMPTY, 0, 0).unwrap().token;
    assert_eq!(pick(&[0.5, 3.0, 3.0, -1.0]), 1);
    assert_eq!(pick(&[-0.0, 0.0]), 0);
    assert_eq!(pick(&[BAN, -3.0]), 1);
    let mut long = vec![0.0f32; 5000];
    long[4321] = 1.0;
    long[4999] = 1.0;
    assert_eq!(pick(&long), 4321);
}

#[test]
fn greedy_still_feels_bias_and_penalties() {
    let pick = |params: SamplingParams, history| {
        sampler(params)
            .sample(&[1.0, 2.0, 1.5], history, 0, 0)
            .unwrap()
            .token
    };
    let greedy = SamplingParams::greedy();
    let history = History {
        prompt: &[],
        generated: &[1],
    };
    assert_eq!(pick(greedy.clone(), history), 1);
    assert_eq!(
        pick(
            SamplingParams {
                logit_bias: vec![(0, 5.0)],
                ..greedy.clone()
            },
            history
        ),
        0
    );
    assert_eq!(
        pick(
            SamplingParams {
                repetition_penalty: 2.0,
                ..greedy.clone()
            },
            history
        ),
        2
    );
    assert_eq!(
        pick(
            SamplingParams {
                presence_penalty: 1.0,
                ..greedy
            },
            history
        ),
        2
    );
}

#[test]
fn penalties_as_documented() {
    let row = [0.0, 2.0, -2.0, 1.0];
    let base = SamplingParams::default();
    // Token 1 twice in the prompt; token 2 and, twice, token 3 in the answer.
    let history = History {
        prompt: &[1, 1],
        generated: &[3, 2, 3],
    };

    let repetition = SamplingParams {
        repetition_penalty: 2.0,
        ..base.clone()
    };
    assert_close(
        &log_ratios(repetition.clone(), &row, history),
        &[0.0, 1.0, -4.0, 0.5],
    );
    let windowed = |n| SamplingParams {
        penalty_last_n: Some(n),
        ..repetition.clone()
    };
    assert_close(
        &log_ratios(windowed(0), &row, history),
        &[0.0, 2.0, -2.0, 1.0],
    );
    assert_close(
        &log_ratios(windowed(1), &row, history),
        &[0.0, 2.0, -2.0, 0.5],
    );
    assert_close(
        &log_ratios(windowed(2), &row, history),
        &[0.0, 2.0, -4.0, 0.5],
    );
    assert_close(
        &log_ratios(windowed(3), &row, history),
        &[0.0, 2.0, -4.0, 0.5],
    );
    assert_close(
        &log_ratios(windowed(4), &row, history),
        &[0.0, 1.0, -4.0, 0.5],
    );
    assert_close(
        &log_ratios(windowed(usize::MAX), &row, history),
        &[0.0, 1.0, -4.0, 0.5],
    );

    // The prompt does not count, nor does the window, for these two.
    let presence = SamplingParams {
        presence_penalty: 0.5,
        penalty_last_n: Some(1),
        ..base.clone()
    };
    assert_close(&log_ratios(presence, &row, history), &[0.0, 2.0, -2.5, 0.5]);
    let frequency = SamplingParams {
        frequency_penalty: 0.5,
        ..base
    };
    assert_close(
        &log_ratios(frequency, &row, history),
        &[0.0, 2.0, -2.5, 0.0],
    );
}

#[test]
fn bias_then_penalties_then_temperature() {
    let history = History {
        prompt: &[],
        generated: &[1],
    };
    let params = SamplingParams {
        logit_bias: vec![(1, 3.0)],
        repetition_penalty: 2.0,
        presence_penalty: 1.0,
        frequency_penalty: 0.5,
        temperature: 0.5,
        ..Default::default()
    };
    // (-1 + 3) / 2 - 1.5, then / 0.5. Penalty before bias would give 2 · -0.5 = -1
    // (times 2 for its sign), temperature first would leave the penalties undivided.
    assert_close(&log_ratios(params, &[0.0, -1.0], history), &[0.0, -1.0]);
}

#[test]
fn temperature_comes_before_top_p_and_min_p() {
    let row = [3.0, 2.0, 0.0];
    let hot = SamplingParams {
        temperature: 4.0,
        ..Default::default()
    };
    // At temperature 1 token 0 has 0.70 and tokens 1, 2 have 0.37 and 0.05 of it; at 4
    // it has 0.44, and they 0.78 and 0.47 of it.
    let top_p = SamplingParams {
        top_p: 0.6,
        ..hot.clone()
    };
    assert_eq!(kept(top_p.clone(), &row, History::EMPTY), [0, 1]);
    assert_eq!(
        kept(
            SamplingParams {
                temperature: 1.0,
                ..top_p
            },
            &row,
            History::EMPTY
        ),
        [0]
    );
    let min_p = SamplingParams { min_p: 0.4, ..hot };
    assert_eq!(kept(min_p.clone(), &row, History::EMPTY), [0, 1, 2]);
    assert_eq!(
        kept(
            SamplingParams {
                temperature: 1.0,
                ..min_p
            },
            &row,
            History::EMPTY
        ),
        [0]
    );
}

#[test]
fn top_k_comes_before_top_p() {
    // Ten equal tokens: top-p 0.45 of all keeps five, of the first four only two.
    let params = SamplingParams {
        top_k: 4,
        top_p: 0.45,
        ..Default::default()
    };
    assert_eq!(kept(params.clone(), &[1.0; 10], History::EMPTY), [0, 1]);
    let without = SamplingParams { top_k: 0, ..params };
    assert_eq!(kept(without, &[1.0; 10], History::EMPTY), [0, 1, 2, 3, 4]);
}

#[test]
fn top_p_comes_before_min_p() {
    // Probabilities ½, ¼, ⅛, ⅛. Top-p 0.8 needs three; min-p 0.3 then leaves two.
    // The other way round min-p leaves ⅔, ⅓, and top-p 0.6 of those just one.
    let row: Vec<f32> = [0.5f32, 0.25, 0.125, 0.125]
        .iter()
        .map(|p| p.ln())
        .collect();
    let params = SamplingParams {
        top_p: 0.8,
        ..Default::default()
    };
    assert_eq!(kept(params.clone(), &row, History::EMPTY), [0, 1, 2]);
    assert_eq!(
        kept(
            SamplingParams {
                min_p: 0.3,
                ..params
            },
            &row,
            History::EMPTY
        ),
        [0, 1]
    );
    let tight = SamplingParams {
        top_p: 0.6,
        min_p: 0.3,
        ..Default::default()
    };
    assert_eq!(kept(tight, &row, History::EMPTY), [0, 1]);
}

#[test]
fn filters_at_their_edges() {
    let row = [1.0, 3.0, 3.0, 2.0, BAN];
    let base = SamplingParams::default();
    let keep = |params| kept(params, &row, History::EMPTY);
    assert_eq!(keep(base.clone()), [0, 1, 2, 3]);
    assert_eq!(
        keep(SamplingParams {
            top_k: 1,
            ..base.clone()
        }),
        [1]
    );
    assert_eq!(
        keep(SamplingParams {
            top_k: 2,
            ..base.clone()
        }),
        [1, 2]
    );
    assert_eq!(
        keep(SamplingParams {
            top_k: 5,
            ..base.clone()
        }),
        [0, 1, 2, 3]
    );
    assert_eq!(
        keep(SamplingParams {
            top_k: u32::MAX,
            ..base.clone()
        }),
        [0, 1, 2, 3]
    );
    assert_eq!(
        keep(SamplingParams {
            top_p: 0.0,
            ..base.clone()
        }),
        [1]
    );
    assert_eq!(
        keep(SamplingParams {
            top_k: 3,
            top_p: 0.0,
            ..base.clone()
        }),
        [1]
    );
    assert_eq!(
        keep(SamplingParams {
            min_p: 1.0,
            ..base.clone()
        }),
        [1, 2]
    );
    assert_eq!(
        keep(SamplingParams {
            min_p: 1e-30,
            ..base.clone()
        }),
        [0, 1, 2, 3]
    );
    // So cold that only the largest are left, so hot that all are alike.
    assert_eq!(
        keep(SamplingParams {
            temperature: 1e-30,
            ..base.clone()
        }),
        [1, 2]
    );
    let hot = SamplingParams {
        temperature: f32::MAX,
        top_p: 0.99,
        ..base
    };
    assert_eq!(keep(hot), [0, 1, 2, 3]);
}

#[test]
fn a_ban_holds_through_every_path() {
    let row = [1.0, 9.0, 2.0, 8.0];
    let ban = SamplingParams {
        logit_bias: vec![(1, BAN), (3, BAN)],
        ..Default::default()
    };
    for params in [
        ban.clone(),
        SamplingParams {
            temperature: 0.0,
            ..ban.clone()
        },
        SamplingParams {
            temperature: 100.0,
            ..ban.clone()
        },
        SamplingParams {
            top_k: 3,
            ..ban.clone()
        },
        SamplingParams {
            top_p: 0.999,
            ..ban.clone()
        },
        SamplingParams {
            min_p: 0.001,
            ..ban
        },
    ] {
        let mut sampler = sampler(params);
        for position in 0..300 {
            let token = sampler
                .sample(&row, History::EMPTY, 0, position)
                .unwrap()
                .token;
            assert!(token == 0 || token == 2, "{token}");
        }
    }
}

/// The order in which sequences are served, and who else is served, change nothing.
#[test]
fn draws_do_not_depend_on_the_batch() {
    let row: Vec<f32> = (0..2500).map(|i| (i as f32 * 0.77).sin() * 2.0).collect();
    let params = SamplingParams {
        top_p: 0.97,
        seed: 5,
        ..Default::default()
    };
    let mut places: Vec<(u64, u64)> = Vec::new();
    for sequence in [0, 1, 2, u64::MAX] {
        for position in [0, 1, 2, 77, 1 << 40] {
            places.push((sequence, position));
        }
    }
    let alone: Vec<u32> = places
        .iter()
        .map(|&(s, p)| {
            let mut fresh = sampler(params.clone());
            fresh.sample(&row, History::EMPTY, s, p).unwrap().token
        })
        .collect();
    let mut shared = sampler(params.clone());
    for (&(s, p), &want) in places.iter().zip(&alone).rev() {
        assert_eq!(
            shared.sample(&row, History::EMPTY, s, p).unwrap().token,
            want
        );
    }
    // And each of them does have its own number.
    let mut different = alone.clone();
    different.sort_unstable();
    different.dedup();
    assert!(different.len() >= alone.len() - 1, "{alone:?}");
    let mut other = sampler(SamplingParams { seed: 6, ..params });
    let reseeded: Vec<u32> = places
        .iter()
        .map(|&(s, p)| other.sample(&row, History::EMPTY, s, p).unwrap().token)
        .collect();
    assert_ne!(reseeded, alone);
}

#[test]
fn errors_say_where_and_leave_the_sampler_usable() {
    let params = SamplingParams {
        repetition_penalty: 1.5,
        logit_bias: vec![(1, 1.0)],
        ..Default::default()
    };
    let good = [0.0, 1.0, 2.0];
    let history = History {
        prompt: &[0],
        generated: &[2],
    };
    let want = sampler(params.clone()).sample(&good, history, 3, 4);
    let mut sampler = sampler(params);

    let error = sampler
        .sample(&[0.0, f32::NAN, f32::NAN], history, 3, 4)
        .unwrap_err();
    assert!(
        matches!(
            error,
            SampleError::BadLogit {
                sequence: 3,
                position: 4,
                token: 1,
                ..
            }
        ),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("position 4") && text.contains("token 1 is NaN"),
        "{text}"
    );

    let error = sampler
        .sample(&[0.0, 0.0, f32::INFINITY], history, 0, 0)
        .unwrap_err();
    assert!(
        matches!(error, SampleError::BadLogit { token: 2, .. }),
        "{error}"
    );
    let error = sampler.sample(&[BAN; 3], history, 0, 0).unwrap_err();
    assert!(
        matches!(error, SampleError::NoCandidates { vocab: 3, .. }),
        "{error}"
    );
    let error = sampler.sample(&[], history, 0, 0).unwrap_err();
    assert!(
        matches!(error, SampleError::VocabSize { found: 0, .. }),
        "{error}"
    );
    let error = sampler.sample(&[0.0], History::EMPTY, 0, 0).unwrap_err();
    assert!(
        matches!(error, SampleError::BiasToken { token: 1, vocab: 1 }),
        "{error}"
    );
    let outside = History {
        prompt: &[1, 1],
        generated: &[0, 3],
    };
    let error = sampler.sample(&good, outside, 0, 0).unwrap_err();
    assert!(
        matches!(error, SampleError::HistoryToken { token: 3, vocab: 3 }),
        "{error}"
    );

    assert_eq!(sampler.sample(&good, history, 3, 4), want);
}

#[test]
fn banning_everything_and_overflowing_are_errors() {
    let all = SamplingParams {
        logit_bias: vec![(0, BAN), (1, BAN)],
        ..Default::default()
    };
    let error = sampler(all)
        .sample(&[0.0, 1.0], History::EMPTY, 0, 0)
        .unwrap_err();
    assert!(
        matches!(error, SampleError::NoCandidates { vocab: 2, .. }),
        "{error}"
    );
    let huge = SamplingParams {
        logit_bias: vec![(1, f32::MAX)],
        ..Default::default()
    };
    let error = sampler(huge)
        .sample(&[0.0, f32::MAX], History::EMPTY, 0, 8)
        .unwrap_err();
    assert!(
        matches!(
            error,
            SampleError::Overflow {
                token: 1,
                position: 8,
                ..
            }
        ),
        "{error}"
    );
    let bad = SamplingParams {
        min_p: -1.0,
        ..Default::default()
    };
    assert_eq!(Sampler::new(bad).unwrap_err().field, "min_p");
}

#[test]
fn chain_names_the_steps_in_use_in_order() {
    assert_eq!(
        sampler(SamplingParams::default()).chain(),
        "draw (philox4x32-10, seed 0)"
    );
    assert_eq!(sampler(SamplingParams::greedy()).chain(), "argmax");
    let all = SamplingParams {
        temperature: 0.8,
        top_k: 40,
        top_p: 0.95,
        min_p: 0.05,
        repetition_penalty: 1.1,
        presence_penalty: 0.5,
        frequency_penalty: 0.25,
        penalty_last_n: Some(64),
        logit_bias: vec![(3, 1.0)],
        seed: 7,
    };
    assert_eq!(
        sampler(all).chain(),
        "logit_bias (1 token) → repetition_penalty 1.1 (last 64) → frequency_penalty 0.25 → \
         presence_penalty 0.5 → temperature 0.8 → top_k 40 → top_p 0.95 → min_p 0.05 → \
         draw (philox4x32-10, seed 7)"
    );
}
