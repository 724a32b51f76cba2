//! Models divided between two backends: the numbers of the oracle, and between two
//! devices of one tree the bits of the undivided model.

mod models;

use hal::cpu::{CpuDevice, probe};
use hal::{Buffer, Device, DeviceInfo, DeviceKind, HalError, HostRegion, Mailbox, Recorder};
use kernels as _;
use models::{ferris, model};
use parity::model_gate::{
    Bounds, ORACLE, Script, Trace, compare, f32_acts, first_unrepeatable, fit, forgets,
    load_candidate, load_oracle, matrix, text_ids,
};
use parity::stats::Tally;
use planner::{EdgeCopy, Program};
use registry::{Backend, OpenOptions, Registry, RowsFrom};
use runtime::{Forward, LoadOptions, Opened, Placement, Runner, RuntimeError, SeqId, Span, Want};
use std::any::Any;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

const TREE: &str = "cpu_simd";

/// A card with little memory, made of the CPU.
struct Card {
    cpu: CpuDevice,
    info: DeviceInfo,
}

static CARD_MEMORY: AtomicU64 = AtomicU64::new(u64::MAX);

fn card_info(options: &OpenOptions) -> Result<DeviceInfo, HalError> {
    Ok(DeviceInfo {
        kind: DeviceKind::Discrete,
        name: "a small card".into(),
        ..probe(&options.cpu())?
    })
}

fn open_card(options: &OpenOptions, _: usize) -> Result<Arc<dyn Device>, HalError> {
    Ok(Arc::new(Card {
        cpu: CpuDevice::open(&options.cpu())?,
        info: card_info(options)?,
    }))
}

registry::inventory::submit! {
    Backend {
        name: "card", api: "card", parent: Some(TREE), auto: false, hardware_only: true,
        kv: &["f16"], rows: 512, probe: |options| Ok(vec![card_info(options)?]),
        open: open_card, file: file!(),
    }
}

impl Device for Card {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }
    fn available_memory(&self) -> u64 {
        CARD_MEMORY.load(Ordering::Relaxed)
    }
    fn allocated(&self) -> (u64, u64) {
        self.cpu.allocated()
    }
    fn alloc(&self, bytes: u64, label: &str) -> Result<Buffer, HalError> {
        self.cpu.alloc(bytes, label)
    }
    fn import(&self, region: &HostRegion) -> Result<Option<Buffer>, HalError> {
        self.cpu.import(region)
    }
    fn fill(
        &self,
        dst: &Buffer,
        offset: u64,
        bytes: u64,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), HalError> {
        self.cpu.fill(dst, offset, bytes, fill)
    }
    fn download(&self, src: &Buffer, offset: u64, out: &mut [u8]) -> Result<(), HalError> {
        self.cpu.download(src, offset, out)
    }
    fn mailbox(&self, bytes: usize) -> Result<Arc<dyn Mailbox>, HalError> {
        self.cpu.mailbox(bytes)
    }
    fn recorder(&self, label: &str) -> Result<Box<dyn Recorder>, HalError> {
        self.cpu.recorder(label)
    }
    fn as_any(&self) -> &dyn Any {
        self.cpu.as_any()
    }
}

const TEXT: &str = "A hashbrown map keeps its keys in groups of sixteen. fn main() { let v = \
    vec![1, 2, 3]; for x in v.iter().rev() { println!(\"{x}\"); } } The borrow checker refuses \
    two mutable references to one value, however short they live; a `RefCell` moves the check \
    to run time, and a `Mutex` to the lock. let n: Option<&str> = None; match n { Some(s) => s, \
    None => \"\" }; impl Iterator for Counter { type Item = u32; fn next(&mut self) -> \
    Option<u32> { self.count += 1; Some(self.count) } }";

fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(|| Registry::collect().expect("registered kernels"))
}

fn open(path: &Path) -> Opened {
    Opened::open(path).expect("a model")
}

fn hybrid() -> Opened {
    open(&model("ferris-moe-2.7m"))
}

fn placed(second: &str, gpu_layers: Option<usize>, cpu_experts: usize) -> Placement {
    Placement {
        gpu_layers,
        cpu_experts,
        ..Placement::new(second)
    }
}

fn options(backend: &str, placement: Placement) -> LoadOptions {
    let mut options = LoadOptions::new(backend);
    options.open.threads = Some(2);
    options.placement = Some(placement);
    options
}

