//! One measurement, from the gate to the artifact.

use crate::args::{MeasureArgs, Source};
use crate::artifact::{
    Artifact, Decision, Measurements, MemoryUse, SCHEMA, Status, Workload, metric,
};
use crate::ceilings;
use crate::gate::{self, Correctness, Gated};
use crate::measure::{Bench, Sample, Shape};
use crate::peer::Peer;
use crate::process;
use crate::profile::profile;
use crate::provenance::{Environment, Hardware, Software, fingerprint, short, timestamp};
use crate::stat::Stat;
use crate::synthetic;
use anyhow::{Context as _, Result, bail};
use planner::Program;
use registry::Registry;
use runtime::{LoadOptions, Model, Opened};
use sampling::Sampler;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

/// A load over this share of the CPUs before a run means that others are at work.
const BUSY: f64 = 0.5;

pub fn open(source: &Source) -> Result<Opened> {
    match source {
        Source::File(path) => Ok(Opened::open(path)?),
        Source::Synthetic { what, layers } => synthetic::open(what, *layers),
    }
}

/// Measures as the arguments say. What cannot run at all on this device is a
/// blocked artifact; an error is for arguments and files that are wrong.
pub fn measure(registry: &Registry, args: &MeasureArgs) -> Result<Artifact> {
    let source = Source::of(&args.model, &args.synthetic, args.layers)?;
    let shape = Shape {
        prompt: args.prompt_tokens as usize,
        generated: args.gen_tokens as usize,
        depth: args.depth as usize,
        batch: args.batch as usize,
    };
    // What needs no gate to be refused is refused before it, and before the weights
    // are made.
    process::check(args)?;
    if args.sampling.is_some() && args.gen_tokens < 2 {
        bail!("--sampling times what follows the first token: use --gen-tokens 2 or more");
    }
    let mut peers = Vec::new();
    for command in &args.peer {
        let peer = Peer::new(command, args.model.as_deref())?;
        peer.must_suit(&shape, args.processes > 0)?;
        peers.push(peer);
    }
    let opened = open(&source)?;
    let mut options = args.load.options();
    options.context = Some(shape.context());
    options.sequences = shape.sequences();
    let (mut options, notes) = opened.settle(&options)?;

    let mut artifact = Artifact {
        schema: SCHEMA.into(),
        status: Status::Blocked,
        timestamp: timestamp(),
        summary: String::new(),
        hardware: None,
        software: Software::find(),
        workload: workload(&source, &opened, args),
        command: std::env::args().skip(1).map(|a| short(&a)).collect(),
        environment: Environment::before(),
        correctness: None,
        measurements: Measurements::new(),
        memory: None,
        ceilings: None,
        profile: Vec::new(),
        baselines: Vec::new(),
        comparison: Vec::new(),
        decision: Decision {
            accepted: false,
            reason: String::new(),
        },
        notes,
    };
    let busy = artifact.environment.load_before;
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    if let Some(load) = busy.filter(|l| *l > BUSY * cpus as f64) {
        artifact.notes.push(format!(
            "the machine was busy before the run: load {load:.2} on {cpus} CPUs"
        ));
    }
    let (chosen, program) = match opened.place(registry, &options) {
        Ok(placed) => placed,
        Err(e) => {
            artifact.decision.reason = format!("it cannot run here: {e}");
            artifact.summary = format!("{}: {}", artifact.workload.model, artifact.decision.reason);
            return Ok(artifact);
        }
    };
    artifact.notes.extend(chosen.notes.iter().cloned());
    artifact.hardware = Some(Hardware::of(chosen.backend.name, chosen.device.info()));
    describe(&mut artifact.workload, &program);
    artifact.notes.extend(placement(&program));
    for peer in &peers {
        peer.must_have_file(
            args.model.as_deref(),
            artifact.workload.fingerprint.as_deref(),
        )?;
        peer.must_match(&artifact)?;
    }
    let another = args.program.as_deref().is_some_and(process::another);
    if another {
        artifact.notes.push(
            "processes of ours ran another program (--program): there is no gate for it".into(),
        );
    }
    // What follows loads the model itself, on the device that was chosen.
    options.backend = chosen.backend.name.into();
    drop(chosen);

    artifact.correctness = match args.no_gate || another {
        true => None,
        false => Some(climb(registry, &opened, &options, &program, args)?),
    };
    drop(program);
    measure_loaded(
        registry,
        &opened,
        &options,
        &shape,
        args,
        peers,
        &mut artifact,
    )?;
    artifact.environment.after();
    artifact.settle();
    Ok(artifact)
}

