//! Positions where a router's choice falls by rounding alone are found, and faults do
//! not pass for them.

use graph::OpKind;
use kernels as _;
use parity::model_gate::{
    Bounds, Fault, MOST_UNDECIDED, ORACLE, Script, Trace, VerifyOptions, acts_of, break_kernel,
    compare_traces, decided, f32_acts, fit, jumps, load_oracle, text_ids, undecided, verify,
};
use parity::stats::RowStats;
use registry::{Act, Registry};
use runtime::{LoadOptions, Opened};
use std::path::Path;

const TEXT: &str = parity::model_gate::VERIFY_TEXT;

struct Found {
    jumps: usize,
    undecided: usize,
    positions: usize,
    holds: bool,
}

/// The oracle in activations of `act` with `fault` in its kernels for `op` as a candidate.
fn judge(name: &str, act: Act, op: OpKind, fault: Fault) -> Found {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models");
    let opened = Opened::open(&fixtures.join(name)).expect("a fixture");
    let mut ids = text_ids(&opened, TEXT);
    ids.truncate(400.min(opened.model.context_length));
    let script = Script::chunked(&[ids], &[64, 1, 7]);
    let mut options = LoadOptions::new(ORACLE);
    fit(&mut options, std::iter::once(&script));
    options.acts = Some(acts_of(&opened, act, Act::F32));
    let registry = Registry::collect().expect("a registry");
    let (_, program) = opened.place(&registry, &options).expect("a plan");
    let broken = break_kernel(ORACLE, op, fault).expect("a kernel");
    let play = |registry: &Registry| {
        let mut oracle = load_oracle(&opened, registry, &program, program.acts()).expect("a model");
        Trace::record(&mut oracle, &script).expect("a trace")
    };
    let bounds = Bounds::default();
    let mut oracle = load_oracle(&opened, &registry, &program, program.acts()).expect("a model");
    let mut tell = |rows: &[RowStats]| {
        undecided(&opened, &program, &mut oracle, &script, rows, &bounds).expect("an answer")
    };
    let all = compare_traces(&play(&registry), &play(&broken));
    let rows = all.rows();
    let open = tell(rows);
    let left = decided(rows, &open).summary().expect("positions");
    // The same positions, but off by more than a choice between two experts.
    let off: Vec<RowStats> = (rows.iter().zip(&open).enumerate())
        .map(|(i, (row, open))| match (open, i % 2) {
            (false, _) => *row,
            (true, 0) => RowStats { kl: 50.0, ..*row },
            (true, _) => RowStats {
                kl: f64::INFINITY,
                max_abs: f64::INFINITY,
                ..*row
            },
        })
        .collect();
    if open.contains(&true) {
        let again = tell(&off);
        let passed = again.iter().zip(&open).any(|(again, open)| *again && *open);
        assert!(!passed, "a row that is far off passes for undecided");
    }
    let count = |of: &dyn Fn(usize) -> bool| (0..rows.len()).filter(|i| of(*i)).count();
    let found = (count(&|i| jumps(&rows[i], &bounds)), count(&|i| open[i]));
    println!(
        "{name} in {act}, {fault:?}: {found:?} of {}, {left}",
        rows.len()
    );
    Found {
        jumps: found.0,
        undecided: found.1,
        positions: rows.len(),
        holds: bounds.hold(&left),
    }
}

#[test]
fn a_choice_that_rounding_turns_is_undecided() {
    // Rounded activations fall to the other side by a last bit already.
    for (act, share) in [(Act::F32, 1e-4), (Act::Bf16, 1e-6)] {
        let (mut jumped, mut open) = (0, 0);
        for seed in 1..4 {
            let noise = Fault::Noise { share, seed };
            let found = judge("qwen3_moe-bf16", act, OpKind::RmsNorm, noise);
            assert!(found.holds);
            assert!(found.undecided as f64 <= found.positions as f64 * MOST_UNDECIDED);
            jumped += found.jumps;
            open += found.undecided;
        }
        assert!(jumped > 0, "no choice was turned: the test says nothing");
        assert!(open * 4 >= jumped * 3, "{open} of {jumped} are found");
    }
}

#[test]
fn a_wrong_kernel_does_not_pass_for_it() {
    let wrong = [
        (OpKind::ExpertLinear, Fault::Scale(1.1)),
        (OpKind::Attention, Fault::PositionBack),
    ];
    for act in [Act::F32, Act::Bf16] {
        for (op, fault) in wrong {
            let found = judge("qwen3_moe-bf16", act, op, fault);
            assert!(!found.holds, "{fault:?} in {act}");
        }
    }
}

/// What `engine verify` says of a tree whose norms are off by `share`.
fn verified(share: f32) -> (bool, String) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models");
    let opened = Opened::open(&fixtures.join("qwen3_moe-bf16")).expect("a fixture");
    let noise = Fault::Noise { share, seed: 1 };
    let broken = break_kernel("cpu_simd", OpKind::RmsNorm, noise).expect("a kernel");
    let mut options = LoadOptions::new("cpu_simd");
    options.acts = Some(f32_acts(&opened));
    let how = VerifyOptions {
        positions: 400,
        ..VerifyOptions::default()
    };
    let mut said = String::new();
    let mut say = |line: &str| said += &format!("{line}\n");
    let held = verify(&opened, &broken, &options, &how, &mut say).expect("a verdict");
    (held, said)
}

#[test]
fn verify_leaves_few_positions_out_and_no_more() {
    let (held, said) = verified(1e-5);
    println!("{said}");
    assert!(held, "{said}");
    let (held, said) = verified(0.02);
    println!("{said}");
    let many = said
        .lines()
        .any(|l| l.contains("undecided") && l.ends_with("FAIL"));
    assert!(!held && many, "{said}");
}

#[test]
fn a_model_without_a_router_has_none() {
    let noise = Fault::Noise {
        share: 0.02,
        seed: 5,
    };
    let found = judge("qwen3-tied-bf16", Act::F32, OpKind::RmsNorm, noise);
    assert!(found.jumps > 0, "noise that large moves every model");
    assert_eq!(found.undecided, 0);
}
