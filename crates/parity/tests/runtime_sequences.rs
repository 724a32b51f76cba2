//! Sequences over paged caches, seen from outside: batches, forks, rollback,
//! windows, and errors that leave everything usable.

mod models;

use kernels as _;
use models::{model, name, random_models};
use parity::model_gate::{Golden, ORACLE, RING1_TOLERANCE, f32_acts, pseudo_random_ids};
use parity::stats;
use registry::{OpenOptions, Registry};
use runtime::{Forward, LoadOptions, Opened, Runner, RuntimeError, SeqId, Span, Want};
use sampling::Weigh;
use std::path::Path;
use std::sync::{Arc, OnceLock};

const BLOCK: usize = 32;

fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(|| Registry::collect().expect("registered kernels"))
}

struct Limits {
    rows: usize,
    sequences: usize,
    context: usize,
    all_logits: bool,
}

const USUAL: Limits = Limits {
    rows: 128,
    sequences: 4,
    context: 320,
    all_logits: true,
};

fn options(opened: &Opened, backend: &str, limits: &Limits) -> LoadOptions {
    let mut options = LoadOptions::new(backend);
    options.open.threads = Some(2);
    options.kv = Some("f32".into());
    options.acts = Some(f32_acts(opened));
    options.rows = Some(limits.rows);
    options.sequences = limits.sequences;
    options.context = Some(limits.context);
    options.all_logits = limits.all_logits;
    options
}

fn load(dir: &Path, backend: &str, limits: &Limits) -> Runner {
    let opened = Opened::open(dir).expect("a model");
    let options = options(&opened, backend, limits);
    let loaded = opened.load(registry(), &options, &mut |_, _| {});
    loaded
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .runner
}

fn plain() -> Runner {
    load(&model("llama-plain-f32"), ORACLE, &USUAL)
}

fn ids(runner: &Runner, n: usize, seed: u64) -> Vec<u32> {
    pseudo_random_ids(runner.vocab(), n, seed)
}

fn bits(forward: Forward<'_>) -> Vec<u32> {
    match forward {
        Forward::Logits { rows, .. } => rows.iter().map(|x| x.to_bits()).collect(),
        other => panic!("logits were asked for, not {other:?}"),
    }
}

/// One step with the logits of every row.
fn feed(runner: &mut Runner, parts: &[(SeqId, &[u32])]) -> Vec<u32> {
    let spans: Vec<Span<'_>> = parts
        .iter()
        .map(|&(seq, tokens)| Span {
            seq,
            tokens,
            outputs: tokens.len(),
            states: 1,
        })
        .collect();
    bits(runner.forward(&spans, Want::Logits).expect("a step"))
}

/// The logits of a token sequence on a sequence of its own, in chunks.
fn alone(runner: &mut Runner, tokens: &[u32], chunk: usize) -> Vec<u32> {
    let seq = runner.create().expect("a sequence");
    let chunks = tokens.chunks(chunk);
    let all = chunks.flat_map(|c| feed(runner, &[(seq, c)])).collect();
    runner.free(seq).expect("alive");
    all
}

#[test]
fn a_ragged_batch_gives_each_sequence_what_it_gets_alone() {
    for dir in random_models() {
        let mut runner = load(&dir, ORACLE, &USUAL);
        let lengths = [50, 1, 33, 7];
        let prompts: Vec<Vec<u32>> = lengths
            .iter()
            .enumerate()
            .map(|(i, n)| ids(&runner, *n, i as u64))
            .collect();
        let apart: Vec<u32> = prompts
            .iter()
            .flat_map(|p| alone(&mut runner, p, usize::MAX))
            .collect();
        let seqs = [(); 4].map(|()| runner.create().expect("a sequence"));
        let parts: Vec<_> = seqs
            .iter()
            .copied()
            .zip(prompts.iter().map(Vec::as_slice))
            .collect();
        assert_eq!(feed(&mut runner, &parts), apart, "{}", name(&dir));
    }
}

