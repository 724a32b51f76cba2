//! Ring 3: whole models on every backend against the oracle.

mod models;

use graph::OpKind;
use hal::DeviceKind;
use hal::cpu::{CpuOptions, IsaLevel};
use hal::vulkan::{VulkanDevice, VulkanOptions};
use kernels as _;
use models::{ferris, fixtures, model, name, random_models};
use parity::model_gate::{
    Bounds, Fault, GateError, ORACLE, Script, Trace, VerifyOptions, act_cost_bound, acts_key,
    acts_of, break_composites, break_kernel, compare, compare_traces, f32_acts, first_unrepeatable,
    forgets, load_candidate, load_on, load_oracle, matrix, pseudo_random_ids, repeat, text_ids,
    verify,
};
use parity::stats::{Summary, Tally};
use planner::{ActMap, Program};
use registry::{Act, Registry, Tuned};
use runtime::{LoadOptions, Opened, Runner};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(|| Registry::collect().expect("registered kernels"))
}

fn ferris_opened() -> &'static Opened {
    static OPENED: OnceLock<Opened> = OnceLock::new();
    OPENED.get_or_init(|| Opened::open(&ferris()).expect("ferris-9m"))
}

/// Held-out text as tokens.
fn eval() -> &'static [u32] {
    static IDS: OnceLock<Vec<u32>> = OnceLock::new();
    IDS.get_or_init(|| {
        let text = std::fs::read_to_string(fixtures().join("eval.txt")).expect("eval.txt");
        let mut ids = text_ids(ferris_opened(), &text[..16_000]);
        ids.truncate(3000);
        ids
    })
}

/// The oracle's logits for ferris-9m, computed once for each script and format.
fn oracle_traces(program: &Program, acts: ActMap, scripts: &[Script]) -> Vec<Arc<Trace>> {
    type Cache = Mutex<HashMap<String, Arc<Trace>>>;
    static TRACES: OnceLock<Cache> = OnceLock::new();
    let mut traces = TRACES.get_or_init(Cache::default).lock().expect("traces");
    let mut oracle: Option<Runner> = None;
    let mut format: Vec<_> = acts.iter().map(|((r, n), a)| (*r, n.0, *a)).collect();
    format.sort();
    let mut found = Vec::new();
    for script in scripts {
        let kv = program.cache.scheme;
        let key = format!("{kv} {format:?} {:?} {:?}", script.actions, script.streams);
        if !traces.contains_key(&key) {
            let runner = oracle.get_or_insert_with(|| {
                let loaded = load_oracle(ferris_opened(), registry(), program, acts.clone());
                loaded.expect("the oracle")
            });
            let trace = Trace::record(runner, script).expect("the oracle's logits");
            traces.insert(key.clone(), Arc::new(trace));
        }
        found.push(traces[&key].clone());
    }
    found
}

fn require(what: &str, bounds: &Bounds, tally: &Tally) -> Summary {
    let s = tally.summary().expect("rows to compare");
    println!("{what}: {s}");
    assert!(bounds.hold(&s), "{what}: {s}");
    s
}

/// Plays the scripts on ferris-9m and holds every one, and all together, to the
/// bounds. Returns the positions compared.
fn gate_ferris(what: &str, candidate: &mut Runner, scripts: &[Script]) -> usize {
    let program = candidate.program().clone();
    let oracle = oracle_traces(&program, program.acts(), scripts);
    let bounds = Bounds::of_program(&program);
    let mut all = Tally::default();
    for (script, want) in scripts.iter().zip(&oracle) {
        let have = Trace::record(candidate, script).expect("the candidate's logits");
        let tally = compare_traces(want, &have);
        require(&format!("{what}, {}", script.name), &bounds, &tally);
        all.extend(&tally);
    }
    require(what, &bounds, &all);
    all.rows().len()
}

fn options(backend: &str, fusion: bool) -> LoadOptions {
    let mut options = LoadOptions::new(backend);
    options.fusion = fusion;
    // What ranks choose; `ring3_blocks` and `placement` take a device's picks.
    options.tuned = Some(Tuned::default());
    options
}

/// What the candidate's activation formats cost against f32 activations.
fn gate_act_cost(what: &str, candidate: &mut Runner, scripts: &[Script]) {
    let program = candidate.program().clone();
    let plain = oracle_traces(&program, f32_acts(ferris_opened()), scripts);
    let mut all = Tally::default();
    for (script, want) in scripts.iter().zip(&plain) {
        let have = Trace::record(candidate, script).expect("the candidate's logits");
        all.extend(&compare_traces(want, &have));
    }
    let s = all.summary().expect("rows to compare");
    println!("{what} against f32 activations: {s}");
    assert!(s.mean_kl <= act_cost_bound(&program.acts()), "{what}: {s}");
}

