//! Fields that change the logits and are not computed here.
//!
//! transformers ignores a field that its modelling code does not read, and so does this crate:
//! training settings, token ids, provenance. The fields below are the exception. Some are honoured
//! by transformers for any architecture; the others belong to variants of these families whose
//! files carry the plain architecture's name, and running those as the plain model would give
//! wrong text without a word.

use formats::{ConfigView, StoredType};

use crate::error::{ModelError, Result};
use crate::paro;

/// A value of a field that means "off".
#[derive(Clone, Copy, Debug)]
pub(crate) enum Off {
    False,
    True,
    Number(f64),
    Text(&'static str),
    Empty,
}

/// A field, the values (besides absent and null) that leave the logits alone, and what any other
/// value would ask for.
pub(crate) type Feature = (&'static str, &'static [Off], &'static str);

/// Checked for every family.
const COMMON: &[Feature] = &[
    (
        "pretraining_tp",
        &[Off::Number(1.0)],
        "sliced projections are not computed",
    ),
    (
        "is_encoder_decoder",
        &[Off::False],
        "only decoders are read",
    ),
    (
        "add_cross_attention",
        &[Off::False],
        "cross attention is not computed",
    ),
    ("is_causal", &[Off::True], "attention is causal here"),
    (
        "use_bidirectional_attention",
        &[Off::False],
        "attention is causal here",
    ),
    (
        "attention_chunk_size",
        &[],
        "chunked attention is not computed",
    ),
    (
        "per_layer_config",
        &[Off::Empty],
        "every layer has the same sizes here",
    ),
    ("clip_qkv", &[], "clipped projections are not computed"),
    (
        "attn_logit_softcapping",
        &[],
        "soft-capped attention is not computed",
    ),
    (
        "final_logit_softcapping",
        &[],
        "soft-capped logits are not computed",
    ),
    (
        "logit_scale",
        &[Off::Number(1.0)],
        "scaled logits are not computed",
    ),
    (
        "logits_scaling",
        &[Off::Number(1.0)],
        "scaled logits are not computed",
    ),
    (
        "embedding_multiplier",
        &[Off::Number(1.0)],
        "scaled embeddings are not computed",
    ),
    (
        "residual_multiplier",
        &[Off::Number(1.0)],
        "scaled residuals are not computed",
    ),
    (
        "attention_multiplier",
        &[],
        "another attention scale is not computed",
    ),
    (
        "scale_emb",
        &[Off::Number(1.0)],
        "scaled embeddings are not computed",
    ),
    (
        "scale_depth",
        &[Off::Number(1.0)],
        "scaled residuals are not computed",
    ),
    (
        "num_experts",
        &[Off::Number(0.0)],
        "mixtures of experts are not computed",
    ),
    (
        "num_local_experts",
        &[Off::Number(0.0)],
        "mixtures of experts are not computed",
    ),
    (
        "n_routed_experts",
        &[Off::Number(0.0)],
        "mixtures of experts are not computed",
    ),
    (
        "no_rope_layers",
        &[Off::Empty],
        "every layer rotates its positions here",
    ),
    (
        "no_rope_layer_interval",
        &[Off::Number(0.0)],
        "every layer rotates its positions here",
    ),
    (
        "rope_interleaved",
        &[Off::False],
        "rotary pairs are half a head apart here",
    ),
    (
        "rope_interleave",
        &[Off::False],
        "rotary pairs are half a head apart here",
    ),
    (
        "rope_traditional",
        &[Off::False],
        "rotary pairs are half a head apart here",
    ),
    ("alibi", &[Off::False], "positions are rotary here"),
    (
        "use_parallel_residual",
        &[Off::False],
        "attention and MLP follow each other here",
    ),
    (
        "parallel_attn",
        &[Off::False],
        "attention and MLP follow each other here",
    ),
    (
        "lm_head_bias",
        &[Off::False],
        "the output head has no bias here",
    ),
];

/// For families without a norm on queries and keys.
pub(crate) const NO_QK_NORM: &[Feature] = &[
    (
        "qk_norm",
        &[Off::False],
        "this family has no norm on queries and keys",
    ),
    (
        "use_qk_norm",
        &[Off::False],
        "this family has no norm on queries and keys",
    ),
    (
        "qk_layernorm",
        &[Off::False],
        "this family has no norm on queries and keys",
    ),
];

/// For families whose MLP never has biases.
pub(crate) const NO_MLP_BIAS: &[Feature] =
    &[("mlp_bias", &[Off::False], "this family's MLP has no biases")];

/// For families whose attention never has biases.
pub(crate) const NO_ATTENTION_BIAS: &[Feature] = &[(
    "attention_bias",
    &[Off::False],
    "this family's attention has no biases",
)];

/// For families in which every position sees all earlier ones.
pub(crate) const NO_WINDOW: &[Feature] = &[
    (
        "sliding_window",
        &[],
        "this family attends to every earlier position",
    ),
    (
        "use_sliding_window",
        &[Off::False],
        "this family attends to every earlier position",
    ),
];

/// Refuses the features of [`COMMON`] that a family does not compute, and checkpoints quantised in
/// a way that it does not read.
pub(crate) fn refuse_common(
    config: &ConfigView<'_>,
    computes: &[&str],
    quantised: &[StoredType],
) -> Result<()> {
    for field in ["quantization_config", "compression_config"] {
        if let Some(value) = config.get(field) {
            let method = value.get("quant_method").and_then(|m| m.as_str());
            let reads = |m: &str| m == paro::METHOD || quantised.iter().any(|q| q.scheme() == m);
            if method.is_some_and(reads) {
                continue;
            }
            return Err(ModelError::unsupported(
                config,
                format!("{field}.quant_method"),
                method.map_or("not given".into(), |m| format!("\"{m}\"")),
                "this checkpoint is quantised in a way that is not read; use the original weights",
            ));
        }
    }
    let common = COMMON.iter().filter(|f| !computes.contains(&f.0));
    refuse(config, common)
}

/// Refuses every feature of the list that is present and not off.
pub(crate) fn refuse<'f>(
    config: &ConfigView<'_>,
    features: impl IntoIterator<Item = &'f Feature>,
) -> Result<()> {
    for (field, off, reason) in features {
        let Some(value) = config.get(field) else {
            continue;
        };
        let is_off = off.iter().any(|o| match o {
            Off::False => value.as_bool() == Some(false),
            Off::True => value.as_bool() == Some(true),
            Off::Number(n) => value.as_f64() == Some(*n),
            Off::Text(text) => value.as_str() == Some(*text),
            Off::Empty => {
                value.as_array().is_some_and(|a| a.is_empty())
                    || value.as_object().is_some_and(|o| o.is_empty())
            }
        });
        if !is_off {
            return Err(ModelError::unsupported(
                config,
                *field,
                value.to_string(),
                *reason,
            ));
        }
    }
    Ok(())
}

/// Whether a field is written as `null`, which for some fields is not the same as leaving it out.
pub(crate) fn is_null(config: &ConfigView<'_>, field: &str) -> bool {
    // The view counts both as absent, but its error tells them apart.
    match config.invalid(field, "") {
        formats::Error::FieldInvalid { found, .. } => found == "null",
        _ => false,
    }
}
