//! Granite: Llama with multipliers on embeddings, residuals, attention scores and logits.

use formats::ConfigView;

use super::llama;
use crate::error::Result;
use crate::family::Family;
use crate::gguf::{GgufArchitecture, GgufFile};
use crate::read::{Defaults, factor_or};
use crate::spec::ModelSpec;

inventory::submit! {
    Family {
        computes: &[
            "embedding_multiplier",
            "logits_scaling",
            "residual_multiplier",
            "attention_multiplier",
        ],
        ..Family::new("granite", &["GraniteForCausalLM"], read, file!())
    }
}

inventory::submit! {
    GgufArchitecture {
        qk_interleaved: true,
        computes: &["logit_scale", "embedding_scale", "residual_scale", "attention.scale"],
        ..GgufArchitecture::new("granite", read_gguf, file!())
    }
}

fn read_gguf(file: &GgufFile<'_>) -> Result<ModelSpec> {
    let mut spec = file.decoder()?;
    spec.embedding_scale = file.factor("embedding_scale")?.unwrap_or(1.0);
    spec.residual_scale = file.factor("residual_scale")?.unwrap_or(1.0);
    spec.logits_scale = 1.0 / file.factor("logit_scale")?.unwrap_or(1.0);
    if !spec.logits_scale.is_finite() {
        let wanted = "a number above 0 whose inverse is within f32";
        return Err(file.keys.invalid("logit_scale", wanted).into());
    }
    let given = file.factor("attention.scale")?;
    // Here, this key says whether the model rotates at all.
    let rotates = file.keys.opt_bool("rope.scaling.finetuned")?;
    let rotates = rotates.unwrap_or(true);
    spec.each_attention(|_, a| {
        a.scale = given.unwrap_or(a.scale);
        a.rope = a.rope.filter(|_| rotates);
    });
    if !rotates {
        spec.ropes.clear();
    }
    Ok(spec)
}

fn read(config: &ConfigView<'_>) -> Result<ModelSpec> {
    let mut spec = llama::read_base(config, &Defaults::LLAMA)?;
    spec.embedding_scale = factor_or(config, "embedding_multiplier", 1.0)?;
    spec.residual_scale = factor_or(config, "residual_multiplier", 1.0)?;
    spec.logits_scale = 1.0 / factor_or(config, "logits_scaling", 1.0)?;
    if !spec.logits_scale.is_finite() {
        let wanted = "a number above 0 whose inverse is within f32";
        return Err(config.invalid("logits_scaling", wanted).into());
    }
    let scale = factor_or(config, "attention_multiplier", 1.0)?;
    spec.each_attention(|_, a| a.scale = scale);
    Ok(spec)
}
