//! GLM-4: norms before and after each part, half of each head rotating in pairs of neighbours,
//! fused gate and up.

use formats::config::MAX_DIM;
use formats::{ConfigView, Recipe};

use crate::error::Result;
use crate::family::Family;
use crate::gguf::{self, GgufArchitecture, GgufFile};
use crate::read::{Defaults, KvHeads};
use crate::rope::RopeDefaults;
use crate::sources::{Weight, fused_gate_up};
use crate::spec::{Ffn, ModelSpec, Norms};
use crate::{guard, windows};

inventory::submit! {
    Family {
        sources,
        ..Family::new("glm4", &["Glm4ForCausalLM"], read, file!())
    }
}

inventory::submit! {
    GgufArchitecture {
        computes: &["rope.dimension_sections", "nextn_predict_layers"],
        ..GgufArchitecture::new("glm4", read_gguf, file!())
    }
}

fn read_gguf(file: &GgufFile<'_>) -> Result<ModelSpec> {
    let mut spec = file.decoder()?;
    spec.norms = gguf::SANDWICH;
    // Files of models whose positions have sections hold the pairs apart; the sections themselves
    // do not matter to text.
    let sections = file
        .keys
        .opt_usizes_in("rope.dimension_sections", 0..=MAX_DIM)?;
    let sections = sections.is_some_and(|all| all.iter().any(|n| *n > 0));
    for rope in &mut spec.ropes {
        rope.interleaved = !sections;
    }
    Ok(spec)
}

const DEFAULTS: Defaults = Defaults {
    kv_heads: KvHeads::Count(2),
    head_dim: Some(128),
    context_length: 131_072,
    eps: 1.5625e-7,
    rope: Some(RopeDefaults {
        partial: Some(0.5),
        ..RopeDefaults::WHOLE
    }),
    ..Defaults::LLAMA
};

const NORMS: Norms = Norms {
    before_mixer: Some("input_layernorm"),
    after_mixer: Some("post_self_attn_layernorm"),
    before_ffn: Some("post_attention_layernorm"),
    after_ffn: Some("post_mlp_layernorm"),
};

fn read(config: &ConfigView<'_>) -> Result<ModelSpec> {
    guard::refuse(config, guard::NO_QK_NORM)?;
    guard::refuse(config, guard::NO_MLP_BIAS)?;
    guard::refuse(config, guard::NO_WINDOW)?;
    let mut spec = ModelSpec::read(config, &DEFAULTS)?;
    spec.norms = NORMS;
    spec.set_attention_bias(config, true, false)?;
    for rope in &mut spec.ropes {
        rope.interleaved = true;
    }
    spec.set_windows(&windows::uniform(config, spec.layers.len(), None)?);
    Ok(spec)
}

fn sources(spec: &ModelSpec, weight: &Weight<'_>) -> Vec<Recipe> {
    let layer = weight.layer.and_then(|i| spec.layers.get(i));
    match layer.map(|l| &l.ffn) {
        Some(Ffn::Dense(d)) => fused_gate_up(spec.hidden_size, d.intermediate, weight),
        _ => Vec::new(),
    }
}
