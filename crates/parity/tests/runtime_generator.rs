//! The generator: how answers end, and that neighbours do not change them.

mod models;

use formats::Tokenizer;
use kernels as _;
use models::ferris;
use parity::model_gate::{ORACLE, f32_acts};
use registry::Registry;
use runtime::{Finish, GenerateOptions, Generator, LoadOptions, Opened, Runner, RuntimeError};
use sampling::{HEAD, SamplingParams};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

fn opened() -> &'static Opened {
    static OPENED: OnceLock<Opened> = OnceLock::new();
    OPENED.get_or_init(|| Opened::open(&ferris()).expect("ferris-9m"))
}

fn tokenizer() -> Arc<Tokenizer> {
    static TOKENIZER: OnceLock<Arc<Tokenizer>> = OnceLock::new();
    let load = || Arc::new(Tokenizer::from_dir(&ferris()).expect("a tokenizer"));
    TOKENIZER.get_or_init(load).clone()
}

fn load(rows: usize, sequences: usize, context: usize) -> Runner {
    let registry = Registry::collect().expect("registered kernels");
    let mut options = LoadOptions::new(ORACLE);
    options.acts = Some(f32_acts(opened()));
    options.rows = Some(rows);
    options.sequences = sequences;
    options.context = Some(context);
    let loaded = opened().load(&registry, &options, &mut |_, _| {});
    loaded.expect("ferris-9m on the oracle").runner
}

fn prompt() -> Vec<u32> {
    let text = "In Rust, every value has a single owner. When the owner goes out of scope,";
    tokenizer().encode(text, false).expect("tokens")
}

fn greedy(max_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_tokens,
        sampling: SamplingParams::greedy(),
        ..GenerateOptions::default()
    }
}

#[derive(Debug, Default, PartialEq, Eq, Clone)]
struct Answer {
    tokens: Vec<u32>,
    text: String,
    finish: Option<Finish>,
}

fn run(generator: &mut Generator<'_>) -> BTreeMap<usize, Answer> {
    let mut answers: BTreeMap<usize, Answer> = BTreeMap::new();
    while !generator.is_idle() {
        for e in generator.step().expect("a step") {
            let a = answers.entry(e.request).or_default();
            assert_eq!(a.finish, None, "nothing follows the end");
            a.tokens.extend(e.token);
            a.text.push_str(&e.text);
            a.finish = e.finish;
        }
    }
    answers
}

fn answer(runner: &mut Runner, prompt: &[u32], options: GenerateOptions) -> Answer {
    let mut generator = Generator::new(runner, Some(tokenizer()));
    let id = generator.add(prompt, options).expect("a request");
    run(&mut generator).remove(&id).expect("an answer")
}

#[test]
fn max_tokens_ends_an_answer_and_frees_its_sequence() {
    let mut runner = load(64, 1, 128);
    let pages = runner.sequences().free_pages();
    let a = answer(&mut runner, &prompt(), greedy(12));
    assert_eq!((a.tokens.len(), a.finish), (12, Some(Finish::Length)));
    assert_eq!(a.text, tokenizer().decode(&a.tokens, true));
    assert_eq!(runner.sequences().free_pages(), pages);
    // The one sequence that the limits allow is there again.
    assert_eq!(answer(&mut runner, &prompt(), greedy(12)), a);
}

#[test]
fn a_stop_token_ends_the_answer_and_is_not_part_of_its_text() {
    let mut runner = load(64, 1, 128);
    let free = answer(&mut runner, &prompt(), greedy(16));
    let at = free
        .tokens
        .iter()
        .rposition(|t| !free.tokens[..8].contains(t));
    let at = at.expect("a token that the beginning does not hold");
    let stop = free.tokens[at];
    let first = free
        .tokens
        .iter()
        .position(|t| *t == stop)
        .expect("it is there");
    let mut options = greedy(16);
    options.stop_tokens = vec![stop];
    let a = answer(&mut runner, &prompt(), options);
    assert_eq!(a.finish, Some(Finish::StopToken(stop)));
    assert_eq!(a.tokens, free.tokens[..=first]);
    assert_eq!(a.text, tokenizer().decode(&free.tokens[..first], true));
}

