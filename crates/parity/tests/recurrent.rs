//! Recurrent state beside the caches, on a trained hybrid model: the same numbers
//! however a sequence is cut into steps, and the same bits after a fork, a rollback
//! and a rejected draft.

mod models;

use kernels as _;
use models::model;
use parity::model_gate::{
    Bounds, ORACLE, Script, Trace, compare_traces, f32_acts, forgets, text_ids,
};
use registry::Registry;
use runtime::{Forward, LoadOptions, Opened, Runner, RuntimeError, SeqId, Span, Want};

const TEXT: &str = "The `Iterator` trait has one required method, `next`, which returns an \
    `Option`. Every adapter such as `map`, `filter` and `zip` is lazy: nothing happens until a \
    consumer like `collect` or `for_each` asks for elements. let v: Vec<u32> = (0..10).collect();";

/// Most drafts that these tests take back.
const DRAFTS: usize = 5;

fn open() -> Opened {
    Opened::open(&model("ferris-moe-2.7m")).expect("the hybrid model")
}

fn load(opened: &Opened, backend: &str) -> Runner {
    let registry = Registry::collect().expect("registered kernels");
    let mut options = LoadOptions::new(backend);
    options.open.threads = Some(2);
    options.kv = Some("f32".into());
    options.acts = Some(f32_acts(opened));
    options.rows = Some(128);
    options.sequences = 3;
    options.drafts = DRAFTS;
    options.context = Some(160);
    options.all_logits = true;
    let loaded = opened.load(&registry, &options, &mut |_, _| {});
    loaded.expect("a model that fits").runner
}

fn ids(opened: &Opened) -> Vec<u32> {
    let mut ids = text_ids(opened, TEXT);
    ids.truncate(96);
    assert!(ids.len() > 64, "{} tokens", ids.len());
    ids
}

fn feed(runner: &mut Runner, seq: SeqId, tokens: &[u32], states: usize) -> Vec<u32> {
    let span = Span {
        states,
        ..Span::new(seq, tokens, tokens.len())
    };
    match runner.forward(&[span], Want::Logits).expect("a step") {
        Forward::Logits { rows, .. } => rows.iter().map(|x| x.to_bits()).collect(),
        _ => unreachable!("logits were asked for"),
    }
}

fn state(runner: &Runner, seq: SeqId) -> Vec<u8> {
    let state = runner.recurrent_state(seq).expect("alive");
    state.expect("a state behind the last token")
}

#[test]
fn decode_chunks_and_whole_prefill_agree() {
    let opened = open();
    assert!(forgets(&opened.graph));
    let stream = [ids(&opened)];
    let scripts = [
        Script::whole(&stream),
        Script::chunked(&stream, &[1]),
        Script::chunked(&stream, &[3, 17, 1, 40]),
    ];
    for backend in [ORACLE, "cpu_simd"] {
        let mut runner = load(&opened, backend);
        let [whole, rest @ ..] = &scripts;
        let whole = Trace::record(&mut runner, whole).expect("a trace");
        for script in rest {
            let cut = Trace::record(&mut runner, script).expect("a trace");
            let found = compare_traces(&whole, &cut).summary().expect("rows");
            println!("{backend} {}: {found}", script.name);
            let bounds = Bounds::of(&runner.program().acts());
            assert!(bounds.hold(&found), "{backend} {}: {found}", script.name);
        }
    }
}

#[test]
fn a_fork_goes_on_with_the_same_bits() {
    let opened = open();
    let ids = ids(&opened);
    for backend in [ORACLE, "cpu_simd"] {
        let mut runner = load(&opened, backend);
        let a = runner.create().unwrap();
        feed(&mut runner, a, &ids[..40], 1);
        let b = runner.fork(a).unwrap();
        assert_eq!(state(&runner, a), state(&runner, b));
        // The fork runs first, on other tokens as well, and must not disturb its
        // origin.
        let other: Vec<u32> = ids[50..60].to_vec();
        let c = runner.fork(a).unwrap();
        feed(&mut runner, c, &other, 1);
        let of_b = feed(&mut runner, b, &ids[40..52], 1);
        let of_a = feed(&mut runner, a, &ids[40..52], 1);
        assert_eq!(of_a, of_b, "{backend}");
        assert_eq!(state(&runner, a), state(&runner, b), "{backend}");
        assert_ne!(state(&runner, a), state(&runner, c), "{backend}");
    }
}

#[test]
fn rejected_drafts_leave_the_state_of_the_accepted_ones() {
    let opened = open();
    let ids = ids(&opened);
    for backend in [ORACLE, "cpu_simd"] {
        let mut runner = load(&opened, backend);
        let fresh = |runner: &mut Runner, upto: usize| {
            let seq = runner.create().unwrap();
            feed(runner, seq, &ids[..30], 1);
            feed(runner, seq, &ids[30..upto], 1);
            let found = (state(runner, seq), feed(runner, seq, &ids[60..61], 1));
            runner.free(seq).unwrap();
            found
        };
        // From two rows on both steps are of one bucket, and so of the same kernels.
        for accepted in 2..=DRAFTS {
            let seq = runner.create().unwrap();
            feed(&mut runner, seq, &ids[..30], 1);
            // One certain token and the drafts, all verified in one step.
            feed(&mut runner, seq, &ids[30..30 + DRAFTS + 1], DRAFTS + 1);
            runner.truncate(seq, 30 + accepted).unwrap();
            let found = (state(&runner, seq), feed(&mut runner, seq, &ids[60..61], 1));
            runner.free(seq).unwrap();
            let wanted = fresh(&mut runner, 30 + accepted);
            assert!(found == wanted, "{backend}, {accepted} accepted");
        }
        assert_eq!(runner.sequences().free_states(), 3 * (DRAFTS + 2));
    }
}

#[test]
fn a_whole_step_can_be_taken_back_and_no_more() {
    let opened = open();
    let ids = ids(&opened);
    let mut runner = load(&opened, ORACLE);
    let seq = runner.create().unwrap();
    feed(&mut runner, seq, &ids[..20], 1);
    let before = state(&runner, seq);
    let first = feed(&mut runner, seq, &ids[20..40], 1);
    let refused = runner.truncate(seq, 30);
    assert!(matches!(refused, Err(RuntimeError::NoState { to: 30, .. })));
    runner.truncate(seq, 20).unwrap();
    assert_eq!(state(&runner, seq), before);
    assert_eq!(feed(&mut runner, seq, &ids[20..40], 1), first);
    let refused = runner.truncate(seq, 10);
    assert!(matches!(refused, Err(RuntimeError::NoState { to: 10, .. })));
    runner.truncate(seq, 0).unwrap();
    assert_eq!(runner.recurrent_state(seq).unwrap(), None);
}