#[test]
fn cpu_simd_keeps_to_the_oracle_over_two_thousand_positions() {
    let ids = eval();
    let mut scripts = matrix(&ids[..320], false);
    // Contexts of their usual length, whole and in chunks.
    scripts.push(Script::whole(&[ids[320..820].to_vec()]));
    scripts.push(Script::chunked(&[ids[820..1200].to_vec()], &[128, 64, 7]));
    let mut positions = 0;
    for fusion in [true, false] {
        let what = format!("cpu_simd, fusion {fusion}");
        let loaded = load_candidate(
            ferris_opened(),
            registry(),
            &options("cpu_simd", fusion),
            scripts.iter(),
        );
        let mut candidate = loaded.expect("cpu_simd");
        println!("{what}: {}", acts_key(candidate.program()));
        positions += gate_ferris(&what, &mut candidate, &scripts);
        gate_act_cost(&what, &mut candidate, &scripts[..2]);
    }
    assert!(positions >= 2 * 2000, "{positions}");
}

/// Every row bucket in few positions.
fn short() -> Vec<Script> {
    let ids = eval();
    vec![
        Script::chunked(&[ids[1200..1300].to_vec()], &[66, 1, 18, 1, 2]),
        Script::batched(
            &[ids[1300..1330].to_vec(), ids[1330..1350].to_vec()],
            &[7, 1],
        ),
    ]
}

#[test]
fn cpu_simd_keeps_to_the_oracle_at_every_instruction_set() {
    let here = hal::cpu::probe(&CpuOptions::default()).expect("a CPU");
    let scripts = short();
    let mut seen = 0;
    for level in IsaLevel::ALL {
        let mut options = options("cpu_simd", true);
        options.open.isa = Some(*level);
        if *level != IsaLevel::Portable && !here.has(level.name()) {
            println!("{level}: skipped, this CPU has no {level}");
            continue;
        }
        let loaded = load_candidate(ferris_opened(), registry(), &options, scripts.iter());
        let mut candidate = loaded.unwrap_or_else(|e| panic!("{level}: {e}"));
        gate_ferris(&format!("cpu_simd at {level}"), &mut candidate, &scripts);
        gate_act_cost(&format!("cpu_simd at {level}"), &mut candidate, &scripts);
        seen += 1;
    }
    assert!(seen >= 1);
}

#[test]
fn cpu_simd_keeps_to_the_oracle_with_every_kv_scheme() {
    let scripts = short();
    let offered = registry().backend("cpu_simd").expect("a backend").kv;
    assert!(offered.len() >= 3, "{offered:?}");
    for kv in offered {
        let mut options = options("cpu_simd", true);
        options.kv = Some((*kv).into());
        let loaded = load_candidate(ferris_opened(), registry(), &options, scripts.iter());
        let mut candidate = loaded.unwrap_or_else(|e| panic!("{kv}: {e}"));
        gate_ferris(&format!("cpu_simd, KV {kv}"), &mut candidate, &scripts);
    }
}

/// The scripts of [`matrix`] for a small random model, its streams longer than its
/// windows.
fn random_scripts(opened: &Opened) -> Vec<Script> {
    let windows = opened.graph.nodes().iter().filter_map(|n| match n.op {
        graph::Op::Attention(spec) => spec.window,
        _ => None,
    });
    let window = windows.min();
    let n = window.map_or(120, |w| 3 * w + 60);
    let ids = pseudo_random_ids(opened.model.vocab_size, n, 3);
    matrix(&ids, forgets(&opened.graph))
}