#[test]
fn a_stop_string_that_straddles_tokens_is_cut_out() {
    let mut runner = load(64, 1, 128);
    let free = answer(&mut runner, &prompt(), greedy(16));
    // From the middle of one token's text into the next one's.
    let head = tokenizer().decode(&free.tokens[..5], true);
    let both = tokenizer().decode(&free.tokens[..7], true);
    let from = (0..head.len()).rev().find(|i| head.is_char_boundary(*i));
    let to = (head.len() + 1..=both.len()).find(|i| both.is_char_boundary(*i));
    let stop = &both[from.expect("text")..to.expect("text")];
    assert!(stop.chars().count() >= 2, "{stop:?}");
    let cut = free.text.find(stop).expect("the answer holds it");
    let mut options = greedy(16);
    options.stop_strings = vec!["never in the answer".into(), stop.into()];
    let a = answer(&mut runner, &prompt(), options);
    assert_eq!(a.finish, Some(Finish::StopString));
    assert_eq!(a.text, free.text[..cut]);
    assert!(a.tokens.len() <= 7, "{:?}", a.tokens);
}

#[test]
fn a_full_context_ends_the_answer() {
    let prompt = prompt();
    let context = prompt.len() + 6;
    let mut runner = load(64, 1, context);
    let a = answer(&mut runner, &prompt, greedy(100));
    assert_eq!((a.tokens.len(), a.finish), (6, Some(Finish::Context)));
    let longer: Vec<u32> = prompt.iter().cycle().take(context).copied().collect();
    let mut generator = Generator::new(&mut runner, None);
    let refused = generator.add(&longer, greedy(1));
    assert!(
        matches!(refused, Err(RuntimeError::PromptTooLong { tokens, context: c })
            if tokens == context && c == context),
        "{refused:?}"
    );
    let refused = generator.add(&[], greedy(1));
    assert!(
        matches!(refused, Err(RuntimeError::EmptyPrompt)),
        "{refused:?}"
    );
    let refused = generator.add(&[u32::MAX], greedy(1));
    assert!(
        matches!(refused, Err(RuntimeError::TokenRange { .. })),
        "{refused:?}"
    );
    // None of these took the only sequence.
    generator.add(&prompt, greedy(1)).expect("a request");
    assert_eq!(run(&mut generator).len(), 1);
}

#[test]
fn cancelling_ends_all_answers_with_what_they_have() {
    let mut runner = load(64, 2, 128);
    let pages = runner.sequences().free_pages();
    let free = answer(&mut runner, &prompt(), greedy(8));
    let mut generator = Generator::new(&mut runner, Some(tokenizer()));
    let flag = generator.cancel_flag();
    let mut shown = BTreeMap::<usize, String>::new();
    for _ in 0..2 {
        generator.add(&prompt(), greedy(100)).expect("a request");
    }
    for _ in 0..5 {
        for e in generator.step().expect("a step") {
            shown.entry(e.request).or_default().push_str(&e.text);
        }
    }
    flag.store(true, Ordering::Relaxed);
    let events = generator.step().expect("a step");
    assert_eq!(events.len(), 2);
    for e in events {
        assert_eq!((e.token, e.finish), (None, Some(Finish::Cancelled)));
        let text = format!("{}{}", shown[&e.request], e.text);
        assert!(!text.is_empty() && free.text.starts_with(&text), "{text:?}");
    }
    assert!(generator.is_idle());
    flag.store(false, Ordering::Relaxed);
    let id = generator.add(&prompt(), greedy(8)).expect("a request");
    assert_eq!(run(&mut generator)[&id], free);
    drop(generator);
    assert_eq!(runner.sequences().free_pages(), pages);
}

#[test]
fn dropping_a_generator_frees_what_it_was_doing() {
    let mut runner = load(64, 1, 128);
    let pages = runner.sequences().free_pages();
    let mut generator = Generator::new(&mut runner, None);
    generator.add(&prompt(), greedy(100)).expect("a request");
    generator.step().expect("a step");
    drop(generator);
    assert_eq!(runner.sequences().free_pages(), pages);
}

