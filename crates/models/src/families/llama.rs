//! Llama: biases optional everywhere, full attention.

use formats::ConfigView;

use crate::error::Result;
use crate::family::Family;
use crate::gguf::{Experts, GgufArchitecture, GgufFile};
use crate::read::Defaults;
use crate::spec::ModelSpec;
use crate::{guard, windows};

inventory::submit! {
    Family::new("llama", &["LlamaForCausalLM"], read, file!())
}

// Also what Mistral, Mixtral and other families without a difference are converted to.
inventory::submit! {
    GgufArchitecture {
        qk_interleaved: true,
        computes: &["expert_count"],
        ..GgufArchitecture::new("llama", read_gguf, file!())
    }
}

fn read_gguf(file: &GgufFile<'_>) -> Result<ModelSpec> {
    match file.keys.opt_f64("expert_count")? {
        None | Some(0.0) => file.decoder(),
        Some(_) => file.decoder_with(Some(&file.experts(&file.frame()?, &Experts::SOFTMAX)?)),
    }
}

fn read(config: &ConfigView<'_>) -> Result<ModelSpec> {
    read_base(config, &Defaults::LLAMA)
}

/// What Llama and the families derived from it share; `defaults` of a derived family override.
pub(super) fn read_base(config: &ConfigView<'_>, defaults: &Defaults) -> Result<ModelSpec> {
    guard::refuse(config, guard::NO_QK_NORM)?;
    guard::refuse(config, guard::NO_WINDOW)?;
    let mut spec = ModelSpec::read(config, defaults)?;
    spec.set_attention_bias(config, false, true)?;
    spec.set_mlp_bias(config)?;
    spec.set_windows(&windows::uniform(config, spec.layers.len(), None)?);
    Ok(spec)
}
