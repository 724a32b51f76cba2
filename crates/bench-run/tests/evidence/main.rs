//! Whole runs of bench-run, as small as they can be: what they state, and that they
//! refuse. No test asserts a speed.

#[cfg(unix)]
mod peers;

use bench_run::args::{Cli, MeasureArgs, Source};
use bench_run::artifact::{Artifact, Measurements, Status, metric};
use bench_run::compare::compare;
use bench_run::gate::{Correctness, Gated, climb, first_layers};
use bench_run::report::report;
use bench_run::stat::{Stat, Unit};
use bench_run::{run, schema};
use clap::Parser as _;
use graph::OpKind;
use parity::model_gate::{Fault, break_composites, break_kernel};
use registry::{Act, KernelSpec, Registration, Registry};
use runtime::{LoadOptions, Opened};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn ferris() -> String {
    let path = root().join("fixtures/models/ferris-9m");
    path.to_string_lossy().into_owned()
}

fn artifact_schema() -> Value {
    serde_json::from_str(schema::ARTIFACT).expect("the schema is JSON")
}

/// Few tokens, no waiting.
fn args(more: &[&str]) -> MeasureArgs {
    let quick = [
        "bench-run",
        "--backend",
        "cpu_simd",
        "--threads",
        "2",
        "--prompt-tokens",
        "20",
        "--gen-tokens",
        "2",
        "--runs",
        "2",
        "--warmup",
        "0",
        "--sample-ms",
        "0",
        "--gate-limit",
        "16",
    ];
    // What the caller gives replaces the value given here: the program's name comes
    // first, then pairs.
    let given = |flag: &str| more.contains(&flag);
    let pairs = quick[1..].chunks(2).filter(|pair| !given(pair[0]));
    let all = quick[..1].iter().chain(pairs.flatten()).chain(more);
    Cli::try_parse_from(all).expect("arguments").measure
}

fn measure(more: &[&str]) -> Artifact {
    let registry = Registry::collect().expect("kernels");
    run::measure(&registry, &args(more)).expect("a run")
}

fn assert_valid(artifact: &Artifact) {
    let value = serde_json::to_value(artifact).expect("an artifact is JSON");
    let problems = schema::problems(&artifact_schema(), &value).expect("a schema");
    assert_eq!(problems, Vec::<String>::new());
}

/// Samples that agree, whatever the machine does.
fn steady(artifact: &mut Artifact) {
    steady_but(artifact, &[]);
}

/// The same, but for some metrics.
fn steady_but(artifact: &mut Artifact, but: &[&str]) {
    let all = artifact.measurements.iter_mut();
    for (_, stat) in all.filter(|(name, _)| !but.contains(&name.as_str())) {
        let unit = match stat.unit.as_str() {
            "ms" => Unit::Milliseconds,
            "s" => Unit::Seconds,
            _ => Unit::TokensPerSecond,
        };
        let samples = [1.0, 1.01, 0.99, 1.0, 1.0].map(|x| x * stat.median);
        *stat = Stat::of(unit, samples.to_vec()).expect("samples");
    }
    artifact.settle();
}

