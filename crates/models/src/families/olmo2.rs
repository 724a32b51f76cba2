//! OLMo 2: norms after each part instead of before, and over all of q and of k.

use formats::ConfigView;

use crate::error::Result;
use crate::family::Family;
use crate::read::Defaults;
use crate::spec::{ModelSpec, Norms, QkNorm};
use crate::{guard, windows};

inventory::submit! {
    Family::new("olmo2", &["Olmo2ForCausalLM"], read, file!())
}

fn read(config: &ConfigView<'_>) -> Result<ModelSpec> {
    guard::refuse(config, guard::NO_WINDOW)?;
    guard::refuse(config, guard::NO_MLP_BIAS)?;
    let defaults = Defaults {
        eps: 1e-5,
        ..Defaults::LLAMA
    };
    let mut spec = ModelSpec::read(config, &defaults)?;
    spec.norms = Norms::POST;
    spec.set_attention_bias(config, false, true)?;
    spec.each_attention(|_, a| a.qk_norm = QkNorm::Whole);
    spec.set_windows(&windows::uniform(config, spec.layers.len(), None)?);
    Ok(spec)
}