fn climb(
    registry: &Registry,
    opened: &Opened,
    options: &LoadOptions,
    program: &Program,
    args: &MeasureArgs,
) -> Result<Correctness> {
    let mut correctness = gate::climb(&Gated {
        opened,
        registry,
        options,
        timed: program,
        synthetic: args.synthetic.is_some(),
        limit: Duration::from_secs(args.gate_limit),
    })
    .context("the gate")?;
    if let Some(path) = &args.text {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let base = match &args.against {
            Some(path) => Some((name_of(path), Opened::open(path)?)),
            None => None,
        };
        let against = base.as_ref().map(|(name, base)| (name.as_str(), base));
        let text = (&*name_of(path), &*text);
        correctness.quality = Some(gate::quality(opened, registry, options, text, against)?);
    }
    Ok(correctness)
}

fn measure_loaded(
    registry: &Registry,
    opened: &Opened,
    options: &LoadOptions,
    shape: &Shape,
    args: &MeasureArgs,
    mut peers: Vec<Peer>,
    artifact: &mut Artifact,
) -> Result<()> {
    let least = Duration::from_millis(args.sample_ms);
    let mut samples = Samples::default();
    for seconds in process::measure(args, &options.backend, &mut peers, artifact)? {
        samples.push(metric::PROCESS, seconds);
    }
    // What the gate held is gone; its peak must not count.
    let alone = forget_peak();
    let mut load = || -> Result<Model> {
        let start = Instant::now();
        let mut model = opened.load(registry, options, &mut |_, _| {})?;
        let load = start.elapsed().as_secs_f64();
        let mut bench = Bench::new(&mut model.runner, Shape { depth: 0, ..*shape }, least)?;
        let first = bench.prompt()?.as_secs_f64();
        bench.finish()?;
        samples.push(metric::LOAD, load);
        samples.push(metric::LOAD_TO_FIRST_TOKEN, load + first);
        Ok(model)
    };
    for _ in 1..args.loads {
        load()?;
    }
    let mut model = load()?;
    let mut bench = Bench::new(&mut model.runner, *shape, least)?;
    bench.sampling = args.sampling.clone();
    for i in 0..args.warmup + args.runs {
        let counted = i >= args.warmup;
        let once = bench.run()?;
        if counted {
            samples.take(&once);
        }
        for peer in &mut peers {
            peer.turn(shape, counted).context("the peer's run")?;
            peer.must_match(artifact)?;
        }
    }
    artifact.measurements = samples.stats();
    let program = bench.runner.program().clone();
    let memory = program.memory();
    let states = program.cache.states.pool_bytes();
    let allocated = bench.runner.devices().map(|d| d.allocated());
    let (now, peak) = allocated.fold((0, 0), |(n, p), (now, peak)| (n + now, p + peak));
    artifact.memory = Some(MemoryUse {
        peak_resident_bytes: hal::cpu::peak_resident_memory().filter(|_| alone),
        device_peak_bytes: peak,
        device_bytes: now,
        weights_bytes: memory.weights,
        kv_bytes: program.cache.pool_bytes(),
        recurrent_state_bytes: states,
        activations_bytes: memory.activations,
    });
    artifact.baselines = peers.into_iter().map(Peer::baseline).collect();
    if args.profile {
        let ceilings = ceilings::measure(&**bench.runner.device())?;
        artifact.profile = profile(&mut bench, shape, Some(&ceilings))?;
        artifact.ceilings = Some(ceilings);
    }
    bench.finish()
}