#[test]
fn a_run_states_everything_and_keeps_to_the_schema() {
    let model = ferris();
    let mut a = measure(&[
        "--model",
        &model,
        "--batch",
        "3",
        "--depth",
        "5",
        "--profile",
    ]);
    assert_valid(&a);
    let c = a.correctness.as_ref().expect("a gate");
    assert!(c.passed, "{:?}", c.failures);
    assert!(c.kernels > 20 && c.positions > 100 && c.kl_mean.is_some());
    for name in [
        metric::PREFILL,
        metric::DECODE,
        metric::BATCH_DECODE,
        metric::TTFT,
        metric::LOAD,
        metric::LOAD_TO_FIRST_TOKEN,
    ] {
        let s = a.measurements.get(name).unwrap_or_else(|| panic!("{name}"));
        assert!(s.median > 0.0 && s.samples.len() <= 2, "{name}: {s:?}");
    }
    let m = a.memory.as_ref().expect("memory");
    assert!(
        m.weights_bytes > 18_000_000 && m.kv_bytes > 0 && m.device_peak_bytes > m.weights_bytes
    );
    assert_eq!(a.profile.len(), 3);
    for phase in &a.profile {
        assert!(
            phase.kernels.iter().all(|k| k.bytes > 0),
            "{}",
            phase.table()
        );
        assert!(phase.kernels.iter().any(|k| k.of_compute.is_some()));
        let layers = phase.kernels.iter().map(|k| k.uses_s.len()).max();
        assert!(layers >= Some(8), "{}", phase.table());
    }
    // Weights are read once in a step; what is multiplied is known from the model.
    let decode = &a.profile[1];
    let (bytes, flops) = decode
        .kernels
        .iter()
        .fold((0, 0), |(b, f), k| (b + k.bytes, f + k.flops));
    assert!((18_000_000..22_000_000).contains(&bytes), "{bytes}");
    assert!((18_500_000..20_500_000).contains(&flops), "{flops}");
    assert_eq!(a.workload.schemes.keys().collect::<Vec<_>>(), ["bf16"]);
    assert!(!a.table().is_empty() && !a.summary.is_empty());

    steady(&mut a);
    assert_eq!((a.status, a.decision.accepted), (Status::Accepted, true));
    assert_valid(&a);

    // Two samples that agree show nothing.
    let whole = a.measurements.clone();
    let few = Stat::of(Unit::TokensPerSecond, vec![100.0, 100.0]).expect("samples");
    a.measurements.insert(metric::DECODE.into(), few);
    a.settle();
    assert_eq!(a.status, Status::RejectedVariance);
    a.measurements = whole;

    // The same run on a machine that was busy with something else.
    let noisy = Stat::of(
        Unit::TokensPerSecond,
        vec![100.0, 130.0, 90.0, 100.0, 105.0],
    )
    .expect("samples");
    a.measurements.insert(metric::DECODE.into(), noisy);
    a.settle();
    assert_eq!(a.status, Status::RejectedVariance);
    assert!(
        a.decision.reason.contains(metric::DECODE),
        "{}",
        a.decision.reason
    );
    assert_valid(&a);
}

#[test]
fn a_broken_kernel_is_rejected() {
    let registry = break_kernel("cpu_simd", OpKind::RmsNorm, Fault::Scale(1.01)).expect("a fault");
    let model = ferris();
    let mut a = run::measure(&registry, &args(&["--model", &model])).expect("a run");
    steady(&mut a);
    assert_eq!(a.status, Status::RejectedCorrectness);
    assert!(
        !a.decision.accepted && a.decision.reason.contains("differ"),
        "{}",
        a.decision.reason
    );
    assert_valid(&a);

    let random = ["--synthetic", "tiny:bf16"];
    let mut a = run::measure(&registry, &args(&random)).expect("a run");
    steady(&mut a);
    assert_eq!(a.status, Status::RejectedCorrectness);
}

/// A plan that is far from its chain, where no kernel has f32 activations to measure both
/// by: the row fails and says so.
#[test]
fn a_backend_without_f32_activations_excuses_nothing() {
    let broken = break_composites("cpu_simd", Fault::Scale(1.02)).expect("a composite");
    let exact = |spec: &KernelSpec| {
        let multiplies = spec.pattern.ops.iter().any(|o| o.kind.multiplies());
        let exact = multiplies && spec.act == Act::F32 && spec.quant.contains(&"q8_0");
        exact && spec.backend == "cpu_simd"
    };
    let kept = broken.entries().filter(|e| !exact(e.kernel.spec()));
    let kept = kept.map(|e| Registration {
        kernel: e.kernel,
        file: e.file,
    });
    let kept: Vec<Registration> = kept.collect();
    assert!(kept.len() < broken.entries().count());
    let registry = Registry::from_registrations(&kept).expect("a registry");
    let source = Source::Synthetic {
        what: "tiny:q8_0".into(),
        layers: None,
    };
    let opened = run::open(&source).expect("a model");
    let options = LoadOptions::new("cpu_simd");
    let (_, program) = opened.place(&registry, &options).expect("a plan");
    let gated = Gated {
        opened: &opened,
        registry: &registry,
        options: &options,
        timed: &program,
        synthetic: true,
        // None for the oracle.
        limit: Duration::ZERO,
    };
    let c = climb(&gated).expect("a gate");
    let why = c.failures.join("\n");
    assert!(!c.passed && why.contains("no f32 activations"), "{why}");
}