fn sampled(seed: u64, sequence: u64, max_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_tokens,
        sampling: SamplingParams {
            temperature: 1.1,
            top_k: 0,
            top_p: 0.97,
            min_p: 0.0,
            repetition_penalty: 1.1,
            seed,
            ..SamplingParams::greedy()
        },
        sequence,
        ..GenerateOptions::default()
    }
}

#[test]
fn a_sampled_answer_is_the_same_alone_and_beside_others() {
    // Chunks of 9 tokens: prompts and answers share steps in changing company.
    let mut runner = load(9, 4, 160);
    let prompts: Vec<Vec<u32>> = [5, 23, 9, 14]
        .iter()
        .map(|n| prompt().into_iter().cycle().skip(*n).take(*n).collect())
        .collect();
    let options: Vec<GenerateOptions> = (0..4).map(|i| sampled(7, i, 12 + i as usize)).collect();
    let alone: Vec<Answer> = prompts
        .iter()
        .zip(&options)
        .map(|(p, o)| answer(&mut runner, p, o.clone()))
        .collect();
    let mut generator = Generator::new(&mut runner, Some(tokenizer()));
    for (p, o) in prompts.iter().zip(&options) {
        generator.add(p, o.clone()).expect("a request");
    }
    let together: Vec<Answer> = run(&mut generator).into_values().collect();
    assert_eq!(together, alone);
    drop(generator);
    // Greedy neighbours take another path to their tokens and change nothing either.
    let plain = answer(&mut runner, &prompts[0], greedy(12));
    let mut generator = Generator::new(&mut runner, Some(tokenizer()));
    generator.add(&prompts[1], options[1].clone()).expect("one");
    generator.add(&prompts[0], greedy(12)).expect("two");
    let mixed: Vec<Answer> = run(&mut generator).into_values().collect();
    assert_eq!(mixed, [alone[1].clone(), plain]);
    drop(generator);
    // Another seed, and another sequence of the same seed, are other answers.
    let seed = answer(&mut runner, &prompts[1], sampled(8, 1, 13));
    let sequence = answer(&mut runner, &prompts[1], sampled(7, 2, 13));
    assert!(seed != alone[1] && sequence != alone[1] && seed != sequence);
}

#[test]
fn a_kept_sequence_runs_only_what_is_new() {
    let mut runner = load(64, 2, 256);
    let first = prompt();
    let seq = runner.create().expect("a sequence");
    let mut generator = Generator::new(&mut runner, Some(tokenizer()));
    let id = generator
        .add_to(seq, &first, greedy(10))
        .expect("a request");
    let answered = run(&mut generator).remove(&id).expect("an answer");
    assert_eq!(generator.prefill.0, first.len());

    // The conversation goes on: the last token of the answer was never fed.
    let more = tokenizer()
        .encode(" However, a borrow", false)
        .expect("tokens");
    let second = [first.as_slice(), &answered.tokens, &more].concat();
    let before = generator.prefill.0;
    let id = generator
        .add_to(seq, &second, greedy(10))
        .expect("a request");
    let kept = run(&mut generator).remove(&id).expect("an answer");
    assert_eq!(generator.prefill.0 - before, 1 + more.len());

    // The same prompt again: only its last token, for its logits.
    let before = generator.prefill.0;
    let id = generator
        .add_to(seq, &second, greedy(10))
        .expect("a request");
    assert_eq!(run(&mut generator)[&id], kept);
    assert!(
        generator.prefill.0 - before <= 1,
        "{}",
        generator.prefill.0 - before
    );

    // A prompt that parts ways earlier goes back to where it does.
    let parted = [&second[..first.len() - 4], &more].concat();
    let before = generator.prefill.0;
    let id = generator
        .add_to(seq, &parted, greedy(10))
        .expect("a request");
    let back = run(&mut generator).remove(&id).expect("an answer");
    assert_eq!(generator.prefill.0 - before, more.len());
    drop(generator);
    // Whatever was found in the cache, the answers are those of a fresh one.
    assert_eq!(answer(&mut runner, &second, greedy(10)), kept);
    assert_eq!(answer(&mut runner, &parted, greedy(10)), back);
    runner
        .free(seq)
        .expect("a kept sequence outlives its requests");
}

