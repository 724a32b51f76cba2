//! From a model's files and the global flags to something that can run.

use crate::args::GlobalArgs;
use crate::cmd::plan;
use crate::output::{Term, Usage};
use crate::progress::Progress;
use formats::{ModelFiles, Tokenizer};
use hal::DeviceInfo;
use planner::{Program, Target};
use registry::Registry;
use runtime::device::Chosen;
use runtime::{LoadOptions, Opened, Placement, Runner, RuntimeError};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Whether a command needs the model's tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Required,
    /// Taken if the model has one.
    Optional,
    No,
}

/// A model that has a device, a plan and enough memory, and is not loaded yet:
/// the place for checks that should not wait for the weights.
pub struct Placed {
    pub opened: Opened,
    pub tokenizer: Option<Arc<Tokenizer>>,
    pub program: Arc<Program>,
    chosen: Chosen,
    start: Instant,
}

/// A model that runs.
pub struct Session {
    pub opened: Opened,
    pub tokenizer: Option<Arc<Tokenizer>>,
    pub runner: Runner,
    /// From opening the files to the last weight.
    pub load_seconds: f64,
}

/// Opens a model and says so where `--ctx` goes beyond what it was made for.
pub fn open(term: &Term, path: &Path, options: &LoadOptions) -> anyhow::Result<Opened> {
    let opened = Opened::open(path)?;
    if let Some(wanted) = options.context
        && wanted > opened.model.context_length
    {
        term.note(format_args!(
            "warning: --ctx {wanted} is more than the {} positions this model was made for; answers may get worse beyond them",
            opened.model.context_length
        ));
    }
    Ok(opened)
}

/// Opens a model, chooses its device and plans it, its tokenizer beside.
pub fn place(term: &Term, path: &Path, options: LoadOptions, need: Need) -> anyhow::Result<Placed> {
    place_with(term, path, options, need, |_, _| Ok(()))
}

/// As [`place`]; `adjust` sees the model before it is planned.
pub fn place_with(
    term: &Term,
    path: &Path,
    mut options: LoadOptions,
    need: Need,
    adjust: impl FnOnce(&Opened, &mut LoadOptions) -> anyhow::Result<()>,
) -> anyhow::Result<Placed> {
    let start = Instant::now();
    let registry = Registry::collect()?;
    registry_knows(&registry, &options.backend)?;
    check_placement(&registry, &options)?;
    let opened = open(term, path, &options)?;
    adjust(&opened, &mut options)?;
    place_opened(term, &registry, opened, &options, need, start)
}

/// An unknown backend is found before any file is read.
pub fn registry_knows(registry: &Registry, backend: &str) -> anyhow::Result<()> {
    if backend != runtime::device::AUTO {
        registry
            .backend(backend)
            .map_err(|e| Usage(format!("--backend: {e}")))?;
    }
    Ok(())
}

/// Refuses to divide a model between the CPU and itself. Finds what a load would
/// choose first; what it does choose may be another device, see [`needs_gpu`].
pub fn check_placement(registry: &Registry, options: &LoadOptions) -> anyhow::Result<()> {
    let divided = |p: &Placement| p.is_given() && p.gpu_layers != Some(0);
    if !options.placement.as_ref().is_some_and(divided) {
        return Ok(());
    }
    match plan::find_device(registry, options) {
        Ok((backend, device)) => needs_gpu(backend.name, &device),
        // The load says what is wrong there.
        Err(_) => Ok(()),
    }
}

fn needs_gpu(backend: &str, device: &DeviceInfo) -> anyhow::Result<()> {
    if device.kind == hal::DeviceKind::Cpu {
        return Err(Usage(format!(
            "--gpu-layers and --cpu-experts divide a model between a GPU and the CPU, and {backend} \
             runs on the CPU: name another --backend (`engine doctor` lists them) or leave them away"
        ))
        .into());
    }
    Ok(())
}

fn place_opened(
    term: &Term,
    registry: &Registry,
    opened: Opened,
    options: &LoadOptions,
    need: Need,
    start: Instant,
) -> anyhow::Result<Placed> {
    let files = &opened.files;
    let vocab = opened.model.vocab_size;
    let (tokenizer, placed) = std::thread::scope(|scope| {
        // Reading a vocabulary takes about as long as planning does. Without a
        // second thread one simply follows the other.
        let beside = std::thread::Builder::new()
            .name("tokenizer".into())
            .spawn_scoped(scope, || load_tokenizer(files, vocab, need));
        let placed = opened.place(registry, options);
        let tokenizer = match beside {
            Ok(thread) => thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(_) => load_tokenizer(files, vocab, need),
        };
        (tokenizer, placed)
    });
    let tokenizer = tokenizer?;
    let (chosen, program) = placed?;
    for line in &chosen.notes {
        term.note(format_args!("note: {line}"));
    }
    if program.second.is_some() {
        needs_gpu(program.backend.name, &program.device)?;
    }
    for line in placement(&program) {
        term.note(line);
    }
    let placed = Placed {
        opened,
        tokenizer,
        program: Arc::new(program),
        chosen,
        start,
    };
    term.detail(placed.summary());
    if let Some(plan) = placed.program.plan_for(1)
        && term.verbose > 1
    {
        term.note(placed.program.report(plan));
    }
    Ok(placed)
}

