//! Ring 1: the oracle against the logits of Hugging Face transformers.

mod models;

use graph::{Activation, OpKind};
use kernels as _;
use models::{ferris, fixtures, model, name, random_models};
use parity::model_gate::{
    Fault, Feed, Golden, ORACLE, RING1_TOLERANCE, Ring1Report, Script, Trace, acts_of,
    break_kernel, f32_acts, fit, ring1,
};
use parity::stats;
use registry::Registry;
use runtime::{GenerateOptions, Generator, LoadOptions, Opened, Runner};
use std::collections::BTreeMap;
use std::path::Path;

const FEEDS: [Feed; 4] = [
    Feed::Whole,
    Feed::Chunks(64),
    Feed::OneByOne,
    Feed::Together(23),
];

/// How many random models each family has at least.
const FAMILIES: &[(usize, &[&str])] = &[
    (3, &["llama", "mistral", "qwen2", "qwen3"]),
    (
        2,
        &["deepseek_v3", "gemma3_text", "gpt_oss", "lfm2", "phi3"],
    ),
    (
        1,
        &[
            "gemma2",
            "glm4",
            "granite",
            "mixtral",
            "olmo2",
            "qwen3_5_moe_text",
            "qwen3_5_text",
            "qwen3_moe",
            "qwen3_next",
            "smollm3",
        ],
    ),
];

fn registry() -> Registry {
    Registry::collect().expect("registered kernels")
}

fn check(dir: &Path, registry: &Registry, feeds: &[Feed]) -> Ring1Report {
    check_on(ORACLE, dir, registry, feeds)
}

fn check_on(backend: &str, dir: &Path, registry: &Registry, feeds: &[Feed]) -> Ring1Report {
    let golden = dir.join("golden.safetensors");
    ring1(dir, &golden, registry, backend, feeds)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
}

