//! Llama: biases optional everywhere, full attention.

use formats::ConfigView;

use crate::decoder::{Defaults, KvHeads, ModelSpec};
use crate::error::Result;
use crate::family::Family;
use crate::gguf::GgufArchitecture;
use crate::{guard, windows};

inventory::submit! {
    Family {
        model_type: "llama",
        architectures: &["LlamaForCausalLM"],
        read,
        source: file!(),
    }
}

// Also what Mistral and other families without a difference are converted to.
inventory::submit! {
    GgufArchitecture {
        name: "llama",
        qk_interleaved: true,
        adjust: |_| {},
        source: file!(),
    }
}

fn read(config: &ConfigView<'_>) -> Result<ModelSpec> {
    guard::refuse(config, guard::NO_QK_NORM)?;
    guard::refuse(config, guard::NO_WINDOW)?;
    let mut spec = ModelSpec::read(
        config,
        &Defaults {
            kv_heads: KvHeads::SameAsHeads,
            head_dim: None,
            context_length: 2048,
        },
    )?;
    let attention_bias = config.opt_bool("attention_bias")?.unwrap_or(false);
    spec.qkv_bias = attention_bias;
    spec.o_bias = attention_bias;
    spec.mlp_bias = config.opt_bool("mlp_bias")?.unwrap_or(false);
    spec.set_windows(windows::uniform(config, spec.layers.len(), None)?);
    Ok(spec)
}
