//! Mistral: no biases, one sliding window for all layers.

use formats::ConfigView;

use crate::error::Result;
use crate::family::Family;
use crate::read::{Defaults, KvHeads};
use crate::spec::ModelSpec;
use crate::{guard, windows};

inventory::submit! {
    Family::new("mistral", &["MistralForCausalLM"], read, file!())
}

fn read(config: &ConfigView<'_>) -> Result<ModelSpec> {
    let mut spec = read_base(config, &DEFAULTS)?;
    let window = windows::sliding_window(config)?;
    spec.set_windows(&windows::uniform(config, spec.layers.len(), window)?);
    Ok(spec)
}

/// What absent fields mean; derived families override.
pub(super) const DEFAULTS: Defaults = Defaults {
    kv_heads: KvHeads::Count(8),
    context_length: 131_072,
    ..Defaults::LLAMA
};

/// Mistral without its windows.
pub(super) fn read_base(config: &ConfigView<'_>, defaults: &Defaults) -> Result<ModelSpec> {
    guard::refuse(config, guard::NO_QK_NORM)?;
    guard::refuse(config, guard::NO_ATTENTION_BIAS)?;
    guard::refuse(config, guard::NO_MLP_BIAS)?;
    ModelSpec::read(config, defaults)
}