/// What stands in for the whole model where the oracle would take too long.
#[test]
fn the_first_layers_are_held_to_the_oracle() {
    let source = Source::Synthetic {
        what: "tiny:q4_k".into(),
        layers: None,
    };
    let opened = run::open(&source).expect("a model");
    let options = LoadOptions::new("cpu_simd");
    let hold = |registry: &Registry, layers: usize, seconds: u64| {
        let (_, program) = opened.place(registry, &options).expect("a plan");
        let gated = Gated {
            opened: &opened,
            registry,
            options: &options,
            timed: &program,
            synthetic: true,
            limit: Duration::from_secs(seconds),
        };
        let mut c = Correctness::default();
        first_layers(&gated, layers, &mut c).expect("layers");
        c
    };
    let whole = Registry::collect().expect("kernels");
    let held = hold(&whole, 1, 600);
    assert_eq!(held.failures, Vec::<String>::new());
    let s = held.slice.expect("time enough");
    assert!(opened.model.layers == 2 && s.layers == 1, "{s:?}");
    assert!(s.positions > 80, "{s:?}");
    assert_eq!(s.keys_left_out, Vec::<String>::new());
    assert_eq!(hold(&whole, 1, 0).slice, None, "there is no time");
    let broken = break_kernel("cpu_simd", OpKind::RmsNorm, Fault::Scale(1.05)).expect("a fault");
    assert_eq!(hold(&broken, 2, 600).failures.len(), 1);
}

#[test]
fn random_weights_need_no_file_and_claim_no_kl() {
    for what in ["tiny:bf16", "tiny:f32"] {
        let mut a = measure(&["--synthetic", what]);
        let c = a.correctness.as_ref().expect("a gate");
        assert!(c.passed, "{what}: {:?}", c.failures);
        assert!(c.logit_error.is_some_and(|e| e <= 1e-2) && c.kl_mean.is_none());
        assert_eq!(
            (a.workload.weights.as_str(), &*a.workload.model),
            ("synthetic", what)
        );
        steady(&mut a);
        assert_eq!(a.status, Status::Accepted);
        assert_valid(&a);
        let again = measure(&["--synthetic", what, "--no-gate"]);
        assert_eq!(again.workload.fingerprint, a.workload.fingerprint);
        assert_eq!(again.status, Status::Diagnostic);
        assert_valid(&again);
    }
    // Blocks of any scheme, on the tree that has them all.
    for scheme in [
        "q8_0", "q4_0", "q4_k_m", "q5_k", "q6_k", "q2_k", "iq4_xs", "mxfp4",
    ] {
        let what = format!("tiny:{scheme}");
        let a = measure(&[
            "--synthetic",
            &what,
            "--no-gate",
            "--backend",
            "cpu_reference",
        ]);
        assert!(a.workload.bits_per_weight < 9.0, "{what}");
        assert!(a.measurements.contains_key(metric::DECODE), "{what}");
    }
}

#[test]
fn what_cannot_run_here_is_blocked() {
    let a = measure(&["--synthetic", "tiny:bf16", "--threads", "4000"]);
    assert_eq!(a.status, Status::Blocked);
    assert!(a.decision.reason.contains("4000"), "{}", a.decision.reason);
    assert!(a.measurements.is_empty());
    assert_valid(&a);
}

#[test]
fn a_quantised_row_states_its_distance() {
    let text = root().join("fixtures/eval.txt");
    let dir = tempfile::tempdir().expect("a folder");
    let short = dir.path().join("short.txt");
    let whole = std::fs::read_to_string(text).expect("eval.txt");
    std::fs::write(&short, &whole[..3000]).expect("a file");
    let model = ferris();
    let mut how = args(&["--model", &model]);
    how.text = Some(short);
    how.against = Some(PathBuf::from(&model));
    let registry = Registry::collect().expect("kernels");
    let a = run::measure(&registry, &how).expect("a run");
    let quality = a.correctness.as_ref().and_then(|c| c.quality.as_ref());
    let q = quality.expect("a text was given");
    assert!(
        q.positions >= 255 && (2.0..60.0).contains(&q.perplexity),
        "{q:?}"
    );
    // The same weights: what is left is what bf16 activations cost.
    assert!(
        q.kl_mean.is_some_and(|kl| kl < 1e-3) && q.top1.is_some_and(|t| t > 0.97),
        "{q:?}"
    );
    assert_valid(&a);
}

