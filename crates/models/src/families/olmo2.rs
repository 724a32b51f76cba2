//! OLMo 2: norms after each part instead of before, and over all of q and of k.

use formats::ConfigView;

use crate::error::Result;
use crate::family::Family;
use crate::gguf::{self, GgufArchitecture, GgufFile};
use crate::read::Defaults;
use crate::spec::{ModelSpec, Norms, QkNorm};
use crate::{guard, windows};

inventory::submit! {
    Family::new("olmo2", &["Olmo2ForCausalLM"], read, file!())
}

inventory::submit! {
    GgufArchitecture::new("olmo2", read_gguf, file!())
}

fn read_gguf(file: &GgufFile<'_>) -> Result<ModelSpec> {
    let mut spec = file.decoder()?;
    spec.norms = gguf::POST;
    spec.each_attention(|_, a| a.qk_norm = QkNorm::Whole);
    let windows = file.windows(None, 4)?;
    // Of OLMo 3, which is converted to this architecture, layers that slide rotate unscaled.
    if windows.iter().any(Option::is_some) {
        let reason = "layers that slide are not computed for this architecture";
        return Err(file.unsupported("attention.sliding_window", reason));
    }
    spec.set_windows(&windows);
    Ok(spec)
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