fn load_tokenizer(
    files: &ModelFiles,
    vocab: usize,
    need: Need,
) -> Result<Option<Arc<Tokenizer>>, formats::Error> {
    let tokenizer = match need {
        Need::Required => Some(files.require_tokenizer()?),
        Need::Optional => files.tokenizer()?,
        Need::No => None,
    };
    if let Some(tokenizer) = &tokenizer {
        tokenizer.check_vocab(vocab)?;
    }
    Ok(tokenizer.map(Arc::new))
}

impl Placed {
    /// Refuses a prompt that leaves no room for an answer, or ids that the model
    /// does not have.
    pub fn check_prompt(&self, ids: &[u32]) -> anyhow::Result<()> {
        if ids.is_empty() {
            return Err(RuntimeError::EmptyPrompt.into());
        }
        let context = self.program.limits.context;
        if ids.len() >= context {
            return Err(RuntimeError::PromptTooLong {
                tokens: ids.len(),
                context,
            }
            .into());
        }
        check_ids(ids, self.opened.model.vocab_size)
    }

    pub fn load(self, term: &Term) -> anyhow::Result<Session> {
        let mut bar = Progress::bytes(term, "loading");
        let runner = Runner::load_on(
            self.chosen.devices(),
            self.program,
            &self.opened.files.tensors,
            &mut |done, total| bar.update(done, total),
        )?;
        Ok(Session {
            opened: self.opened,
            tokenizer: self.tokenizer,
            runner,
            load_seconds: self.start.elapsed().as_secs_f64(),
        })
    }

    fn summary(&self) -> String {
        let memory = self.program.memory();
        format!(
            "{} with {} parameters on {}: weights {}, KV cache {} for {} tokens, activations {}",
            self.opened.model.architecture,
            self.opened.model.parameters,
            self.program.device.name,
            runtime::human(memory.weights),
            runtime::human(memory.cache),
            self.program.limits.context,
            runtime::human(memory.activations),
        )
    }
}

pub fn check_ids(ids: &[u32], vocab: usize) -> anyhow::Result<()> {
    match ids.iter().find(|id| **id as usize >= vocab) {
        Some(id) => Err(RuntimeError::TokenRange { id: *id, vocab }.into()),
        None => Ok(()),
    }
}

/// Options of a command that runs one sequence at a time.
pub fn load_options(global: &GlobalArgs) -> LoadOptions {
    LoadOptions {
        sequences: 1,
        ..global.load_options()
    }
}

/// "117 steps, 52 fused", and "3 segments" of a model that is divided: what one token
/// costs.
pub fn plan_summary(program: &Program) -> String {
    match program.plan_for(1) {
        Some(plan) => {
            let fused = plan.steps.iter().filter(|s| s.key.layer.is_composite());
            let segments = match plan.segments.len() {
                0 | 1 => String::new(),
                n => format!(" in {n} segments"),
            };
            let steps = plan.steps.len();
            format!("{steps} steps{segments}, {} fused", fused.count())
        }
        None => "no plan".into(),
    }
}

/// "cpu_simd on Xeon (2 threads)".
pub fn device_summary(program: &Program) -> String {
    let targets: Vec<String> = program.targets().iter().map(target_summary).collect();
    targets.join(" and ")
}

fn target_summary(target: &Target) -> String {
    let (backend, device) = (target.backend.name, &target.device);
    match device.kind {
        hal::DeviceKind::Cpu => format!(
            "{backend} on {} ({} thread{})",
            device.name,
            device.threads,
            if device.threads == 1 { "" } else { "s" }
        ),
        _ => format!("{backend} on {}", device.name),
    }
}

/// What lies where, a line for each device; nothing for a model that is not divided.
pub fn placement(program: &Program) -> Vec<String> {
    if program.second.is_none() {
        return Vec::new();
    }
    let reports = program.target_reports().into_iter();
    reports
        .map(|t| {
            format!(
                "{} on {}: {}; weights {}, caches {}, activations {}",
                t.backend,
                t.device,
                t.holds,
                runtime::human(t.memory.weights),
                runtime::human(t.memory.cache),
                runtime::human(t.memory.activations)
            )
        })
        .collect()
}