#[test]
fn artifacts_are_compared_and_reported() {
    let mut a = measure(&["--synthetic", "tiny:bf16", "--no-gate", "--profile"]);
    let with = |a: &mut Artifact, rate: f64| {
        let stat = Stat::of(
            Unit::TokensPerSecond,
            vec![rate, rate * 1.001, rate * 0.999],
        );
        a.measurements = Measurements::from([(metric::DECODE.to_string(), stat.expect("samples"))]);
    };
    with(&mut a, 100.0);
    let mut b = a.clone();
    with(&mut b, 120.0);
    b.workload.depth = 0;
    let c = compare(&a, &b);
    assert!(c.comparable() && c.verdict().contains("better"), "{c}");
    assert!(c.below(1.1).is_empty() && c.below(1.3).len() == 1);
    assert!(compare(&b, &a).verdict().contains("worse"));
    assert!(compare(&a, &a).verdict().contains("no difference"));
    b.workload.depth = 512;
    assert!(!compare(&a, &b).comparable());

    let dir = tempfile::tempdir().expect("a folder");
    a.write(&dir.path().join("a.json")).expect("a file");
    b.write(&dir.path().join("b.json")).expect("a file");
    std::fs::write(dir.path().join("c.json"), "{\"schema\": \"other/1\"}").expect("a file");
    let (written, skipped) = report(dir.path(), dir.path()).expect("a report");
    assert_eq!(skipped.len(), 1);
    let page = std::fs::read_to_string(dir.path().join("report.md")).expect("a page");
    for wanted in ["tiny:bf16", "diagnostic", "depth.svg"] {
        assert!(page.contains(wanted), "{wanted} in {page}");
    }
    let page = std::fs::read_to_string(dir.path().join("roofline.md")).expect("a page");
    for phase in &a.profile {
        for k in &phase.kernels {
            assert!(page.contains(&k.key), "{} in {page}", k.key);
        }
    }
    assert!(!a.profile.is_empty() && page.contains("roofline-a.svg"));
    assert!(written.iter().all(|p| p.exists()));
    assert_eq!(
        Artifact::read(&dir.path().join("a.json")).expect("an artifact"),
        a
    );
}

/// `benchmarks/report` is what `report` makes of `benchmarks/results`.
#[test]
fn the_committed_report_is_that_of_the_committed_artifacts() {
    let benchmarks = root().join("benchmarks");
    let dir = tempfile::tempdir().expect("a folder");
    let (written, skipped) = report(&benchmarks.join("results"), dir.path()).expect("a report");
    assert_eq!(skipped, Vec::<String>::new());
    let committed = std::fs::read_dir(benchmarks.join("report")).expect("a folder");
    assert_eq!(committed.count(), written.len());
    for path in written {
        let name = path.file_name().expect("a name");
        let new = std::fs::read_to_string(&path).expect("a file");
        let old = std::fs::read_to_string(benchmarks.join("report").join(name));
        assert!(
            old.is_ok_and(|old| old == new),
            "{}: stale; run `bench-run report benchmarks/results --out benchmarks/report`",
            name.display()
        );
    }
}

#[test]
fn the_program_answers_for_what_it_is_given() {
    let program = env!("CARGO_BIN_EXE_bench-run");
    let dir = tempfile::tempdir().expect("a folder");
    let json = dir.path().join("x.json");
    let path = json.to_string_lossy();
    let quick = [
        "--synthetic",
        "tiny:bf16",
        "--backend",
        "cpu_simd",
        "--prompt-tokens",
        "4",
        "--gen-tokens",
        "1",
        "--runs",
        "1",
        "--warmup",
        "0",
        "--sample-ms",
        "0",
        "--no-gate",
        "--json",
        &path,
    ];
    let of = |args: &[&str]| {
        Command::new(program)
            .args(args)
            .output()
            .expect("bench-run")
    };
    assert!(of(&quick).status.success());
    assert!(of(&["check", &path]).status.success());
    assert!(of(&["compare", &path, &path]).status.success());
    let text = std::fs::read_to_string(&json).expect("an artifact");
    std::fs::write(&json, text.replace("\"diagnostic\"", "\"splendid\"")).expect("a file");
    let checked = of(&["check", &path]);
    assert_eq!(checked.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&checked.stdout).contains("$.status"));
    let nothing = of(&[]);
    assert_eq!(nothing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("--synthetic"));
}

#[test]
fn every_artifact_in_the_repository_keeps_to_the_schema() {
    let files = schema::files(&[root().join("benchmarks/results")]).expect("a folder");
    assert!(!files.is_empty(), "no artifacts");
    for path in files {
        let problems = schema::check_file(&path).expect("an artifact");
        assert_eq!(problems, Vec::<String>::new(), "{}", path.display());
        // What other programs may read, this one must.
        let artifact = Artifact::read(&path).unwrap_or_else(|e| panic!("{e:#}"));
        let mut settled = artifact.clone();
        if artifact.status != Status::Blocked {
            settled.settle();
        }
        assert_eq!(settled.status, artifact.status, "{}", path.display());
    }
}