#[test]
fn a_prompt_longer_than_a_step_is_cut_into_chunks() {
    let long: Vec<u32> = prompt().into_iter().cycle().take(75).collect();
    let whole = answer(&mut load(128, 1, 128), &long, greedy(8));
    for rows in [1, 16, 33] {
        assert_eq!(
            answer(&mut load(rows, 1, 128), &long, greedy(8)),
            whole,
            "{rows}"
        );
    }
}

#[test]
fn a_request_that_cannot_draw_ends_alone() {
    let vocab = 8192;
    let mut runner = load(64, 2, 128);
    let alone = answer(&mut runner, &prompt(), greedy(8));
    let pages = runner.sequences().free_pages();
    let mut generator = Generator::new(&mut runner, Some(tokenizer()));
    let mut banned = greedy(8);
    banned.sampling.logit_bias = (0..vocab).map(|id| (id, f32::NEG_INFINITY)).collect();
    let bad = generator.add(&prompt(), banned).expect("a request");
    let good = generator.add(&prompt(), greedy(8)).expect("a request");
    let mut error = None;
    let mut tokens = Vec::new();
    while !generator.is_idle() {
        for e in generator.step().expect("the step itself succeeds") {
            if e.request == bad {
                assert_eq!(e.finish, Some(Finish::Failed));
                error = e.error;
            } else {
                assert_eq!(e.request, good);
                tokens.extend(e.token);
            }
        }
    }
    assert!(matches!(
        error,
        Some(sampling::SampleError::NoCandidates { .. })
    ));
    assert_eq!(tokens, alone.tokens);
    drop(generator);
    assert_eq!(runner.sequences().free_pages(), pages);

    let mut generator = Generator::new(&mut runner, None);
    let mut outside = greedy(1);
    outside.sampling.logit_bias = vec![(vocab, 1.0)];
    assert!(generator.add(&prompt(), outside).is_err(), "no such token");
}

#[test]
fn what_reads_a_rows_head_draws_as_what_reads_all() {
    let base = SamplingParams::default;
    let all = [
        SamplingParams {
            temperature: 1.3,
            top_k: 40,
            top_p: 0.9,
            ..base()
        },
        base(),
        SamplingParams {
            temperature: 0.8,
            top_p: 0.95,
            ..base()
        },
        // Flat: mostly from the tail, whose rows are read later.
        SamplingParams {
            temperature: 4.0,
            ..base()
        },
        SamplingParams {
            temperature: 4.0,
            top_p: 0.9,
            ..base()
        },
        SamplingParams {
            min_p: 0.05,
            ..base()
        },
        SamplingParams {
            repetition_penalty: 1.2,
            top_k: 40,
            ..base()
        },
        SamplingParams {
            frequency_penalty: 0.7,
            ..SamplingParams::greedy()
        },
        SamplingParams::greedy(),
        // Whole rows only.
        SamplingParams {
            presence_penalty: -0.5,
            ..base()
        },
    ];
    let mut runner = load(64, all.len(), 128);
    assert_eq!(runner.largest(), HEAD);
    let options = |sampling: &SamplingParams| GenerateOptions {
        max_tokens: 24,
        sampling: SamplingParams {
            seed: 5,
            ..sampling.clone()
        },
        ..GenerateOptions::default()
    };
    let mut alone = Vec::new();
    for sampling in &all {
        let mut whole = options(sampling);
        // What can raise a logit asks for whole rows; this changes none.
        whole.sampling.logit_bias = vec![(0, f32::MIN_POSITIVE)];
        let whole = answer(&mut runner, &prompt(), whole);
        let head = answer(&mut runner, &prompt(), options(sampling));
        assert_eq!(head, whole, "{sampling:?}");
        alone.push(head);
    }
    for (i, a) in alone.iter().enumerate() {
        assert!(!alone[..i].contains(a), "{:?} changes nothing", all[i]);
    }
    // Beside each other, each gets what it asks for and no more.
    let mut generator = Generator::new(&mut runner, Some(tokenizer()));
    let p = prompt();
    let add = |s: &SamplingParams| generator.add(&p, options(s)).expect("a request");
    let ids: Vec<usize> = all.iter().map(add).collect();
    let answers = run(&mut generator);
    for (id, alone) in ids.iter().zip(&alone) {
        assert_eq!(answers[id], *alone, "{:?}", all[*id]);
    }
}
