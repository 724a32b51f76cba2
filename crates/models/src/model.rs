//! A model as its configuration describes it.

use formats::ConfigView;
use graph::Graph;

use crate::decoder::{MAX_PARAMETERS, ModelSpec};
use crate::error::{ModelError, Result};
use crate::{family, guard};

/// A model read from its configuration; its weights are named, not loaded.
#[derive(Clone, Debug)]
pub struct Model {
    /// `architectures[0]`, such as `LlamaForCausalLM`.
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
    let parameters = spec.parameters();
    let parameters = u64::try_from(parameters)
        .ok()
        .filter(|n| *n <= MAX_PARAMETERS)
        .ok_or_else(|| ModelError::TooLarge {
            path: config.file().to_path_buf(),
            parameters,
            limit: MAX_PARAMETERS,
        })?;
    let graph = spec
        .graph(family.model_type)
        .map_err(|source| ModelError::Graph {
            path: config.file().to_path_buf(),
            source,
        })?;
    let rope: Vec<_> = spec.ropes.iter().map(|r| r.to_string()).collect();
    Ok(Model {
        architecture,
        family: family.model_type,
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
