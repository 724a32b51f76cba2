//! Mistral: no biases, one sliding window for all layers.

use formats::ConfigView;

use crate::decoder::{Defaults, KvHeads, ModelSpec};
use crate::error::Result;
use crate::family::Family;
use crate::{guard, windows};

inventory::submit! {
    Family {
        model_type: "mistral",
        architectures: &["MistralForCausalLM"],
        read,
        source: file!(),
    }
}

fn read(config: &ConfigView<'_>) -> Result<ModelSpec> {
    guard::refuse(config, guard::NO_QK_NORM)?;
    guard::refuse(config, guard::NO_ATTENTION_BIAS)?;
    guard::refuse(config, guard::NO_MLP_BIAS)?;
    let mut spec = ModelSpec::read(
        config,
        &Defaults {
            kv_heads: KvHeads::Count(8),
            head_dim: None,
            context_length: 131_072,
        },
    )?;
    let window = windows::sliding_window(config)?;
    spec.set_windows(windows::uniform(config, spec.layers.len(), window)?);
    Ok(spec)
}