#[test]
fn the_schema_knows_no_field_that_artifacts_lack() {
    let mut a = measure(&["--synthetic", "tiny:bf16", "--no-gate"]);
    let value = |a: &Artifact| serde_json::to_value(a).expect("JSON");
    let schema = artifact_schema();
    let all = value(&a);
    for name in schema["properties"].as_object().expect("properties").keys() {
        let mut less = all.clone();
        less.as_object_mut().expect("an object").remove(name);
        let found = schema::problems(&schema, &less).expect("a schema");
        assert_eq!(found, [format!("$: has no `{name}`")]);
    }
    a.measurements
        .insert("speed".into(), a.measurements[metric::DECODE].clone());
    let found = schema::problems(&schema, &value(&a)).expect("a schema");
    assert!(found[0].contains("speed"), "{found:?}");
}

#[test]
fn answers_of_drawn_tokens_are_timed_beside_greedy_ones() {
    let params = r#"{"temperature": 0.8, "top_p": 0.95}"#;
    let flags = ["--synthetic", "tiny:bf16", "--no-gate", "--depth", "3"];
    let a = measure(&[&flags[..], &["--gen-tokens", "4", "--sampling", params]].concat());
    let drawn = &a.measurements[metric::SAMPLED_DECODE];
    assert!(drawn.median > 0.0 && drawn.samples.len() == 2, "{drawn:?}");
    let steps = a.workload.sampling.as_deref().expect("steps");
    assert!(
        steps.contains("temperature 0.8") && steps.contains("top_p 0.95"),
        "{steps}"
    );
    assert_valid(&a);
    let dir = tempfile::tempdir().expect("a folder");
    a.write(&dir.path().join("drawn.json")).expect("written");
    report(dir.path(), dir.path()).expect("a report");
    let page = std::fs::read_to_string(dir.path().join("report.md")).expect("a page");
    assert!(
        page.contains("## Drawn tokens") && page.contains("top_p 0.95"),
        "{page}"
    );

    let parse = |params: &str| Cli::try_parse_from(["bench-run", "--sampling", params]);
    for (params, why) in [
        ("0.8", "expected struct"),
        (r#"{"top_p": 3}"#, "top_p is 3; allowed"),
        (r#"{"topp": 0.3}"#, "unknown field"),
    ] {
        let e = parse(params).expect_err(params).to_string();
        assert!(e.contains(why), "{e}");
    }
    let one = args(&[
        "--synthetic",
        "tiny:bf16",
        "--gen-tokens",
        "1",
        "--sampling",
        params,
    ]);
    let registry = Registry::collect().expect("a registry");
    let e = run::measure(&registry, &one)
        .expect_err("one token")
        .to_string();
    assert!(e.contains("--gen-tokens 2"), "{e}");
}

#[test]
fn tuning_writes_only_what_the_gate_let_pass() {
    let tune = |registry: &Registry| {
        let cli = Cli::try_parse_from([
            "bench-run",
            "tune",
            "--synthetic",
            "tiny:bf16",
            "--backend",
            "cpu_simd",
            "--threads",
            "2",
            "--repeats",
            "3",
            "--prompt-tokens",
            "80",
            "--gate-limit",
            "16",
        ]);
        let Some(bench_run::args::Command::Tune(args)) = cli.expect("arguments").command else {
            panic!("tune was asked for");
        };
        bench_run::tune::tune(registry, &args, &mut |_| {}).expect("tuning")
    };
    let (path, text) = tune(&Registry::collect().expect("kernels")).expect("a gate that holds");
    assert!(path.starts_with("registry/tuned") && path.extension().is_some_and(|e| e == "toml"));
    let tuned = registry::Tuned::parse(&text).expect("picks");
    assert!(!tuned.device.is_empty());
    assert_eq!(tuned.backend, "cpu_simd");
    let broken = break_kernel("cpu_simd", OpKind::RmsNorm, Fault::Scale(1.01)).expect("a fault");
    assert!(tune(&broken).is_none());
}

/// The first layers of a hybrid rotate nothing: their graph has no table for it.
#[test]
fn the_first_layers_of_a_hybrid_are_a_model() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models");
    for name in ["qwen3_next-bf16", "qwen3_5_moe-bf16"] {
        let opened = Opened::open(&fixtures.join(name)).expect("a fixture");
        let first = opened.first_layers(1).expect("a model");
        assert_eq!(first.model.layers, 1);
    }
}