/// Holds a backend, planned in each of the ways of `all`, to the oracle; what all
/// of their rows gave together.
fn gate_random(dir: &Path, registry: &Registry, all: &[LoadOptions]) -> Result<Summary, String> {
    let fail = |e: GateError| e.to_string();
    let opened = Opened::open(dir).map_err(|e| e.to_string())?;
    let scripts = random_scripts(&opened);
    let mut oracle: Option<(String, Vec<Trace>)> = None;
    let mut sum = Tally::default();
    let routed = |n: &graph::Node| matches!(n.op, graph::Op::Route(_));
    for options in all {
        let mut options = options.clone();
        let load = |options: &LoadOptions| {
            load_candidate(&opened, registry, options, scripts.iter()).map_err(fail)
        };
        let mut candidate = load(&options)?;
        let rounded = |a: &Act| *a != Act::F32;
        let acts = candidate.program().acts();
        if opened.graph.nodes().iter().any(routed) && acts.values().any(rounded) {
            // A random router has near ties, which a rounding step turns: another
            // expert, other logits. What the kernels do shows without rounding.
            options.acts = Some(f32_acts(&opened));
            candidate = load(&options)?;
        }
        let program = candidate.program().clone();
        let key = acts_key(&program);
        if oracle.as_ref().is_none_or(|(of, _)| *of != key) {
            let loaded = load_oracle(&opened, self::registry(), &program, program.acts());
            let mut runner = loaded.map_err(fail)?;
            let record = |s| Trace::record(&mut runner, s);
            let traces: Result<Vec<_>, _> = scripts.iter().map(record).collect();
            oracle = Some((key, traces.map_err(fail)?));
        }
        for (script, want) in scripts.iter().zip(oracle.iter().flat_map(|(_, t)| t)) {
            let have = Trace::record(&mut candidate, script).map_err(fail)?;
            let tally = compare_traces(want, &have);
            let s = tally.summary().ok_or("nothing compared")?;
            if !Bounds::of(&program.acts()).hold(&s) {
                return Err(format!("fusion {}, {}: {s}", options.fusion, script.name));
            }
            sum.extend(&tally);
        }
    }
    sum.summary().ok_or_else(|| "nothing compared".into())
}

