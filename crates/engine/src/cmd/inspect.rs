//! `engine inspect`: what a model is and what it needs.

use crate::cmd::{Context, plan};
use crate::output::{self, Exit};
use crate::session;
use clap::Args;
use formats::{ChatTemplate, TensorStore};
use registry::Registry;
use runtime::{LoadOptions, Opened, human};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct InspectArgs {
    /// Model folder, GGUF file, or OWNER/NAME in the Hugging Face cache
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Serialize)]
struct Report {
    path: PathBuf,
    architecture: String,
    family: &'static str,
    parameters: u64,
    layers: usize,
    hidden_size: usize,
    /// What the layers are, in words → how many are so.
    layer_kinds: BTreeMap<String, usize>,
    vocab_size: usize,
    context_length: usize,
    tied_embeddings: bool,
    rope: String,
    /// Parts of the model that are not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<&'static str>,
    /// Window size → layers that have it.
    windows: BTreeMap<usize, usize>,
    files: usize,
    tensor_bytes: u64,
    /// Storage scheme → how much is stored so.
    schemes: BTreeMap<&'static str, Stored>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tensors: Vec<Tensor>,
    unused_tensors: Vec<String>,
    tokenizer: Option<TokenizerReport>,
    chat_template: bool,
    eos_token_ids: Vec<u32>,
    memory: MemoryReport,
}

#[derive(Serialize, Default)]
struct Stored {
    tensors: usize,
    elements: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct Tensor {
    name: String,
    shape: Vec<usize>,
    scheme: &'static str,
    bytes: u64,
}

#[derive(Serialize)]
struct TokenizerReport {
    tokens: usize,
    special: usize,
    bos: Option<u32>,
    eos: Option<u32>,
}

/// What loading would take, per context length; or why nobody can say.
#[derive(Serialize, Default)]
struct MemoryReport {
    backend: Option<&'static str>,
    device: Option<String>,
    at: Vec<MemoryAt>,
    problem: Option<String>,
}

#[derive(Serialize)]
struct MemoryAt {
    context: usize,
    #[serde(flatten)]
    memory: planner::Memory,
    total: u64,
}

pub fn inspect(context: &Context, args: &InspectArgs) -> anyhow::Result<Exit> {
    let registry = Registry::collect()?;
    let options = session::load_options(&context.global);
    session::registry_knows(&registry, &options.backend)?;
    let opened = Opened::open(&args.model)?;
    let report = report(&opened, &registry, &options, context.term.verbose > 0)?;
    if args.json {
        output::print_json(&report)?;
    } else {
        output::print(&text(&report)?)?;
    }
    Ok(Exit::Done)
}

fn report(
    opened: &Opened,
    registry: &Registry,
    options: &LoadOptions,
    list: bool,
) -> anyhow::Result<Report> {
    let (model, files) = (&opened.model, &opened.files);
    let spec = &model.spec;
    let (mut windows, mut layer_kinds) = (BTreeMap::new(), BTreeMap::new());
    for layer in &spec.layers {
        *layer_kinds.entry(layer.to_string()).or_default() += 1;
        if let Some(window) = layer.window() {
            *windows.entry(window).or_default() += 1;
        }
    }
    let tokenizer = files.tokenizer()?;
    if let Some(tokenizer) = &tokenizer {
        tokenizer.check_vocab(model.vocab_size)?;
    }
    Ok(Report {
        path: files.path.clone(),
        architecture: model.architecture.clone(),
        family: model.family,
        parameters: model.parameters,
        layers: model.layers,
        hidden_size: model.hidden_size,
        layer_kinds,
        vocab_size: model.vocab_size,
        context_length: model.context_length,
        tied_embeddings: spec.tied_embeddings,
        rope: model.rope.clone(),
        left_out: model.left_out,
        windows,
        files: files.tensors.files().len(),
        tensor_bytes: files.tensors.total_bytes(),
        schemes: schemes(&files.tensors),
        tensors: if list {
            tensors(&files.tensors)
        } else {
            Vec::new()
        },
        unused_tensors: model.check_tensors(&files.tensors)?.unused,
        chat_template: match &tokenizer {
            Some(t) if !t.config().chat_templates.is_empty() => {
                // One that does not compile is worth knowing about here.
                ChatTemplate::from_config(t.config())?;
                true
            }
            _ => false,
        },
        tokenizer: tokenizer.map(|t| TokenizerReport {
            tokens: t.vocab_size(),
            special: t.special_ids().count(),
            bos: t.bos_id(),
            eos: t.eos_id(),
        }),
        eos_token_ids: files.generation.eos_token_ids.clone(),
        memory: memory(opened, registry, options),
    })
}

fn schemes(store: &TensorStore) -> BTreeMap<&'static str, Stored> {
    let mut all: BTreeMap<&'static str, Stored> = BTreeMap::new();
    for t in store.stored() {
        let s = all.entry(t.info.scheme()).or_default();
        s.tensors += 1;
        s.elements += t.info.elements() as u64;
        s.bytes += t.info.bytes;
    }
    all
}