/// Every row bucket, chunks, ragged batches, forks and cuts.
fn scripts(opened: &Opened, tokens: usize) -> Vec<Script> {
    let mut ids = text_ids(opened, TEXT);
    assert!(ids.len() >= tokens, "{} tokens", ids.len());
    ids.truncate(tokens);
    let mut all = matrix(&ids, forgets(&opened.graph));
    all.push(Script::chunked(&[ids], &[70, 1, 17, 2]));
    all
}

/// The ways to divide a model, at least one edge in each: from its last layer alone
/// to all but what is around the layers, and the experts of some.
fn divisions(opened: &Opened) -> Vec<(Option<usize>, usize)> {
    let layers = opened.model.layers;
    let mut all = vec![(Some(1), 0), (Some(3), 0), (Some(layers), 0)];
    if layers < 8 {
        all.extend([(None, 1), (None, layers), (Some(2), 3), (Some(layers), 1)]);
    }
    all
}

/// Holds every plan to the segments that a division makes: two for each layer on the
/// first side whose experts are on the second, around what else there is.
fn check_segments(opened: &Opened, program: &Program, (gpu, experts): (Option<usize>, usize)) {
    let layers = opened.model.layers;
    let edge = layers.saturating_sub(gpu.unwrap_or(layers + 1));
    let apart = experts.saturating_sub(edge);
    let others = if gpu.is_some_and(|n| n <= layers) {
        3
    } else {
        1
    };
    for plan in &program.plans {
        assert_eq!(plan.segments.len(), others + 2 * apart, "{gpu:?} {experts}");
    }
}

/// Compares every row of every script with the oracle's in the same formats.
fn gate(opened: &Opened, candidate: &mut Runner, scripts: &[Script]) -> (Bounds, Tally) {
    let program = candidate.program().clone();
    let loaded = load_oracle(opened, registry(), &program, program.acts());
    let mut oracle = loaded.expect("the oracle");
    let mut tally = Tally::default();
    for script in scripts {
        tally.extend(&compare(&mut oracle, candidate, script).expect("a comparison"));
    }
    (Bounds::of(&program.acts()), tally)
}

fn traces(runner: &mut Runner, scripts: &[Script]) -> Vec<Trace> {
    let record = |s| Trace::record(runner, s).expect("a trace");
    scripts.iter().map(record).collect()
}

fn assert_same(want: &[Trace], have: &[Trace], scripts: &[Script], what: &str) {
    for ((want, have), script) in want.iter().zip(have).zip(scripts) {
        let row = want.first_difference(have);
        assert_eq!(row, None, "{what}, {}", script.name);
    }
}

#[test]
fn a_divided_model_keeps_to_the_oracle() {
    for path in [ferris(), model("ferris-moe-2.7m")] {
        let opened = open(&path);
        let scripts = scripts(&opened, 96);
        for (gpu_layers, cpu_experts) in divisions(&opened) {
            let what = format!("{} {gpu_layers:?} {cpu_experts}", opened.graph.name());
            let mut options = options(TREE, placed(ORACLE, gpu_layers, cpu_experts));
            // A router's near ties turn with a rounding step: see ring 3.
            options.acts = forgets(&opened.graph).then(|| f32_acts(&opened));
            let loaded = load_candidate(&opened, registry(), &options, scripts.iter());
            let mut candidate = loaded.unwrap_or_else(|e| panic!("{what}: {e}"));
            check_segments(&opened, candidate.program(), (gpu_layers, cpu_experts));
            let (bounds, tally) = gate(&opened, &mut candidate, &scripts);
            let found = tally.summary().expect("rows");
            println!("{what}: {found}");
            assert!(bounds.hold(&found), "{what}: {found}");
            let odd = first_unrepeatable(&mut candidate, &scripts[3]).expect("logits");
            assert_eq!(odd, None, "{what}");
        }
    }
}

