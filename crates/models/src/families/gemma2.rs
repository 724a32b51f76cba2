//! Gemma 2: norms before and after each part, weights of norms kept around 0, scaled embeddings,
//! soft caps, every other layer sliding.

use formats::ConfigView;
use graph::Activation;

use crate::error::Result;
use crate::family::Family;
use crate::gguf::{self, GgufArchitecture, GgufFile};
use crate::guard;
use crate::read::{Defaults, KvHeads, inverse_root, opt_factor};
use crate::spec::{ModelSpec, Norms};
use crate::windows;

inventory::submit! {
    Family {
        computes: &["attn_logit_softcapping", "final_logit_softcapping"],
        ..Family::new("gemma2", &["Gemma2ForCausalLM"], read, file!())
    }
}

inventory::submit! {
    GgufArchitecture {
        computes: &[
            "attn_logit_softcapping",
            "final_logit_softcapping",
            "attention.scale",
        ],
        ..GgufArchitecture::new("gemma2", read_gguf, file!())
    }
}

fn read_gguf(file: &GgufFile<'_>) -> Result<ModelSpec> {
    let mut spec = read_gguf_base(file, LARGEST_LAYERS)?;
    spec.set_windows(&file.windows(Some(4096), 2)?);
    let cap = file.factor("attn_logit_softcapping")?;
    spec.each_attention(|_, a| a.softcap = cap);
    Ok(spec)
}

/// Layers of the model whose attention scale is that of hidden_size / heads.
const LARGEST_LAYERS: usize = 46;

/// What the files of Gemma 2 and Gemma 3 share. They do not say the attention scale: it is that of
/// the head size in all models published but the one of `largest` layers.
pub(super) fn read_gguf_base(file: &GgufFile<'_>, largest: usize) -> Result<ModelSpec> {
    let mut spec = file.decoder()?;
    spec.activation = Activation::GeluTanh;
    spec.norms = gguf::SANDWICH;
    spec.embedding_scale = (spec.hidden_size as f64).sqrt() as f32;
    spec.logits_softcap = file.factor("final_logit_softcapping")?;
    let given = file.factor("attention.scale")?;
    let (hidden_size, layers) = (spec.hidden_size, spec.layers.len());
    spec.each_attention(|_, a| {
        if layers == largest {
            a.scale = inverse_root(hidden_size as f64 / a.heads as f64);
        }
        a.scale = given.unwrap_or(a.scale);
    });
    Ok(spec)
}

/// What absent fields mean; Gemma 3 overrides.
pub(super) const DEFAULTS: Defaults = Defaults {
    kv_heads: KvHeads::Count(4),
    head_dim: Some(256),
    context_length: 8192,
    activation_field: "hidden_activation",
    activation: Activation::GeluTanh,
    tied_embeddings: true,
    ..Defaults::LLAMA
};

fn read(config: &ConfigView<'_>) -> Result<ModelSpec> {
    guard::refuse(config, guard::NO_QK_NORM)?;
    let mut spec = read_base(config, &DEFAULTS)?;
    let window = windows::sliding_window(config)?;
    let alternate = |i: usize| i.is_multiple_of(2);
    let windows = windows::alternating(config, spec.layers.len(), window, alternate)?;
    spec.set_windows(&windows);
    let cap = softcap(config, "attn_logit_softcapping", Some(50.0))?;
    spec.each_attention(|_, a| a.softcap = cap);
    spec.logits_softcap = softcap(config, "final_logit_softcapping", Some(30.0))?;
    Ok(spec)
}

/// What Gemma 2 and Gemma 3 share.
pub(super) fn read_base(config: &ConfigView<'_>, defaults: &Defaults) -> Result<ModelSpec> {
    guard::refuse(config, guard::NO_MLP_BIAS)?;
    let mut spec = ModelSpec::read(config, defaults)?;
    spec.norms = Norms::SANDWICH;
    spec.norm_offset = 1.0;
    spec.embedding_scale = (spec.hidden_size as f64).sqrt() as f32;
    spec.set_attention_bias(config, false, true)?;
    let scalar = config.opt_positive_f64("query_pre_attn_scalar")?;
    let scale = inverse_root(scalar.unwrap_or(256.0));
    if !scale.is_finite() {
        let wanted = "a number above 0 within f32";
        return Err(config.invalid("query_pre_attn_scalar", wanted).into());
    }
    spec.each_attention(|_, a| a.scale = scale);
    Ok(spec)
}

/// A cap: null for none, `default` when absent.
pub(super) fn softcap(
    config: &ConfigView<'_>,
    field: &str,
    default: Option<f32>,
) -> Result<Option<f32>> {
    match opt_factor(config, field)? {
        None if guard::is_null(config, field) => Ok(None),
        given => Ok(given.or(default)),
    }
}