#[test]
fn cpu_simd_keeps_to_the_oracle_in_every_family() {
    let mut failed = Vec::new();
    let both = [true, false].map(|fusion| options("cpu_simd", fusion));
    for dir in random_models() {
        match gate_random(&dir, registry(), &both) {
            Ok(s) => println!("{:28} {s}", name(&dir)),
            Err(e) => failed.push(format!("{} {e}", name(&dir))),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn replays_and_repeats_give_the_same_bits() {
    let scripts = short();
    let two = || scripts.iter();
    for backend in [ORACLE, "cpu_simd"] {
        let loaded = load_candidate(ferris_opened(), registry(), &options(backend, true), two());
        let mut runner = loaded.unwrap_or_else(|e| panic!("{backend}: {e}"));
        for script in two() {
            let found = first_unrepeatable(&mut runner, script).expect("logits");
            assert_eq!(found, None, "{backend}, {}", script.name);
        }
    }
}

/// A software or else real Vulkan device, with the validation layer if it is
/// installed; `None`, and a line that says so, without a device. CI must have both.
fn vulkan() -> Option<Arc<VulkanDevice>> {
    let ci = std::env::var("CI").is_ok_and(|v| v == "true");
    let open = |validation: bool| -> Result<VulkanDevice, String> {
        let all = hal::vulkan::probe().map_err(|e| e.to_string())?;
        let software = all.iter().find(|d| d.kind == DeviceKind::Software);
        let device = software
            .or(all.first())
            .ok_or("the driver lists no device")?;
        let options = VulkanOptions {
            validation,
            ..VulkanOptions::default()
        };
        VulkanDevice::open(device.index, &options).map_err(|e| e.to_string())
    };
    let validated = open(true).or_else(|e| {
        assert!(!ci, "CI must have Vulkan and its validation layer: {e}");
        println!("without validation: {e}");
        open(false)
    });
    match validated {
        Ok(device) => Some(Arc::new(device)),
        Err(e) => {
            println!("skipped: {e}");
            None
        }
    }
}

#[test]
fn vulkan_keeps_to_the_oracle_without_validation_messages() {
    let Some(device) = vulkan() else { return };
    let mut scripts = matrix(&eval()[1400..1440], false);
    scripts.extend(short());
    let brief = Script::chunked(&[eval()[1400..1409].to_vec()], &[4, 1]);
    scripts.push(brief);
    let mut positions = 0;
    for fusion in [true, false] {
        let scripts = if fusion { &scripts[..] } else { &scripts[2..] };
        let options = options("vulkan", fusion);
        let on = device.clone();
        let loaded = load_on(ferris_opened(), registry(), on, &options, scripts.iter());
        let mut candidate = loaded.expect("vulkan");
        let what = format!("vulkan, fusion {fusion}");
        positions += gate_ferris(&what, &mut candidate, scripts);
        if fusion {
            gate_act_cost(&what, &mut candidate, &scripts[..2]);
            let found = first_unrepeatable(&mut candidate, &scripts[4]).expect("logits");
            assert_eq!(found, None, "{what}");
            let brief = scripts.last().expect("scripts");
            let repeated = repeat(&mut candidate, brief, 20, Duration::MAX).expect("logits");
            assert_eq!((repeated.runs, repeated.found), (20, None), "{what}");
        }
    }
    assert!(positions >= 512, "{positions}");
    assert_eq!(device.validation_messages(), Vec::<String>::new());
}

/// The other tests run with caches in f16, the default.
#[test]
fn vulkan_keeps_to_the_oracle_with_caches_in_f32_and_int8() {
    let Some(device) = vulkan() else { return };
    let scripts = short();
    for (kv, fusion) in [("f32", true), ("int8_kv", true), ("int8_kv", false)] {
        let mut options = options("vulkan", fusion);
        options.kv = Some(kv.into());
        let on = device.clone();
        let loaded = load_on(ferris_opened(), registry(), on, &options, scripts.iter());
        let mut candidate = loaded.unwrap_or_else(|e| panic!("{kv}: {e}"));
        let what = format!("vulkan, KV {kv}, fusion {fusion}");
        gate_ferris(&what, &mut candidate, &scripts);
        let found = first_unrepeatable(&mut candidate, &scripts[1]).expect("logits");
        assert_eq!(found, None, "{what}");
    }
    assert_eq!(device.validation_messages(), Vec::<String>::new());
}

/// Every family, and the trained mixture: what ferris-9m has no op, head size, window
/// or odd shape for.
#[test]
fn vulkan_keeps_to_the_oracle_in_every_family() {
    let Some(device) = vulkan() else { return };
    let mut failed = Vec::new();
    let mut models = random_models();
    models.push(model("ferris-moe-2.7m"));
    for dir in models {
        let opened = Opened::open(&dir).expect("a model");
        if let Err(e) = gate_vulkan(&opened, &device, options("vulkan", true)) {
            failed.push(format!("{}: {e}", name(&dir)));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert_eq!(device.validation_messages(), Vec::<String>::new());
}

/// A short prompt in chunks and a batch, as [`gate_random`].
fn gate_vulkan(
    opened: &Opened,
    device: &Arc<VulkanDevice>,
    mut options: LoadOptions,
) -> Result<(), String> {
    let ids = pseudo_random_ids(opened.model.vocab_size, 140, 9);
    let scripts = [
        Script::chunked(&[ids[..110].to_vec()], &[66, 1, 18, 25]),
        Script::batched(&[ids[110..130].to_vec(), ids[130..].to_vec()], &[7, 1]),
    ];
    let nodes = opened.graph.nodes();
    if nodes.iter().any(|n| matches!(n.op, graph::Op::Route(_))) {
        options.acts = Some(f32_acts(opened));
    }
    let loaded = load_on(opened, registry(), device.clone(), &options, scripts.iter());
    let mut candidate = loaded.map_err(|e| e.to_string())?;
    let program = candidate.program().clone();
    let loaded = load_oracle(opened, registry(), &program, program.acts());
    let mut oracle = loaded.map_err(|e| e.to_string())?;
    for script in &scripts {
        let tally = compare(&mut oracle, &mut candidate, script).map_err(|e| e.to_string())?;
        let found = tally.summary().ok_or("nothing compared")?;
        println!("vulkan, {}: {found}", script.name);
        if !Bounds::of(&program.acts()).hold(&found) {
            return Err(format!("{}: {found}", script.name));
        }
    }
    Ok(())
}

/// A candidate that is the oracle with one thing wrong must fail.
#[test]
fn broken_kernels_are_caught() {
    let cases = [
        (OpKind::Linear, Fault::Scale(1.01), "llama-plain-f32"),
        (OpKind::RmsNorm, Fault::Scale(1.03), "qwen3-tied-bf16"),
        (OpKind::Attention, Fault::NoWindow, "mistral-window-bf16"),
        (OpKind::Attention, Fault::Window(1), "qwen2-window-f16"),
        (OpKind::Attention, Fault::PositionBack, "qwen3-odd-f16"),
        (OpKind::Attention, Fault::FirstTable, "llama-plain-f32"),
        (OpKind::KvAppend, Fault::FirstTable, "qwen2-tied-bf16"),
        (OpKind::Embed, Fault::FrozenStep, "llama-yarn-f32"),
        (OpKind::GatherRows, Fault::FrozenStep, "mistral-full-f16"),
    ];
    for (op, fault, fixture) in cases {
        let broken = break_kernel(ORACLE, op, fault).expect("a kernel to break");
        let caught = gate_random(&model(fixture), &broken, &[options(ORACLE, true)]);
        println!("{op} {fault:?}: {caught:?}");
        assert!(caught.is_err(), "{op} {fault:?}: {caught:?}");
    }
}

#[test]
fn the_wrapper_of_faults_is_no_fault_itself() {
    let whole = break_kernel(ORACLE, OpKind::Linear, Fault::None).expect("a kernel");
    let s = gate_random(&model("qwen3-tied-bf16"), &whole, &[options(ORACLE, true)]);
    let s = s.expect("the oracle is itself");
    assert_eq!((s.max_kl, s.max_delta, s.top1_raw), (0.0, 0.0, 1.0));
}

#[test]
fn a_kernel_whose_runs_differ_is_caught() {
    let opened = Opened::open(&model("llama-plain-f32")).expect("a model");
    let ids = pseudo_random_ids(opened.model.vocab_size, 40, 5);
    let script = Script::chunked(&[ids], &[17, 1]);
    let one = || [&script].into_iter();
    // A recording that is stale in its second run shows in the repeat already.
    for fault in [Fault::Drift, Fault::FrozenStep] {
        let broken = break_kernel(ORACLE, OpKind::Embed, fault).expect("a kernel");
        let loaded = load_candidate(&opened, &broken, &options(ORACLE, true), one());
        let found = first_unrepeatable(&mut loaded.expect("a runner"), &script);
        assert!(found.expect("logits").is_some(), "{fault:?}");
    }
}

#[test]
fn the_cost_of_an_activation_format_is_measured() {
    let scripts = [Script::whole(&[eval()[1500..1564].to_vec()])];
    let one = || scripts.iter();
    let loaded = load_candidate(ferris_opened(), registry(), &options(ORACLE, true), one());
    let program = loaded.expect("the oracle").program().clone();
    let plain = oracle_traces(&program, f32_acts(ferris_opened()), &scripts);
    for (products, attention, least) in [(Act::Bf16, Act::F32, 1e-9), (Act::F32, Act::F16, 1e-12)] {
        let acts = acts_of(ferris_opened(), products, attention);
        let rounded = oracle_traces(&program, acts.clone(), &scripts);
        let cost = compare_traces(&plain[0], &rounded[0])
            .summary()
            .expect("rows");
        println!("products in {products}, attention in {attention}: {cost}");
        assert!(
            cost.mean_kl > least && cost.mean_kl <= act_cost_bound(&acts),
            "{cost}"
        );
    }
}

/// What `engine verify` runs.
#[test]
fn verification_passes_and_fails_as_it_should() {
    let how = VerifyOptions {
        limit: Duration::from_secs(60),
        // What the scripts that are always there take, and 50 to read.
        positions: 340,
    };
    let opened = ferris_opened();
    let run = |registry: &Registry, backend: &str, opened: &Opened, how: &VerifyOptions| {
        let mut lines = String::new();
        let out = &mut |line: &str| lines.push_str(&format!("{line}\n"));
        let passed = verify(opened, registry, &options(backend, true), how, out);
        println!("{lines}");
        (passed.expect("a verdict"), lines)
    };
    let (passed, lines) = run(registry(), "cpu_simd", opened, &how);
    assert!(passed);
    for part in [
        "every row bucket",
        "ragged batch",
        "forked",
        "eight sequences",
        "reading 1",
        "same bits",
    ] {
        assert!(lines.contains(part), "{part}");
    }
    // No time at all: the first steps still run, and the rest is owned up to.
    let hurried = VerifyOptions {
        limit: Duration::ZERO,
        ..how.clone()
    };
    let small = Opened::open(&model("llama-plain-f32")).expect("a model");
    let (passed, lines) = run(registry(), "cpu_simd", &small, &hurried);
    assert!(passed && lines.contains("left out") && lines.contains("before its step of 72"));
    let broken = break_kernel("cpu_simd", OpKind::Linear, Fault::Scale(1.02)).expect("a kernel");
    let (passed, lines) = run(&broken, "cpu_simd", &small, &how);
    assert!(!passed && lines.contains("FAIL"));
    let broken = break_composites("cpu_simd", Fault::Scale(1.02)).expect("a composite");
    let (passed, lines) = run(&broken, "cpu_simd", &small, &how);
    assert!(!passed && lines.contains("use --no-fusion"));
    // A fault is found in no time, too, but not what is to blame.
    let (passed, lines) = run(&broken, "cpu_simd", &small, &hurried);
    assert!(!passed && lines.contains("unfused") && lines.contains("left out, for which"));
    assert!(!lines.contains("use --no-fusion"));
    // The oracle cannot vouch for itself.
    assert!(!run(registry(), ORACLE, &small, &how).0);
}