/// Two devices of one tree run the same kernels as one: whatever an edge loses,
/// brings late or brings twice shows in the bits.
#[test]
fn dividing_between_equals_changes_no_bit() {
    for path in [ferris(), model("ferris-moe-2.7m")] {
        let opened = open(&path);
        let scripts = scripts(&opened, 96);
        let load = |placement: Option<Placement>| {
            let mut options = LoadOptions::new(TREE);
            options.open.threads = Some(2);
            // A fused kernel may sum in another order, and none goes over an edge.
            options.fusion = false;
            options.placement = placement;
            let loaded = load_candidate(&opened, registry(), &options, scripts.iter());
            loaded.expect("a runner")
        };
        let want = traces(&mut load(None), &scripts);
        for (gpu_layers, cpu_experts) in divisions(&opened) {
            let what = format!("{gpu_layers:?} {cpu_experts}");
            let mut runner = load(Some(placed(TREE, gpu_layers, cpu_experts)));
            check_segments(&opened, runner.program(), (gpu_layers, cpu_experts));
            for _ in 0..2 {
                assert_same(&want, &traces(&mut runner, &scripts), &scripts, &what);
            }
            let pages = runner.program().cache.pages();
            assert_eq!(runner.sequences().free_pages(), pages, "{what}");
        }
    }
}

/// Everything on either side is the plan of one segment, the same as without a word
/// about placement.
#[test]
fn all_on_one_side_is_the_undivided_plan() {
    let opened = open(&ferris());
    let layers = opened.model.layers;
    let report = |options: &LoadOptions| {
        let (chosen, program) = opened.place(registry(), options).expect("placed");
        assert!(program.second.is_none() && chosen.devices().len() == 1);
        assert!(program.plans.iter().all(|p| p.segments.len() == 1));
        assert!(program.plans.iter().all(|p| p.copies.is_empty()));
        let plans = program.plans.iter().map(|p| program.report(p).to_string());
        (plans.collect::<String>(), chosen.notes)
    };
    let alone = |backend| report(&LoadOptions::new(backend)).0;
    for n in [None, Some(layers + 1), Some(999), Some(usize::MAX)] {
        let mut options = LoadOptions::new(TREE);
        options.placement = Some(placed(ORACLE, n, 0));
        let (plans, notes) = report(&options);
        assert_eq!(plans, alone(TREE), "{n:?}");
        assert_eq!(notes.len(), usize::from(n == Some(999)), "{notes:?}");
    }
    let mut options = LoadOptions::new(TREE);
    options.placement = Some(placed(ORACLE, Some(0), 0));
    let (plans, notes) = report(&options);
    assert_eq!(plans, alone(ORACLE));
    assert!(notes[0].contains(ORACLE), "{notes:?}");
}

#[test]
fn what_lies_where_adds_up() {
    for opened in [open(&ferris()), hybrid()] {
        let layers = opened.model.layers;
        let plan = |placement: Placement| {
            let options = options(TREE, placement);
            let backend = registry().backend(TREE).expect("the tree");
            let device = runtime::device::find(backend, &options.open).expect("a CPU");
            let planned = opened.plan(registry(), TREE, &device, &options);
            planned.expect("a plan")
        };
        let whole = plan(Placement::new(TREE)).memory();
        for n in 1..=layers {
            let program = plan(placed(TREE, Some(n), 0));
            let [first, second] = [0, 1].map(|t| program.memory_on(t));
            // Tables that both sides read and padding are all there is twice.
            let twice = first.weights + second.weights - whole.weights;
            assert!(twice < 8192, "{n}: {twice}");
            assert_eq!(first.cache + second.cache, whole.cache, "{n}");
            let holds: Vec<String> = program
                .target_reports()
                .into_iter()
                .map(|t| t.holds)
                .collect();
            assert!(holds[0].starts_with("layer"), "{holds:?}");
            assert!(holds[1].contains("embeddings"), "{holds:?}");
        }
    }
}

/// What leaves a mixture's layers is the experts and nothing beside.
#[test]
fn experts_go_alone() {
    let opened = hybrid();
    let options = options("card", placed(TREE, None, 3));
    let backend = registry().backend("card").expect("the card");
    let device = runtime::device::find(backend, &options.open).expect("a card");
    let program = opened
        .plan(registry(), "card", &device, &options)
        .expect("a plan");
    for plan in &program.plans {
        let nodes = |target: usize| {
            let here = plan.steps.iter().filter(move |s| s.target == target);
            here.flat_map(|s| &s.nodes).map(|n| opened.graph.node(*n))
        };
        let expert =
            |n: &graph::Node| n.name.contains(".experts.") || n.name.ends_with("expert_sum");
        let there: Vec<usize> = nodes(1).filter_map(|n| n.layer).collect();
        assert!(nodes(1).all(expert) && there.len() == 3 * 5, "{there:?}");
        assert!(there.iter().all(|l| *l < 3));
        assert_eq!(nodes(0).filter(|n| expert(n)).count(), 5);
    }
}

