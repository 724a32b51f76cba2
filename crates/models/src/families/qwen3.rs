//! Qwen3: Qwen2 with a norm on each head of q and k, an explicit head size and optional biases.

use formats::ConfigView;

use crate::decoder::{Defaults, ModelSpec};
use crate::error::Result;
use crate::family::Family;
use crate::gguf::GgufArchitecture;
use crate::qwen2;

inventory::submit! {
    Family {
        model_type: "qwen3",
        architectures: &["Qwen3ForCausalLM"],
        read,
        source: file!(),
    }
}

inventory::submit! {
    GgufArchitecture {
        name: "qwen3",
        qk_interleaved: false,
        adjust: |spec| spec.qk_norm = true,
        source: file!(),
    }
}

fn read(config: &ConfigView<'_>) -> Result<ModelSpec> {
    let defaults = Defaults {
        head_dim: Some(128),
        ..qwen2::DEFAULTS
    };
    let mut spec = qwen2::read_base(config, &defaults)?;
    let attention_bias = config.opt_bool("attention_bias")?.unwrap_or(false);
    spec.qkv_bias = attention_bias;
    spec.o_bias = attention_bias;
    spec.qk_norm = true;
    Ok(spec)
}
