//! Qwen3: Qwen2 with a norm on each head of q and k, an explicit head size and optional biases.

use formats::ConfigView;

use super::qwen2;
use crate::error::Result;
use crate::family::Family;
use crate::gguf::{GgufArchitecture, GgufFile};
use crate::read::Defaults;
use crate::spec::{ModelSpec, QkNorm};

inventory::submit! {
    Family::new("qwen3", &["Qwen3ForCausalLM"], read, file!())
}

inventory::submit! {
    GgufArchitecture::new("qwen3", read_gguf, file!())
}

fn read_gguf(file: &GgufFile<'_>) -> Result<ModelSpec> {
    let mut spec = file.decoder()?;
    spec.each_attention(|_, a| a.qk_norm = QkNorm::Head);
    Ok(spec)
}

fn read(config: &ConfigView<'_>) -> Result<ModelSpec> {
    let defaults = Defaults {
        head_dim: Some(128),
        ..qwen2::DEFAULTS
    };
    let mut spec = qwen2::read_base(config, &defaults)?;
    set_attention(config, &mut spec)?;
    Ok(spec)
}

/// Biases and norms of attention, as in all families derived from Qwen3.
pub(super) fn set_attention(config: &ConfigView<'_>, spec: &mut ModelSpec) -> Result<()> {
    spec.set_attention_bias(config, false, true)?;
    spec.each_attention(|_, a| a.qk_norm = QkNorm::Head);
    Ok(())
}