/// Starts the process's peak of resident memory anew; whether that was possible.
fn forget_peak() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

#[derive(Default)]
struct Samples(BTreeMap<&'static str, Vec<f64>>);

impl Samples {
    fn push(&mut self, name: &'static str, value: f64) {
        self.0.entry(name).or_default().push(value);
    }

    fn take(&mut self, s: &Sample) {
        self.push(metric::PREFILL, s.prefill);
        self.push(metric::DECODE, s.decode);
        self.push(metric::TTFT, s.ttft * 1e3);
        if let Some(batch) = s.batch {
            self.push(metric::BATCH_DECODE, batch);
        }
        if let Some(sampled) = s.sampled {
            self.push(metric::SAMPLED_DECODE, sampled);
        }
    }

    fn stats(self) -> Measurements {
        let all = self.0.into_iter();
        all.filter_map(|(name, s)| Some((name.to_string(), Stat::of(metric::unit(name), s)?)))
            .collect()
    }
}

pub fn name_of(path: &Path) -> String {
    let whole = path.canonicalize();
    let path = whole.as_deref().unwrap_or(path);
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

fn workload(source: &Source, opened: &Opened, args: &MeasureArgs) -> Workload {
    let (model, weights) = match source {
        Source::File(path) => (name_of(path), "file"),
        Source::Synthetic { what, .. } => (what.clone(), "synthetic"),
    };
    let mut schemes: BTreeMap<String, u64> = BTreeMap::new();
    let (mut bytes, mut elements) = (0u64, 0u64);
    for (_, value) in opened.graph.weights() {
        let graph::ValueKind::Weight { tensor, matrix } = &value.kind else {
            continue;
        };
        let Some(t) = opened.files.tensors.get(tensor) else {
            continue;
        };
        bytes += t.info.bytes;
        elements += t.info.elements() as u64;
        if *matrix {
            *schemes.entry(t.info.scheme().into()).or_default() += t.info.bytes;
        }
    }
    Workload {
        model,
        fingerprint: Some(fingerprint(&opened.files.tensors)),
        weights: weights.into(),
        architecture: opened.model.architecture.clone(),
        layers: opened.model.layers,
        parameters: opened.model.parameters,
        schemes,
        bits_per_weight: bytes as f64 * 8.0 / elements.max(1) as f64,
        weights_bytes: bytes,
        kv: None,
        activations: BTreeMap::new(),
        fusion: !args.load.no_fusion,
        prompt_tokens: args.prompt_tokens,
        gen_tokens: args.gen_tokens,
        depth: args.depth,
        batch: args.batch,
        warmup: args.warmup,
        runs: args.runs,
        sampling: (args.sampling.clone()).and_then(|p| Some(Sampler::new(p).ok()?.chain())),
    }
}

/// What lies where, if the model is divided.
fn placement(program: &Program) -> Vec<String> {
    match program.second {
        None => Vec::new(),
        Some(_) => (program.target_reports().iter())
            .map(|t| t.to_string())
            .collect(),
    }
}

/// What only the plan knows.
fn describe(workload: &mut Workload, program: &Program) {
    workload.kv = Some(program.cache.scheme.0.into());
    workload.weights_bytes = program.memory().weights;
    let mut acts: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
    for ((rows, _), act) in program.acts() {
        acts.entry(rows).or_default().insert(act.name());
    }
    let names = |acts: BTreeSet<&str>| acts.into_iter().map(String::from).collect();
    workload.activations = acts
        .into_iter()
        .map(|(rows, acts)| (rows.to_string(), names(acts)))
        .collect();
}