#[test]
fn wrong_placements_are_refused_in_words() {
    let opened = open(&ferris());
    let options = options(TREE, placed(ORACLE, None, 2));
    let refused = opened.place(registry(), &options).err().expect("an error");
    assert!(
        refused.to_string().contains("no experts") && refused.to_string().contains("--gpu-layers"),
        "{refused}"
    );
    // A program for two devices does not run on one.
    let two = self::options(TREE, placed(ORACLE, Some(3), 0));
    let (chosen, program) = opened.place(registry(), &two).expect("placed");
    let tensors = &opened.files.tensors;
    let one = Runner::load(chosen.device, Arc::new(program), tensors, &mut |_, _| {});
    assert!(matches!(one.err(), Some(RuntimeError::Placement(_))));
}

/// The flags that a refusal names fit, and one step more of either does not.
#[test]
fn a_model_that_is_too_large_is_told_what_fits() {
    // Beside what is left to others.
    const HEADROOM: u64 = 64 << 20;
    let place = |opened: &Opened, gpu_layers: Option<usize>, cpu_experts: usize| {
        let mut options = options("card", placed(TREE, gpu_layers, cpu_experts));
        options.context = Some(128);
        opened.place(registry(), &options)
    };
    let number = |text: &str, flag: &str| -> Option<usize> {
        let rest = &text[text.find(flag)? + flag.len()..];
        rest.split([' ', ',']).nth(1)?.parse().ok()
    };
    for (opened, share) in [(open(&ferris()), 0.6), (hybrid(), 0.75)] {
        CARD_MEMORY.store(u64::MAX, Ordering::Relaxed);
        let (_, program) = place(&opened, None, 0).expect("a large card");
        let room = HEADROOM + (program.memory().total() as f64 * share) as u64;
        CARD_MEMORY.store(room, Ordering::Relaxed);
        let refused = place(&opened, None, 0).err().expect("an error").to_string();
        println!("{refused}");
        let n = number(&refused, "--gpu-layers").expect("a number of layers");
        assert!(n < opened.model.layers, "{refused}");
        place(&opened, Some(n), 0).unwrap_or_else(|e| panic!("{n}: {e}"));
        let more = place(&opened, Some(n + 1), 0)
            .err()
            .expect("an error")
            .to_string();
        assert_eq!(number(&more, "--gpu-layers"), Some(n), "{more}");
        let experts = number(&refused, "--cpu-experts");
        assert_eq!(experts.is_some(), forgets(&opened.graph), "{refused}");
        if let Some(n) = experts {
            place(&opened, None, n).unwrap_or_else(|e| panic!("{n}: {e}"));
            assert!(place(&opened, None, n - 1).is_err());
        }
    }
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

/// Recurrent states on both sides: forks, rejected drafts, and what follows them.
#[test]
fn drafts_are_taken_back_on_both_sides() {
    const DRAFTS: usize = 4;
    let opened = hybrid();
    let ids = text_ids(&opened, TEXT);
    let load = |placement: Option<Placement>| {
        let mut options = LoadOptions::new(TREE);
        options.open.threads = Some(2);
        options.fusion = false;
        options.rows = Some(64);
        options.context = Some(128);
        options.sequences = 3;
        options.drafts = DRAFTS;
        options.all_logits = true;
        options.placement = placement;
        let loaded = opened.load(registry(), &options, &mut |_, _| {});
        loaded.expect("a model that fits").runner
    };
    let story = |runner: &mut Runner| {
        let mut said = Vec::new();
        let a = runner.create().expect("a sequence");
        said.push(feed(runner, a, &ids[..40], 1));
        let b = runner.fork(a).expect("a fork");
        said.push(feed(runner, b, &ids[50..57], 1));
        for accepted in 1..=DRAFTS {
            let start = runner.sequences().tokens(a).expect("alive").len();
            said.push(feed(runner, a, &ids[40..40 + DRAFTS + 1], DRAFTS + 1));
            runner.truncate(a, start + accepted).expect("a kept state");
            said.push(feed(runner, a, &ids[60..62], 1));
        }
        said.push(feed(runner, b, &ids[40..52], 1));
        runner.free(a).expect("alive");
        runner.free(b).expect("alive");
        said
    };
    let want = story(&mut load(None));
    for (gpu_layers, cpu_experts) in [(Some(2), 0), (Some(1), 0), (Some(3), 2), (None, 4)] {
        let mut runner = load(Some(placed(TREE, gpu_layers, cpu_experts)));
        let slots = runner.sequences().free_states();
        let have = story(&mut runner);
        assert!(want == have, "{gpu_layers:?} {cpu_experts}");
        assert_eq!(runner.sequences().free_states(), slots);
    }
}

/// Loads a divided plan that `fault` has tampered with.
fn tampered(opened: &Opened, scripts: &[Script], fault: impl Fn(&mut Vec<EdgeCopy>)) -> Runner {
    let mut options = options(TREE, placed(TREE, Some(5), 0));
    options.fusion = false;
    fit(&mut options, scripts.iter());
    let (chosen, mut program) = opened.place(registry(), &options).expect("placed");
    for plan in &mut program.plans {
        fault(&mut plan.copies);
    }
    let tensors = &opened.files.tensors;
    let devices = chosen.devices();
    Runner::load_on(devices, Arc::new(program), tensors, &mut |_, _| {}).expect("a runner")
}

#[test]
fn a_missing_copy_and_stale_rows_are_caught() {
    let opened = open(&ferris());
    let scripts = &scripts(&opened, 64)[1..2];
    let holds = |fault: &dyn Fn(&mut Vec<EdgeCopy>)| {
        let mut runner = tampered(&opened, scripts, fault);
        let (bounds, tally) = gate(&opened, &mut runner, scripts);
        bounds.hold(&tally.summary().expect("rows"))
    };
    assert!(holds(&|_| ()), "the plan itself passes");
    assert!(!holds(&|copies| copies.clear()), "no copies");
    let copies = {
        let runner = tampered(&opened, scripts, |_| ());
        runner.program().plans[1].copies.len()
    };
    // The hidden rows and the rotary table go over, the hidden rows come back.
    assert!(copies >= 3, "{copies}");
    for i in 0..copies {
        let missing = |c: &mut Vec<EdgeCopy>| {
            c.remove(i);
        };
        assert!(!holds(&missing), "copy {i} missing");
        // One row less than there are is left as an earlier step had it.
        let stale = |c: &mut Vec<EdgeCopy>| c[i].rows = RowsFrom::Fixed;
        assert!(!holds(&stale), "copy {i} brings its first row alone");
    }
}

/// With a GPU's driver in the first place: Vulkan, on a software device where that is
/// there.
#[test]
fn vulkan_and_the_cpu_share_a_model() {
    let ci = std::env::var("CI").is_ok_and(|v| v == "true");
    let devices = hal::vulkan::probe().unwrap_or_default();
    let software = devices.iter().find(|d| d.kind == DeviceKind::Software);
    let Some(device) = software.or(devices.first()) else {
        assert!(!ci, "CI must have Vulkan");
        println!("skipped: no Vulkan device");
        return;
    };
    for (path, gpu_layers, cpu_experts) in [
        (ferris(), Some(3), 0),
        (ferris(), Some(8), 0),
        (model("ferris-moe-2.7m"), None, 3),
        (model("ferris-moe-2.7m"), Some(2), 4),
    ] {
        let opened = open(&path);
        let all = scripts(&opened, 48);
        let what = format!("{} {gpu_layers:?} {cpu_experts}", opened.graph.name());
        for (fusion, scripts) in [(true, &all[1..]), (false, &all[2..4])] {
            let mut options = options("vulkan", placed(TREE, gpu_layers, cpu_experts));
            options.open.device = Some(device.index.to_string());
            options.fusion = fusion;
            options.acts = forgets(&opened.graph).then(|| f32_acts(&opened));
            let loaded = load_candidate(&opened, registry(), &options, scripts.iter());
            let mut candidate = loaded.unwrap_or_else(|e| panic!("{what}: {e}"));
            check_segments(&opened, candidate.program(), (gpu_layers, cpu_experts));
            let (bounds, tally) = gate(&opened, &mut candidate, scripts);
            let found = tally.summary().expect("rows");
            println!("{what} fusion {fusion}: {found}");
            assert!(bounds.hold(&found), "{what} fusion {fusion}: {found}");
            if fusion {
                let short = Script::chunked(&[all[0].streams[0][..12].to_vec()], &[9, 1]);
                let first = Trace::record(&mut candidate, &short).expect("a trace");
                for i in 0..20 {
                    candidate.set_eager(i == 19);
                    let again = Trace::record(&mut candidate, &short).expect("a trace");
                    assert_eq!(first.first_difference(&again), None, "{what}, repeat {i}");
                }
            }
        }
    }
}
