//! Qwen2 and Qwen2.5: biases on q, k and v only, whatever `attention_bias` says; some layers may
//! slide.

use formats::ConfigView;

use crate::error::Result;
use crate::family::Family;
use crate::gguf::{GgufArchitecture, GgufFile};
use crate::read::{Defaults, KvHeads};
use crate::spec::ModelSpec;
use crate::{guard, windows};

inventory::submit! {
    Family::new("qwen2", &["Qwen2ForCausalLM"], read, file!())
}

inventory::submit! {
    GgufArchitecture::new("qwen2", read_gguf, file!())
}

fn read_gguf(file: &GgufFile<'_>) -> Result<ModelSpec> {
    let mut spec = file.decoder()?;
    spec.each_attention(|_, a| a.qkv_bias = true);
    Ok(spec)
}

/// What absent fields mean; derived families override.
pub(super) const DEFAULTS: Defaults = Defaults {
    kv_heads: KvHeads::Count(32),
    context_length: 32_768,
    ..Defaults::LLAMA
};

fn read(config: &ConfigView<'_>) -> Result<ModelSpec> {
    guard::refuse(config, guard::NO_QK_NORM)?;
    let mut spec = read_base(config, &DEFAULTS)?;
    spec.each_attention(|_, a| a.qkv_bias = true);
    Ok(spec)
}

/// What Qwen2 and the families derived from it share; `defaults` of a derived family override.
pub(super) fn read_base(config: &ConfigView<'_>, defaults: &Defaults) -> Result<ModelSpec> {
    guard::refuse(config, guard::NO_MLP_BIAS)?;
    let mut spec = ModelSpec::read(config, defaults)?;
    spec.set_windows(&windows::per_layer(config, spec.layers.len())?);
    Ok(spec)
}
