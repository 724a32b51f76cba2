//! Drawing from a row's head gives what drawing from the row does, or says that the head
//! is not enough.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use sampling::{HEAD, Head, History, Reads, SampleError, Sampler, SamplingParams, Weigh, inverse};

/// The largest of a row as a device gives them: descending, of equals the lowest id.
fn largest(row: &[f32]) -> Vec<[u32; 2]> {
    let mut all: Vec<(u32, f32)> = (0..).zip(row.iter().copied()).collect();
    let nan_first = |v: f32| if v.is_nan() { f32::INFINITY } else { v + 0.0 };
    all.sort_by(|a, b| {
        nan_first(b.1)
            .total_cmp(&nan_first(a.1))
            .then(a.0.cmp(&b.0))
    });
    all.truncate(HEAD);
    let bits = |(id, v): (u32, f32)| [id, (v + 0.0).to_bits()];
    all.into_iter().map(bits).collect()
}

/// The draw that a device's head allows, which must be the row's; whether there was one.
fn agree(params: &SamplingParams, row: &[f32], history: History<'_>, position: u64) -> bool {
    let mut sampler = Sampler::new(params.clone()).unwrap();
    let reads = sampler.reads(row.len());
    if reads == Reads::Row {
        return false;
    }
    let top = largest(row);
    let max = f32::from_bits(top[0][1]);
    let weigh = Weigh::with_inverse(max, inverse(params.temperature));
    let head = Head {
        largest: &top,
        vocab: row.len(),
        total: (reads == Reads::HeadAndTotal).then(|| weigh.total(row)),
    };
    let drawn = sampler.sample_head(head, history, 3, position).unwrap();
    let whole = sampler.sample(row, history, 3, position);
    if let Some(token) = drawn {
        assert_eq!(token, whole.unwrap().token, "{params:?}");
    }
    drawn.is_some()
}

/// Few distinct values, so that ties are common.
fn rows() -> impl Strategy<Value = Vec<f32>> {
    let value = prop_oneof![
        8 => (-6i32..6).prop_map(|v| v as f32 * 0.5),
        6 => -8.0f32..8.0,
        1 => Just(-0.0f32),
        1 => Just(f32::NEG_INFINITY),
    ];
    // Some rows fall off so steeply that nothing outside their head weighs anything.
    let steep = prop_oneof![3 => Just(0.0f32), 1 => 0.1f32..0.8];
    (proptest::collection::vec(value, HEAD + 1..400), steep).prop_map(|(row, steep)| {
        let fall = |(i, v): (usize, f32)| v - steep * ((i * 37) % 401) as f32;
        row.into_iter().enumerate().map(fall).collect()
    })
}