/// Other trees may use other kernels in another bucket; within one, the rows beside
/// a row make no difference.
#[test]
fn within_one_bucket_the_neighbours_make_no_difference() {
    for backend in [ORACLE, "cpu_simd"] {
        let mut runner = load(&model("qwen3-tied-bf16"), backend, &USUAL);
        for lengths in [[2, 5, 3, 6], [20, 17, 9, 18], [40, 3, 30, 55]] {
            let rows: usize = lengths.iter().sum();
            let bucket = |runner: &Runner, n: usize| runner.program().plan_for(n).map(|p| p.rows);
            let seqs = [(); 4].map(|()| runner.create().expect("a sequence"));
            let prompts: Vec<Vec<u32>> = lengths
                .iter()
                .map(|n| ids(&runner, *n, *n as u64))
                .collect();
            let parts: Vec<_> = seqs
                .iter()
                .copied()
                .zip(prompts.iter().map(Vec::as_slice))
                .collect();
            let together = feed(&mut runner, &parts);
            for s in seqs {
                runner.free(s).expect("alive");
            }
            let mut at = 0;
            for p in &prompts {
                let row = runner.vocab();
                let mine = &together[at * row..(at + p.len()) * row];
                at += p.len();
                if bucket(&runner, p.len()) == bucket(&runner, rows) {
                    assert_eq!(
                        alone(&mut runner, p, usize::MAX),
                        mine,
                        "{backend} {lengths:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_fork_and_its_parent_go_on_as_two_sequences() {
    // Inside a block, so that the first append copies it, and on its edge.
    for (fixture, at) in [
        ("llama-plain-f32", BLOCK + 9),
        ("llama-plain-f32", 2 * BLOCK),
        ("mistral-window-bf16", 3 * BLOCK + 5),
        ("qwen3-bias-mixed-bf16", 2 * BLOCK + 1),
    ] {
        let mut runner = load(&model(fixture), ORACLE, &USUAL);
        let stem = ids(&runner, at, 1);
        let (left, right) = (ids(&runner, 40, 2), ids(&runner, 40, 3));
        let whole = |tail: &[u32]| [stem.as_slice(), tail].concat();
        let expect: Vec<Vec<u32>> = [whole(&left), whole(&right)]
            .iter()
            .map(|t| {
                let all = alone(&mut runner, t, 50);
                all[at * runner.vocab()..].to_vec()
            })
            .collect();

        let a = runner.create().expect("a sequence");
        for chunk in stem.chunks(50) {
            feed(&mut runner, &[(a, chunk)]);
        }
        let b = runner.fork(a).expect("a fork");
        let (mut got_a, mut got_b) = (Vec::new(), Vec::new());
        let row = runner.vocab();
        for (l, r) in left.chunks(8).zip(right.chunks(8)) {
            let both = feed(&mut runner, &[(b, r), (a, l)]);
            got_b.extend_from_slice(&both[..r.len() * row]);
            got_a.extend_from_slice(&both[r.len() * row..]);
        }
        assert_eq!(got_a, expect[0], "{fixture}: the parent");
        assert_eq!(got_b, expect[1], "{fixture}: the fork");
        let total = runner.program().cache.pages();
        runner.free(a).expect("alive");
        runner.free(b).expect("alive");
        assert_eq!(runner.sequences().free_pages(), total, "{fixture}");
    }
}

#[test]
fn what_a_fork_writes_is_not_seen_by_its_parent() {
    let mut runner = plain();
    let stem = ids(&runner, BLOCK + 3, 4);
    let next = ids(&runner, 1, 5);
    let tokens = [stem.as_slice(), &next].concat();
    let expect = alone(&mut runner, &tokens, usize::MAX);
    let a = runner.create().expect("a sequence");
    feed(&mut runner, &[(a, &stem)]);
    for seed in 6..9 {
        let b = runner.fork(a).expect("a fork");
        let other = ids(&runner, 20, seed);
        feed(&mut runner, &[(b, &other)]);
        runner.free(b).expect("alive");
    }
    let row = runner.vocab();
    assert_eq!(feed(&mut runner, &[(a, &next)]), expect[stem.len() * row..]);
}

#[test]
fn rolling_back_and_going_on_gives_the_same_bits() {
    for dir in random_models() {
        let mut runner = load(&dir, ORACLE, &USUAL);
        let tokens = ids(&runner, 60, 7);
        let wrong = ids(&runner, 25, 8);
        let row = runner.vocab();
        let expect = alone(&mut runner, &tokens, usize::MAX);
        let seq = runner.create().expect("a sequence");
        feed(&mut runner, &[(seq, &tokens[..35])]);
        // A draft that turns out wrong, and is longer than what replaces it.
        feed(&mut runner, &[(seq, &wrong)]);
        runner
            .truncate(seq, 35)
            .expect("nothing behind the window was needed");
        assert_eq!(
            runner.sequences().tokens(seq).expect("alive"),
            &tokens[..35]
        );
        let rest = feed(&mut runner, &[(seq, &tokens[35..])]);
        assert_eq!(rest, expect[35 * row..], "{}", name(&dir));
    }
}

#[test]
fn a_window_frees_its_pages_and_still_matches_transformers() {
    let dir = model("mistral-window-bf16");
    let golden = Golden::open(&dir.join("golden.safetensors")).expect("golden");
    let prompt = golden.prompts.last().expect("prompts");
    let limits = Limits {
        rows: 16,
        sequences: 1,
        ..USUAL
    };
    let mut runner = load(&dir, ORACLE, &limits);
    let total = runner.program().cache.pages();
    let groups = runner.program().cache.groups.len();
    // Window 32 and chunks of 16 over blocks of 32: at most three blocks a group,
    // where 300 tokens would fill ten.
    assert!(
        total <= 3 * groups,
        "{total} pages planned for {groups} groups"
    );
    let seq = runner.create().expect("a sequence");
    let mut logits = Vec::new();
    for chunk in prompt.ids.chunks(16) {
        logits.extend(
            feed(&mut runner, &[(seq, chunk)])
                .into_iter()
                .map(f32::from_bits),
        );
        let used = total - runner.sequences().free_pages();
        assert!(used <= 3 * groups, "{used} pages for {groups} groups");
    }
    for (i, &position) in prompt.rows.iter().enumerate() {
        let row = &logits[position * prompt.vocab..(position + 1) * prompt.vocab];
        let off = stats::compare_row(prompt.row(i), row).max_abs;
        assert!(
            off <= RING1_TOLERANCE * prompt.sigma,
            "position {position}: {off}"
        );
    }
    // What the window has let go of cannot be had back, and nothing is lost by asking.
    let refused = runner.truncate(seq, 100);
    assert!(
        matches!(
            refused,
            Err(RuntimeError::BehindWindow { to: 100, len: 300 })
        ),
        "{refused:?}"
    );
    assert_eq!(runner.sequences().tokens(seq).expect("alive").len(), 300);
    feed(&mut runner, &[(seq, &prompt.ids[..3])]);
}

/// A step that was refused must not have happened.
fn refused(runner: &mut Runner, spans: &[Span<'_>], want: Want) -> RuntimeError {
    let before: Vec<usize> = spans
        .iter()
        .filter_map(|s| runner.sequences().tokens(s.seq).ok().map(<[u32]>::len))
        .collect();
    let free = runner.sequences().free_pages();
    let error = match runner.forward(spans, want) {
        Err(e) => e,
        Ok(_) => panic!("the step ran"),
    };
    let after: Vec<usize> = spans
        .iter()
        .filter_map(|s| runner.sequences().tokens(s.seq).ok().map(<[u32]>::len))
        .collect();
    assert_eq!(before, after, "{error}");
    assert_eq!(free, runner.sequences().free_pages(), "{error}");
    error
}

#[test]
fn steps_that_do_not_fit_are_refused_and_change_nothing() {
    let limits = Limits {
        rows: 48,
        sequences: 2,
        context: 64,
        all_logits: false,
    };
    let mut runner = load(&model("llama-plain-f32"), ORACLE, &limits);
    let (x, y) = (ids(&runner, 65, 1), ids(&runner, 40, 2));
    let (a, b) = (runner.create().expect("one"), runner.create().expect("two"));
    let last = |seq, tokens| Span {
        seq,
        tokens,
        outputs: 1,
        states: 1,
    };
    let third = runner.create();
    assert!(
        matches!(
            third,
            Err(RuntimeError::TooManySequences {
                wanted: 3,
                limit: 2
            })
        ),
        "{third:?}"
    );
    let expect = bits(
        runner
            .forward(&[last(a, &x[..20])], Want::Logits)
            .expect("a step"),
    );
    runner.truncate(a, 0).expect("alive");

    let large = |e: RuntimeError| assert!(matches!(e, RuntimeError::StepTooLarge { .. }), "{e}");
    large(refused(&mut runner, &[last(a, &x[..49])], Want::Logits));
    large(refused(
        &mut runner,
        &[last(a, &x[..20]), last(b, &y)],
        Want::Argmax,
    ));
    // One row a span can be asked for, not all.
    let all = Span {
        seq: a,
        tokens: &x[..20],
        outputs: 20,
        states: 1,
    };
    large(refused(&mut runner, &[all], Want::Logits));
    // More outputs than tokens, no tokens at all, one sequence twice.
    let too_many = Span {
        seq: a,
        tokens: &x[..1],
        outputs: 2,
        states: 1,
    };
    let twice = [last(a, &x[..2]), last(a, &x[2..4])];
    for spans in [&[too_many][..], &[], &twice] {
        let e = refused(&mut runner, spans, Want::Logits);
        assert!(matches!(e, RuntimeError::BadStep(_)), "{e}");
    }
    let unknown = [runner.vocab() as u32];
    let bad = refused(&mut runner, &[last(a, &unknown)], Want::Argmax);
    assert!(matches!(bad, RuntimeError::TokenRange { .. }), "{bad}");
    let gone = runner.fork(b);
    assert!(
        matches!(gone, Err(RuntimeError::TooManySequences { .. })),
        "{gone:?}"
    );

    // A context that is full.
    runner
        .forward(&[last(b, &y)], Want::Argmax)
        .expect("a step");
    let full = refused(
        &mut runner,
        &[last(a, &x[..3]), last(b, &x[..25])],
        Want::Logits,
    );
    assert!(
        matches!(
            full,
            RuntimeError::PromptTooLong {
                tokens: 65,
                context: 64
            }
        ),
        "{full}"
    );
    runner.free(b).expect("alive");
    let dead = refused(&mut runner, &[last(a, &x[..3]), last(b, &y)], Want::Logits);
    assert!(
        matches!(dead, RuntimeError::NoSequence(s) if s == b),
        "{dead}"
    );

    let again = runner
        .forward(&[last(a, &x[..20])], Want::Logits)
        .expect("a step");
    assert_eq!(bits(again), expect);
}

#[test]
fn an_exhausted_pool_refuses_the_step_and_recovers() {
    let opened = Opened::open(&model("llama-plain-f32")).expect("a model");
    let options = options(&opened, ORACLE, &USUAL);
    let backend = registry().backend(ORACLE).expect("the oracle");
    let device = backend.open_device(&OpenOptions::default()).expect("a CPU");
    let mut program = opened
        .plan(registry(), ORACLE, device.info(), &options)
        .expect("a plan");
    // Plans have room for every sequence in full; this one has not.
    program.cache.pools[0].pages = 5;
    let loaded = Runner::load(
        device,
        Arc::new(program),
        &opened.files.tensors,
        &mut |_, _| {},
    );
    let mut runner = loaded.expect("a runner");
    let x = ids(&runner, 100, 1);
    let expect = alone(&mut runner, &x[..40], usize::MAX);
    let (a, b) = (runner.create().expect("one"), runner.create().expect("two"));
    feed(&mut runner, &[(a, &x[..70])]);
    let spans = [
        Span {
            seq: a,
            tokens: &x[70..80],
            outputs: 1,
            states: 1,
        },
        Span {
            seq: b,
            tokens: &x[..70],
            outputs: 1,
            states: 1,
        },
    ];
    let e = refused(&mut runner, &spans, Want::Logits);
    assert!(matches!(e, RuntimeError::OutOfPages { pages: 5 }), "{e}");
    // A copy of a shared page needs a page too.
    let c = runner.fork(a).expect("a fork takes no page");
    feed(&mut runner, &[(b, &x[..64])]);
    let one = [Span {
        seq: c,
        tokens: &x[..1],
        outputs: 1,
        states: 1,
    }];
    let e = refused(&mut runner, &one, Want::Logits);
    assert!(matches!(e, RuntimeError::OutOfPages { .. }), "{e}");
    for seq in [a, b, c] {
        runner.free(seq).expect("alive");
    }
    assert_eq!(runner.sequences().free_pages(), 5);
    assert_eq!(alone(&mut runner, &x[..40], usize::MAX), expect);
}

#[test]
fn greedy_ids_are_the_argmax_of_the_logits() {
    let mut runner = load(&model("qwen2-tied-bf16"), ORACLE, &USUAL);
    let tokens = ids(&runner, 70, 9);
    let vocab = runner.vocab();
    let logits = alone(&mut runner, &tokens, usize::MAX);
    let rows: Vec<f32> = logits.into_iter().map(f32::from_bits).collect();
    let expect: Vec<u32> = rows
        .chunks_exact(vocab)
        .map(|row| stats::top2(row).0 as u32)
        .collect();
    let seq = runner.create().expect("a sequence");
    let span = Span {
        seq,
        tokens: &tokens,
        outputs: tokens.len(),
        states: 1,
    };
    match runner.forward(&[span], Want::Argmax).expect("a step") {
        Forward::Argmax(ids) => assert_eq!(ids, expect),
        other => panic!("ids were asked for, not {other:?}"),
    }
}

#[test]
fn the_largest_logits_are_those_of_the_row_and_little_else_runs_for_them() {
    for backend in [ORACLE, "cpu_simd"] {
        let mut runner = load(&model("qwen2-tied-bf16"), backend, &USUAL);
        let tokens = ids(&runner, 70, 9);
        let vocab = runner.vocab();
        let logits = alone(&mut runner, &tokens, usize::MAX);
        let rows: Vec<f32> = logits.into_iter().map(f32::from_bits).collect();
        let seq = runner.create().expect("a sequence");
        let span = Span::new(seq, &tokens, tokens.len());
        let (top, k) = match runner.forward(&[span], Want::TopK).expect("a step") {
            Forward::TopK { rows, k, totals } => {
                assert_eq!(totals, [0; 0], "nobody asked for them");
                (rows.to_vec(), k)
            }
            other => panic!("the largest were asked for, not {other:?}"),
        };
        assert_eq!((k, top.len()), (runner.largest(), tokens.len() * k));
        for (row, top) in rows.chunks_exact(vocab).zip(top.chunks_exact(k)) {
            let mut sorted: Vec<u32> = (0..vocab as u32).collect();
            sorted.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]));
            let want = sorted[..k]
                .iter()
                .map(|id| [*id, row[*id as usize].to_bits()]);
            assert_eq!(top, want.collect::<Vec<_>>(), "{backend}");
        }
        let commands = |want| runner.stats(tokens.len(), want).expect("recorded").commands;
        assert_eq!(
            commands(Want::TopK),
            commands(Want::Logits) + 1,
            "{backend}"
        );
        // With the sums of their weights, by temperatures of the first rows.
        let span = Span::new(seq, &tokens, tokens.len());
        runner.truncate(seq, 0).expect("the sequence");
        let inv_temps = [1.0, 0.5, 3.0];
        let forward = runner.forward_at(&[span], Want::TopKAndTotal, &inv_temps);
        let Forward::TopK { totals, .. } = forward.expect("a step") else {
            panic!("sums were asked for");
        };
        let totals = totals.to_vec();
        assert_eq!(totals.len(), 70);
        for (i, (total, row)) in totals.iter().zip(rows.chunks_exact(vocab)).enumerate() {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let t = inv_temps.get(i).copied().unwrap_or(1.0);
            let want = Weigh::with_inverse(max, t).total(row);
            assert_eq!(*total, want, "{backend}, row {i}");
        }
        // And any row after all.
        for row in [69, 0, 17, 0] {
            let late = runner.logits_row(row).expect("a row").to_vec();
            assert_eq!(late, rows[row * vocab..][..vocab], "{backend}, row {row}");
        }
        assert!(runner.logits_row(70).is_err(), "there are 70");
        let with_totals = runner.stats(70, Want::TopKAndTotal).expect("recorded");
        // One op and one copy.
        runner.truncate(seq, 0).expect("the sequence");
        runner.forward(&[span], Want::TopK).expect("a step");
        let without = runner.stats(70, Want::TopK).expect("recorded");
        assert_eq!(with_totals.commands, without.commands + 2, "{backend}");
    }
}