#[test]
fn every_random_model_matches_transformers() {
    let registry = registry();
    let mut families: BTreeMap<&str, usize> = BTreeMap::new();
    let mut failed = Vec::new();
    for dir in random_models() {
        let report = check(&dir, &registry, &FEEDS);
        *families.entry(report.family).or_default() += 1;
        println!("{:28} {:6.3} of the tolerance", name(&dir), report.worst());
        assert_eq!(report.prompts.len(), 3 * FEEDS.len(), "{}", name(&dir));
        for p in report.prompts.iter().filter(|p| !p.passed()) {
            failed.push(format!("{}: {p:?}", name(&dir)));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    // A family that lost its models would otherwise pass unseen.
    for (wanted, names) in FAMILIES {
        for family in *names {
            let found = families.get(family).copied().unwrap_or(0);
            assert!(found >= *wanted, "{family}: {found} models");
        }
    }
}

/// A fast tree has its own gate, the oracle; where it computes in f32 it keeps to
/// this one too.
#[test]
fn cpu_simd_in_f32_matches_transformers_as_well() {
    let registry = registry();
    for dir in random_models() {
        let report = check_on("cpu_simd", &dir, &registry, &FEEDS);
        assert!(report.passed(), "{}: {report:?}", name(&dir));
    }
}

fn load_ferris(rows: usize, context: usize, all_logits: bool) -> Runner {
    let opened = Opened::open(&ferris()).expect("ferris-9m");
    let mut options = LoadOptions::new(ORACLE);
    options.kv = Some("f32".into());
    options.acts = Some(f32_acts(&opened));
    options.rows = Some(rows);
    options.context = Some(context);
    options.all_logits = all_logits;
    let loaded = opened.load(&registry(), &options, &mut |_, _| {});
    loaded.expect("ferris-9m on the oracle").runner
}

#[test]
fn the_trained_model_matches_transformers() {
    let golden = fixtures().join("golden/ferris-9m.safetensors");
    let report = ring1(
        &ferris(),
        &golden,
        &registry(),
        ORACLE,
        &[Feed::Whole, Feed::Chunks(64)],
    );
    let report = report.expect("ferris-9m on the oracle");
    println!("ferris-9m {:6.3} of the tolerance", report.worst());
    assert_eq!(report.prompts.len(), 2);
    assert!(report.passed(), "{report:?}");
}

#[test]
fn the_trained_model_answers_with_the_same_tokens() {
    let golden = Golden::open(&fixtures().join("golden/ferris-9m.safetensors")).expect("golden");
    let mut runner = load_ferris(128, 256, false);
    for k in 0..2 {
        let prompt = golden.ids(&format!("prompt_ids_{k}")).expect("prompt");
        let want = golden.ids(&format!("greedy_ids_{k}")).expect("tokens");
        assert_eq!(want.len(), 64);
        let options = GenerateOptions {
            max_tokens: want.len(),
            sampling: sampling::SamplingParams::greedy(),
            ..GenerateOptions::default()
        };
        let mut generator = Generator::new(&mut runner, None);
        generator.add(&prompt, options).expect("a request");
        let mut have = Vec::new();
        while !generator.is_idle() {
            let events = generator.step().expect("a step");
            have.extend(events.into_iter().filter_map(|e| e.token));
        }
        assert_eq!(have, want, "prompt {k}");
    }
}

/// Each of these must fail in every model that can tell.
#[test]
fn broken_kernels_are_caught() {
    let whole = Feed::Whole;
    let cases = [
        (
            OpKind::RmsNorm,
            Fault::Scale(1.01),
            "qwen3-tied-bf16",
            whole,
        ),
        (
            OpKind::Linear,
            Fault::Scale(1.001),
            "llama-plain-f32",
            whole,
        ),
        (OpKind::Embed, Fault::Scale(1.01), "llama-yarn-f32", whole),
        (
            OpKind::GatedMul(Activation::Silu),
            Fault::Scale(0.99),
            "qwen2-untied-f32",
            whole,
        ),
        (
            OpKind::RopeTable,
            Fault::Scale(1.01),
            "mistral-full-f16",
            whole,
        ),
        (
            OpKind::Attention,
            Fault::NoWindow,
            "mistral-window-bf16",
            whole,
        ),
        (
            OpKind::Attention,
            Fault::Window(1),
            "qwen2-window-f16",
            whole,
        ),
        (
            OpKind::Attention,
            Fault::Window(-1),
            "qwen3-bias-mixed-bf16",
            whole,
        ),
        (
            OpKind::Attention,
            Fault::PositionBack,
            "qwen3-odd-f16",
            whole,
        ),
        // What only derived families compute. A scale is no fault where a norm follows, as it does
        // after the delta rule and after Gemma's MLP.
        (OpKind::Scale, Fault::Scale(1.001), "granite-f16", whole),
        (OpKind::SoftCap, Fault::Scale(1.001), "gemma2-f16", whole),
        (
            OpKind::Attention,
            Fault::Window(1),
            "gemma3_text-deep-bf16",
            whole,
        ),
        (
            OpKind::Attention,
            Fault::PositionBack,
            "gpt_oss-bf16",
            whole,
        ),
        (
            OpKind::GatedMul(Activation::SwigluOai),
            Fault::Scale(1.001),
            "gpt_oss-mxfp4",
            whole,
        ),
        (OpKind::Route, Fault::Scale(1.001), "qwen3_moe-bf16", whole),
        (
            OpKind::ExpertLinear,
            Fault::Scale(1.001),
            "mixtral-f16",
            whole,
        ),
        (
            OpKind::ExpertSum,
            Fault::Scale(1.001),
            "deepseek_v3-bf16",
            whole,
        ),
        (
            OpKind::HeadLinear,
            Fault::Scale(1.001),
            "deepseek_v3-noq-f16",
            whole,
        ),
        (
            OpKind::LatentAttention,
            Fault::Scale(1.001),
            "deepseek_v3-bf16",
            whole,
        ),
        (
            OpKind::LatentAttention,
            Fault::PositionBack,
            "deepseek_v3-noq-f16",
            whole,
        ),
        (
            OpKind::CausalConv,
            Fault::Scale(1.001),
            "lfm2-bias-f16",
            whole,
        ),
        (
            OpKind::GatedMul(Activation::Identity),
            Fault::Scale(1.001),
            "lfm2-bf16",
            whole,
        ),
        (
            OpKind::GatedMul(Activation::Sigmoid),
            Fault::Scale(1.001),
            "qwen3_next-bf16",
            whole,
        ),
        (OpKind::Rope, Fault::Scale(1.01), "glm4-bf16", whole),
        // Seen only where a recording runs again.
        (
            OpKind::GatedDelta,
            Fault::FrozenStep,
            "qwen3_5_moe-bf16",
            Feed::Chunks(64),
        ),
        (
            OpKind::CausalConv,
            Fault::FrozenStep,
            "lfm2-bf16",
            Feed::OneByOne,
        ),
        (
            OpKind::Embed,
            Fault::FrozenStep,
            "llama-linear-mqa-f16",
            Feed::Chunks(64),
        ),
    ];
    for (op, fault, fixture, feed) in cases {
        let broken = break_kernel(ORACLE, op, fault).expect("a kernel to break");
        let report = check(&model(fixture), &broken, &[feed]);
        assert!(!report.passed(), "{op} {fault:?}: {}", report.worst());
    }
}

#[test]
fn a_fault_in_batching_needs_a_batch_to_be_caught() {
    let broken = break_kernel(ORACLE, OpKind::Attention, Fault::FirstTable).expect("a kernel");
    let dir = model("llama-plain-f32");
    assert!(check(&dir, &broken, &[Feed::Whole]).passed());
    assert!(!check(&dir, &broken, &[Feed::Together(23)]).passed());
}

#[test]
fn the_wrapper_of_faults_is_no_fault_itself() {
    let whole = break_kernel(ORACLE, OpKind::Attention, Fault::None).expect("a kernel");
    let dir = model("mistral-window-bf16");
    assert!(check(&dir, &whole, &FEEDS).passed());
}

/// The bar is no formality: bf16 activations do not reach it.
#[test]
fn rounded_activations_do_not_pass_for_f32() {
    let dir = model("llama-plain-f32");
    let golden = Golden::open(&dir.join("golden.safetensors")).expect("golden");
    let prompt = golden.prompts.last().expect("prompts");
    let opened = Opened::open(&dir).expect("a model");
    let script = Script::whole(std::slice::from_ref(&prompt.ids));
    let mut options = LoadOptions::new(ORACLE);
    options.acts = Some(acts_of(&opened, registry::Act::Bf16, registry::Act::F32));
    fit(&mut options, [&script].into_iter());
    let loaded = opened.load(&registry(), &options, &mut |_, _| {});
    let mut runner = loaded.expect("a runner").runner;
    let trace = Trace::record(&mut runner, &script).expect("logits");
    let worst = prompt.rows.iter().enumerate().map(|(i, position)| {
        let row = trace.find(0, *position).expect("a row");
        stats::compare_row(prompt.row(i), row).max_abs / prompt.sigma
    });
    let worst = worst.fold(0.0, f64::max);
    assert!(worst > 10.0 * RING1_TOLERANCE, "{worst}");
}
