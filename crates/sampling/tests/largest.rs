//! Drawing from a row's largest logits gives what drawing from the row does.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use sampling::{History, SampleError, Sampler, SamplingParams};

const KEPT: usize = 64;

/// The largest of a row as a device gives them: descending, of equals the lowest id.
fn largest(row: &[f32]) -> Vec<(u32, f32)> {
    let mut all: Vec<(u32, f32)> = (0..).zip(row.iter().copied()).collect();
    let nan_first = |v: f32| if v.is_nan() { f32::INFINITY } else { v + 0.0 };
    all.sort_by(|a, b| {
        nan_first(b.1)
            .total_cmp(&nan_first(a.1))
            .then(a.0.cmp(&b.0))
    });
    all.truncate(KEPT);
    all
}

/// Few distinct values, so that ties are common.
fn rows() -> impl Strategy<Value = Vec<f32>> {
    let value = prop_oneof![
        8 => (-6i32..6).prop_map(|v| v as f32 * 0.5),
        6 => -8.0f32..8.0,
        1 => Just(-0.0f32),
        1 => Just(f32::NEG_INFINITY),
    ];
    proptest::collection::vec(value, KEPT + 1..400)
}

proptest! {
    #![proptest_config(ProptestConfig {
        rng_seed: RngSeed::Fixed(3),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_same_token_is_drawn(
        row in rows(),
        temperature in prop_oneof![1 => Just(0.0f32), 6 => 0.1f32..3.0],
        top_k in 1u32..=KEPT as u32,
        top_p in prop_oneof![Just(1.0f32), 0.0f32..1.0],
        min_p in prop_oneof![Just(0.0f32), 0.0f32..0.5],
        seed in any::<u64>(),
    ) {
        prop_assume!(row.iter().any(|v| *v > f32::NEG_INFINITY));
        let params = SamplingParams { temperature, top_k, top_p, min_p, seed, ..SamplingParams::default() };
        let mut sampler = Sampler::new(params).unwrap();
        prop_assert!(sampler.reads_at_most(KEPT));
        let top = largest(&row);
        for position in 0..20 {
            let whole = sampler.sample(&row, History::EMPTY, 3, position).unwrap().token;
            let part = sampler.sample_largest(top.iter().copied(), row.len(), 3, position).unwrap();
            prop_assert_eq!(part, whole);
        }
    }
}

#[test]
fn what_reads_more_says_so() {
    let reads = |params: SamplingParams| Sampler::new(params).unwrap().reads_at_most(KEPT);
    let top_k = |top_k| SamplingParams {
        top_k,
        ..SamplingParams::default()
    };
    assert!(reads(top_k(64)) && !reads(top_k(65)) && !reads(top_k(0)));
    assert!(reads(SamplingParams::greedy()));
    assert!(!reads(SamplingParams {
        logit_bias: vec![(3, 1.0)],
        ..SamplingParams::greedy()
    }));
    for changed in [
        SamplingParams {
            repetition_penalty: 1.1,
            ..top_k(40)
        },
        SamplingParams {
            presence_penalty: 0.5,
            ..top_k(40)
        },
        SamplingParams {
            frequency_penalty: 0.5,
            ..top_k(40)
        },
    ] {
        assert!(!reads(changed));
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
    let mut draw = |row: &[f32]| sampler.sample_largest(largest(row).into_iter(), row.len(), 1, 2);
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
