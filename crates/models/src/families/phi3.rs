//! Phi-3 and Phi-4 mini: Llama with fused projections, a window, a part of each head rotating and
//! LongRoPE.

use formats::{ConfigView, Recipe};

use crate::error::{ModelError, Result};
use crate::family::Family;
use crate::gguf::GgufArchitecture;
use crate::read::Defaults;
use crate::rope::{RopeDefaults, RopeScaling};
use crate::sources::{Weight, fused_gate_up, fused_qkv};
use crate::spec::{Ffn, Mixer, ModelSpec};
use crate::{guard, windows};

inventory::submit! {
    Family {
        sources,
        ..Family::new("phi3", &["Phi3ForCausalLM"], read, file!())
    }
}

inventory::submit! {
    GgufArchitecture::new("phi3", |file| file.decoder(), file!())
}

const DEFAULTS: Defaults = Defaults {
    context_length: 4096,
    eps: 1e-5,
    rope: Some(RopeDefaults {
        partial: Some(1.0),
        original_context: Some(4096),
        long_names: &["su", "yarn"],
        ..RopeDefaults::WHOLE
    }),
    ..Defaults::LLAMA
};

fn read(config: &ConfigView<'_>) -> Result<ModelSpec> {
    guard::refuse(config, guard::NO_QK_NORM)?;
    guard::refuse(config, guard::NO_ATTENTION_BIAS)?;
    guard::refuse(config, guard::NO_MLP_BIAS)?;
    let mut spec = ModelSpec::read(config, &DEFAULTS)?;
    let scaling = spec.ropes.iter().map(|rope| rope.scaling);
    let known = |s: &RopeScaling| matches!(s, RopeScaling::Default | RopeScaling::LongRope { .. });
    if let Some(scaling) = scaling.into_iter().find(|s| !known(s)) {
        return Err(ModelError::unsupported(
            config,
            "rope_scaling.type",
            scaling.to_string(),
            "known for this family: default, longrope",
        ));
    }
    let window = config.opt_usize("sliding_window")?;
    spec.set_windows(&windows::uniform(config, spec.layers.len(), window)?);
    Ok(spec)
}

fn sources(spec: &ModelSpec, weight: &Weight<'_>) -> Vec<Recipe> {
    let layer = weight.layer.and_then(|i| spec.layers.get(i));
    let Some((Mixer::Attention(a), Ffn::Dense(d))) = layer.map(|l| (&l.mixer, &l.ffn)) else {
        return Vec::new();
    };
    let mut made = fused_qkv(spec.hidden_size, a, weight);
    made.extend(fused_gate_up(spec.hidden_size, d.intermediate, weight));
    made
}
