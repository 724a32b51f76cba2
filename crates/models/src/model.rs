//! A model as its configuration describes it.

use std::path::{Path, PathBuf};

use formats::{ConfigView, Description, ModelFiles};
use graph::Graph;

use crate::error::{ModelError, Result};
use crate::sources::{PLAIN, Sources};
use crate::spec::{MAX_PARAMETERS, ModelSpec};
use crate::{family, gguf};

/// Context that [`Model::graph`] is built for, where the model's own is not shorter.
pub const DEFAULT_CONTEXT: usize = 4096;

/// A model read from its configuration; its weights are named, not loaded.
#[derive(Clone, Debug)]
pub struct Model {
    /// `architectures[0]`, such as `LlamaForCausalLM`; of a GGUF file, `general.architecture`.
    pub architecture: String,
    /// `model_type` of the family that read it.
    pub family: &'static str,
    /// The forward pass, with the names of the tensors that it needs.
    pub graph: Graph,
    /// Everything that the graph was wired from.
    pub spec: ModelSpec,
    /// Positions that the model was made for.
    pub context_length: usize,
    pub vocab_size: usize,
    pub hidden_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Stored weights, each counted once.
    pub parameters: u64,
    /// The rotary setting in words.
    pub rope: String,
    /// Parts of the model that are not read, such as its vision tower, in words.
    pub left_out: Option<&'static str>,
    pub(crate) sources: Sources,
    /// From Hugging Face names to those of the files.
    rename: fn(&str) -> String,
    /// Of the configuration.
    path: PathBuf,
}

impl Model {
    /// Whether [`graph_for`](Self::graph_for) another context is another graph.
    pub fn depends_on_context(&self) -> bool {
        self.spec.ropes.iter().any(|rope| rope.long.is_some())
    }

    /// Wires the graph anew after a change of the specification.
    pub(crate) fn rewire(&mut self) -> Result<()> {
        let context = DEFAULT_CONTEXT.min(self.spec.context_length);
        self.graph = self.graph_for(context)?;
        Ok(())
    }

    /// The model cut to its first `layers` (one at least) between its embedding and its last norm
    /// and head: what a comparison can afford where the whole is too large.
    ///
    /// Errors: none that building the whole did not have.
    pub fn first_layers(&self, layers: usize) -> Result<Model> {
        let mut model = self.clone();
        model.spec.layers.truncate(layers.max(1));
        model.layers = model.spec.layers.len();
        model.parameters = u64::try_from(model.spec.parameters()).unwrap_or(self.parameters);
        model.rewire()?;
        Ok(model)
    }

    /// The forward pass for sequences of up to `context` positions: [`graph`](Self::graph) with
    /// other constants.
    ///
    /// Errors: none that building [`graph`](Self::graph) did not have.
    pub fn graph_for(&self, context: usize) -> Result<Graph> {
        wire(&self.spec, self.family, context, self.rename, &self.path)
    }
}

/// Reads a Hugging Face `config.json`.
///
/// Errors: an unknown architecture; a field that is missing or out of range; sizes that do not fit
/// each other; a feature that is not computed here. Each names the field and what it holds.
pub fn load(config: &ConfigView<'_>) -> Result<Model> {
    let (family, architecture) = family::find(config, &family::families())?;
    let spec = family.spec(config)?;
    let mut model = build(
        config.file(),
        family.model_type,
        architecture,
        spec,
        |tensor| tensor.to_string(),
    )?;
    model.sources = family.sources;
    model.left_out = family.text.map(|text| text.left_out);
    Ok(model)
}

/// Reads the model that opened files describe, in either form, and checks that its tensors are
/// there. Where the file has them otherwise than the graph wants them, it defines
/// those that the graph names.
///
/// Errors: those of [`load`], and of [`Model::check_tensors`].
pub fn read(files: &mut ModelFiles) -> Result<Model> {
    let model = match &files.description {
        Description::Config { value, path } => {
            let mut model = load(&ConfigView::new(value, path)?)?;
            model.find_rotations(&files.tensors)?;
            model.define_tensors(&mut files.tensors)?;
            model
        }
        Description::Metadata(metadata) => {
            return gguf::load(&metadata.view(), &mut files.tensors);
        }
    };
    model.check_tensors(&files.tensors)?;
    Ok(model)
}

/// Wires a specification; `rename` gives each weight, called as in a Hugging Face folder, the
/// name that it has in the files.
pub(crate) fn build(
    path: &Path,
    family: &'static str,
    architecture: String,
    spec: ModelSpec,
    rename: fn(&str) -> String,
) -> Result<Model> {
    let parameters = spec.parameters();
    let parameters = u64::try_from(parameters)
        .ok()
        .filter(|n| *n <= MAX_PARAMETERS)
        .ok_or_else(|| ModelError::TooLarge {
            path: path.to_path_buf(),
            parameters,
            limit: MAX_PARAMETERS,
        })?;
    let context = DEFAULT_CONTEXT.min(spec.context_length);
    let graph = wire(&spec, family, context, rename, path)?;
    let rope: Vec<_> = spec.ropes.iter().map(|r| r.to_string()).collect();
    Ok(Model {
        architecture,
        family,
        graph,
        context_length: spec.context_length,
        vocab_size: spec.vocab_size,
        hidden_size: spec.hidden_size,
        layers: spec.layers.len(),
        parameters,
        rope: match rope.is_empty() {
            true => "none".to_string(),
            false => rope.join("; "),
        },
        left_out: None,
        sources: PLAIN,
        rename,
        path: path.to_path_buf(),
        spec,
    })
}

fn wire(
    spec: &ModelSpec,
    family: &str,
    context: usize,
    rename: fn(&str) -> String,
    path: &Path,
) -> Result<Graph> {
    let graph = spec.graph_named(family, context, rename);
    graph.map_err(|source| ModelError::Graph {
        path: path.to_path_buf(),
        source,
    })
}