fn tensors(store: &TensorStore) -> Vec<Tensor> {
    let tensor = |t: formats::TensorRef<'_>| Tensor {
        name: t.info.name.clone(),
        shape: t.info.shape.clone(),
        scheme: t.info.scheme(),
        bytes: t.info.bytes,
    };
    store.stored().map(tensor).collect()
}

/// At the default context, at the model's own and at `--ctx`.
fn memory(opened: &Opened, registry: &Registry, options: &LoadOptions) -> MemoryReport {
    let mut report = MemoryReport::default();
    let own = opened.model.context_length;
    let mut contexts = vec![own.min(runtime::DEFAULT_CONTEXT), own];
    contexts.extend(options.context);
    contexts.sort_unstable();
    contexts.dedup();
    let settled = opened.settle(options).map_err(anyhow::Error::from);
    let filled = settled.and_then(|(options, _)| {
        let (backend, device) = plan::find_device(registry, &options)?;
        report.backend = Some(backend.name);
        report.device = Some(device.name.clone());
        for context in contexts {
            let memory = plan::memory_at(opened, registry, backend, &device, &options, context)?;
            report.at.push(MemoryAt {
                context,
                memory,
                total: memory.total(),
            });
        }
        Ok(())
    });
    report.problem = filled.err().map(|e| e.to_string());
    report
}

fn text(r: &Report) -> Result<String, std::fmt::Error> {
    let mut s = String::new();
    let mut line = |name: &str, value: String| writeln!(s, "{name:<14} {value}");
    line("path", r.path.display().to_string())?;
    line("architecture", format!("{} ({})", r.architecture, r.family))?;
    line(
        "parameters",
        format!("{} ({})", r.parameters, millions(r.parameters)),
    )?;
    line(
        "sizes",
        format!("{} layers, hidden {}", r.layers, r.hidden_size),
    )?;
    for (kind, layers) in &r.layer_kinds {
        line("layers", format!("{layers} of {kind}"))?;
    }
    let tied = if r.tied_embeddings { ", tied" } else { "" };
    line("vocabulary", format!("{}{tied}", r.vocab_size))?;
    line("context", format!("{} tokens", r.context_length))?;
    line("rope", r.rope.clone())?;
    if let Some(parts) = r.left_out {
        line("left out", format!("{parts}: only text is read"))?;
    }
    for (window, layers) in &r.windows {
        line("window", format!("{window} tokens in {layers} layers"))?;
    }
    let files = if r.files == 1 { "file" } else { "files" };
    line(
        "weights",
        format!("{} in {} {files}", human(r.tensor_bytes), r.files),
    )?;
    for (scheme, stored) in &r.schemes {
        line(
            "",
            format!(
                "{scheme}: {} tensors, {} elements, {}",
                stored.tensors,
                stored.elements,
                human(stored.bytes)
            ),
        )?;
    }
    if !r.unused_tensors.is_empty() {
        line("unused", r.unused_tensors.join(", "))?;
    }
    line(
        "tokenizer",
        match &r.tokenizer {
            Some(t) => format!("{} tokens, {} of them special", t.tokens, t.special),
            None => "none".into(),
        },
    )?;
    let yes = |b| if b { "yes" } else { "no" };
    line("chat template", yes(r.chat_template).into())?;
    line("end tokens", format!("{:?}", r.eos_token_ids))?;
    memory_text(&r.memory, &mut line)?;
    for t in &r.tensors {
        writeln!(s, "{:<60} {:>6} {:?}", t.name, t.scheme, t.shape)?;
    }
    Ok(s)
}

fn memory_text(
    memory: &MemoryReport,
    line: &mut impl FnMut(&str, String) -> std::fmt::Result,
) -> std::fmt::Result {
    if let (Some(backend), Some(device)) = (memory.backend, &memory.device) {
        line("memory", format!("with {backend} on {device}"))?;
    }
    for m in &memory.at {
        line(
            "",
            format!(
                "context {}: {} (weights {}, KV cache {}, activations {})",
                m.context,
                human(m.total),
                human(m.memory.weights),
                human(m.memory.cache),
                human(m.memory.activations)
            ),
        )?;
    }
    match &memory.problem {
        Some(problem) => line("memory", format!("not known: {problem}")),
        None => Ok(()),
    }
}

fn millions(n: u64) -> String {
    if n >= 1_000_000_000 {
        format!("{:.2} billion", n as f64 / 1e9)
    } else {
        format!("{:.2} million", n as f64 / 1e6)
    }
}