fn params() -> impl Strategy<Value = SamplingParams> {
    let filters = (
        prop_oneof![1 => Just(0.0f32), 6 => 0.1f32..3.0],
        prop_oneof![2 => Just(0u32), 2 => 1..=HEAD as u32, 1 => 60u32..500],
        prop_oneof![Just(1.0f32), 0.0f32..1.0],
        // Down to where several f32 are one number of units.
        prop_oneof![2 => Just(0.0f32), 2 => 0.0f32..0.5, 1 => 1e-12f32..1e-5, 1 => 1e-12f32..1e-10],
    );
    let changes = (
        prop_oneof![3 => Just(1.0f32), 1 => 1.0f32..1.5],
        prop_oneof![3 => Just(0.0f32), 1 => 0.0f32..2.0],
        prop_oneof![3 => Just(0.0f32), 1 => 0.0f32..2.0],
        prop_oneof![
            3 => Just(vec![]),
            1 => Just(vec![(3, -1.0), (40, f32::NEG_INFINITY), (7, 0.0)])
        ],
    );
    (filters, changes, any::<u64>()).prop_map(|(f, c, seed)| SamplingParams {
        temperature: f.0,
        top_k: f.1,
        top_p: f.2,
        min_p: f.3,
        repetition_penalty: c.0,
        presence_penalty: c.1,
        frequency_penalty: c.2,
        logit_bias: c.3,
        seed,
        ..SamplingParams::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        rng_seed: RngSeed::Fixed(3),
        failure_persistence: None,
        cases: 500,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_same_token_is_drawn(
        row in rows(),
        params in params(),
        prompt in proptest::collection::vec(0u32..HEAD as u32, 0..30),
        generated in proptest::collection::vec(0u32..HEAD as u32, 0..30),
    ) {
        prop_assume!(row.iter().filter(|v| **v > f32::NEG_INFINITY).count() > 1);
        let history = History { prompt: &prompt, generated: &generated };
        for position in 0..10 {
            agree(&params, &row, history, position);
        }
    }
}

/// Zipf-like, as language is.
fn zipf(vocab: usize) -> Vec<f32> {
    let rank = |i: usize| (i * 7919 % vocab + 1) as f32;
    (0..vocab).map(|i| 10.0 - 1.4 * rank(i).ln()).collect()
}

#[test]
fn min_p_is_told_in_the_units_of_the_sums() {
    // e^-12 is less than this as f32, but not in units of 2^-40.
    let params = SamplingParams {
        min_p: 6.144_213e-6,
        ..SamplingParams::default()
    };
    let mut row = vec![-1000.0; 200];
    row[0] = 0.0;
    row[1..63].fill(-12.0);
    let weight = Weigh::new(0.0, 1.0).weight(-12.0);
    assert!(weight < params.min_p, "{weight:e}");
    let kept = Sampler::new(params.clone()).unwrap();
    let kept = kept.clone().distribution(&row, History::EMPTY).unwrap();
    assert_eq!(kept.len(), 63);
    assert!((0..20_000).all(|position| agree(&params, &row, History::EMPTY, position)));
}

#[test]
fn a_head_is_enough_nearly_always() {
    let row = zipf(5_003);
    let base = SamplingParams::default;
    let history: Vec<u32> = (0..500).map(|i| i * 53 % 5_003).collect();
    let history = History::split(&history, 100);
    let share = |params: SamplingParams| {
        let drawn = (0..200).filter(|i| agree(&params, &row, history, *i));
        drawn.count() as f64 / 200.0
    };
    let cases = [
        (1.0, SamplingParams::greedy()),
        (
            1.0,
            SamplingParams {
                top_k: 40,
                ..base()
            },
        ),
        (
            1.0,
            SamplingParams {
                min_p: 0.05,
                ..base()
            },
        ),
        (
            1.0,
            SamplingParams {
                top_p: 0.8,
                ..base()
            },
        ),
        (
            1.0,
            SamplingParams {
                top_p: 0.95,
                temperature: 0.6,
                ..base()
            },
        ),
        (
            1.0,
            SamplingParams {
                presence_penalty: 1.0,
                top_k: 40,
                ..base()
            },
        ),
        (
            1.0,
            SamplingParams {
                repetition_penalty: 1.1,
                min_p: 0.1,
                ..base()
            },
        ),
        (
            1.0,
            SamplingParams {
                frequency_penalty: 0.5,
                ..SamplingParams::greedy()
            },
        ),
        // Its own tail.
        (0.8, base()),
        // Flat: a nucleus of thousands.
        (
            0.0,
            SamplingParams {
                top_p: 0.95,
                temperature: 3.0,
                ..base()
            },
        ),
    ];
    for (least, params) in cases {
        let found = share(params.clone());
        let exact = [0.0, 1.0].contains(&least);
        let holds = if exact {
            found == least
        } else {
            (least..1.0).contains(&found)
        };
        assert!(holds, "{found}: {params:?}");
    }
}

#[test]
fn what_reads_more_says_so() {
    let reads = |params: SamplingParams| Sampler::new(params).unwrap().reads(1000);
    let base = SamplingParams::default;
    let top_k = |top_k| SamplingParams { top_k, ..base() };
    assert_eq!(reads(SamplingParams::greedy()), Reads::First);
    assert_eq!(reads(top_k(64)), Reads::Head);
    assert_eq!(reads(top_k(65)), Reads::Row);
    assert_eq!(reads(top_k(1000)), Reads::HeadAndTotal);
    let small = Sampler::new(top_k(5)).unwrap();
    assert_eq!(small.reads(HEAD), Reads::Row);
    assert_eq!(reads(base()), Reads::HeadAndTotal);
    assert_eq!(
        reads(SamplingParams {
            top_p: 0.9,
            ..base()
        }),
        Reads::HeadAndTotal
    );
    assert_eq!(
        reads(SamplingParams {
            min_p: 0.1,
            ..base()
        }),
        Reads::Head
    );
    let lowers = [
        SamplingParams {
            repetition_penalty: 1.1,
            ..base()
        },
        SamplingParams {
            presence_penalty: 0.5,
            ..base()
        },
        SamplingParams {
            frequency_penalty: 0.5,
            ..base()
        },
        SamplingParams {
            logit_bias: vec![(3, -1.0)],
            ..base()
        },
    ];
    for lower in lowers {
        assert_eq!(
            reads(SamplingParams {
                top_k: 40,
                ..lower.clone()
            }),
            Reads::Head
        );
        assert_eq!(
            reads(SamplingParams {
                temperature: 0.0,
                ..lower.clone()
            }),
            Reads::Head
        );
        assert_eq!(
            reads(SamplingParams {
                min_p: 0.1,
                ..lower.clone()
            }),
            Reads::Head
        );
        assert_eq!(
            reads(SamplingParams {
                top_p: 0.9,
                ..lower
            }),
            Reads::Row
        );
    }
    let raises = [
        SamplingParams {
            repetition_penalty: 0.9,
            ..top_k(40)
        },
        SamplingParams {
            presence_penalty: -0.5,
            ..top_k(40)
        },
        SamplingParams {
            frequency_penalty: -0.5,
            ..top_k(40)
        },
        SamplingParams {
            logit_bias: vec![(3, 1.0)],
            ..SamplingParams::greedy()
        },
    ];
    for raise in raises {
        assert_eq!(reads(raise), Reads::Row);
    }
}

#[test]
fn rows_that_are_no_distribution_are_refused_as_whole_rows_are() {
    let params = SamplingParams {
        top_k: 5,
        ..SamplingParams::default()
    };
    let mut sampler = Sampler::new(params).unwrap();
    let mut row = vec![0.5; 100];
    row[7] = f32::NAN;
    let mut draw = |row: &[f32]| {
        let head = Head {
            largest: &largest(row),
            vocab: row.len(),
            total: None,
        };
        sampler.sample_head(head, History::EMPTY, 1, 2)
    };
    let bad = |e: &SampleError| {
        matches!(
            e,
            SampleError::BadLogit {
                token: 7,
                sequence: 1,
                position: 2,
                ..
            }
        )
    };
    assert!(draw(&row).is_err_and(|e| bad(&e)));
    row[7] = f32::INFINITY;
    assert!(draw(&row).is_err_and(|e| bad(&e)));
    let nothing = draw(&[f32::NEG_INFINITY; 80]);
    assert!(matches!(
        nothing,
        Err(SampleError::NoCandidates { vocab: 80, .. })
    ));
    assert!(matches!(
        draw(&[]),
        Err(SampleError::VocabSize { found: 0, .. })
    ));
}

#[test]
fn tokens_outside_the_vocabulary_are_refused_as_of_whole_rows() {
    let params = SamplingParams {
        presence_penalty: 0.5,
        top_k: 5,
        ..SamplingParams::default()
    };
    let mut sampler = Sampler::new(params).unwrap();
    let row = zipf(100);
    let head = Head {
        largest: &largest(&row),
        vocab: 100,
        total: None,
    };
    let history = History::split(&[3, 100], 0);
    let refused = sampler.sample_head(head, history, 0, 0);
    assert!(matches!(
        refused,
        Err(SampleError::HistoryToken {
            token: 100,
            vocab: 100
        })
    ));
    // And leaves nothing behind that a next draw would see.
    let history = History::split(&[3, 4], 0);
    assert_eq!(
        sampler.sample_head(head, history, 0, 0).unwrap(),
        Some(sampler.sample(&row, history, 0, 0).unwrap().token)
    );
}
