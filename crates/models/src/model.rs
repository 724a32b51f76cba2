//! A model as its configuration describes it.

use std::path::Path;

use formats::{ConfigView, Description, ModelFiles};
use graph::Graph;

use crate::decoder::{MAX_PARAMETERS, ModelSpec};
use crate::error::{ModelError, Result};
use crate::{family, gguf, guard};

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
}

/// Reads a Hugging Face `config.json`.
///
/// Errors: an unknown architecture; a field that is missing or out of range; sizes that do not fit
/// each other; a feature that is not computed here. Each names the field and what it holds.
pub fn load(config: &ConfigView<'_>) -> Result<Model> {
    let (family, architecture) = family::find(config, &family::families())?;
    guard::refuse_common(config)?;
    let spec = (family.read)(config)?;
    build(
        config.file(),
        family.model_type,
        architecture,
        spec,
        |tensor| tensor.to_string(),
    )
}

/// Reads the model that opened files describe, in either form, and checks that its tensors are
/// there. Where the file has them otherwise than the graph wants them, it defines
/// those that the graph names.
///
/// Errors: those of [`load`], and of [`Model::check_tensors`].
pub fn read(files: &mut ModelFiles) -> Result<Model> {
    let model = match &files.description {
        Description::Config { value, path } => load(&ConfigView::new(value, path)?)?,
        Description::Metadata(metadata) => {
            let (model, recipes) = gguf::load(&metadata.view(), &files.tensors)?;
            for (tensor, recipe) in recipes {
                files.tensors.define(&tensor, &recipe)?;
            }
            model
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
    let graph = spec
        .graph_named(family, rename)
        .map_err(|source| ModelError::Graph {
            path: path.to_path_buf(),
            source,
        })?;
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
        rope: rope.join("; "),
        spec,
    })
}
