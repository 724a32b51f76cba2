//! Keys that are refused because nothing here computes what they ask for.

use formats::MetadataView;
use formats::gguf::Value;

use super::{GgufArchitecture, GgufFile};
use crate::error::{ModelError, Result, clip};

/// A key, the number (besides absent; booleans count as 0 and 1, lists when all are it) that asks
/// for nothing, and what any other asks for.
type Feature = (&'static str, f64, &'static str);

/// What an architecture may compute: it then names the key.
const OPTIONAL: &[Feature] = &[
    (
        "expert_count",
        0.0,
        "mixtures of experts are not computed for this architecture",
    ),
    (
        "attn_logit_softcapping",
        0.0,
        "soft-capped attention is not computed for this architecture",
    ),
    (
        "final_logit_softcapping",
        0.0,
        "soft-capped logits are not computed for this architecture",
    ),
    (
        "logit_scale",
        1.0,
        "scaled logits are not computed for this architecture",
    ),
    (
        "embedding_scale",
        1.0,
        "scaled embeddings are not computed for this architecture",
    ),
    (
        "residual_scale",
        1.0,
        "scaled residuals are not computed for this architecture",
    ),
    (
        "attention.scale",
        0.0,
        "attention scales other than 1/sqrt(head size) are not computed for this architecture",
    ),
    (
        "attention.rope_pattern",
        1.0,
        "layers that do not rotate are not computed for this architecture",
    ),
    (
        "rope.scaling.yarn_log_multiplier",
        0.0,
        "attention scaled with the rotation is not computed for this architecture",
    ),
    (
        "rope.dimension_sections",
        0.0,
        "positions in sections are not computed for this architecture",
    ),
    (
        "nextn_predict_layers",
        0.0,
        "layers that predict further tokens are not known of this architecture",
    ),
];

/// What none computes.
const NEVER: &[Feature] = &[
    (
        "attention.clamp_kqv",
        0.0,
        "clipped projections are not computed",
    ),
    ("attention.max_alibi_bias", 0.0, "ALiBi is not computed"),
    ("attention.causal", 1.0, "attention is causal here"),
    (
        "attention.temperature_scale",
        0.0,
        "queries scaled by their position are not computed",
    ),
    (
        "attention.value_scale",
        1.0,
        "scaled values are not computed",
    ),
    (
        "attention.output_scale",
        1.0,
        "scaled attention outputs are not computed",
    ),
    (
        "attention.shared_kv_layers",
        0.0,
        "caches shared between layers are not computed",
    ),
    (
        "attention.indexer.head_count",
        0.0,
        "sparse attention is not computed",
    ),
    (
        "router_logit_softcapping",
        0.0,
        "soft-capped routers are not computed",
    ),
    (
        "expert_group_scale",
        1.0,
        "scaled groups of experts are not computed",
    ),
    (
        "expert_latent_length",
        0.0,
        "experts on latent vectors are not computed",
    ),
    (
        "moe_latent_size",
        0.0,
        "experts on latent vectors are not computed",
    ),
    ("swiglu_clamp_exp", 0.0, "clamped experts are not computed"),
    (
        "swiglu_clamp_shexp",
        0.0,
        "clamped experts are not computed",
    ),
    (
        "hyper_connection.count",
        0.0,
        "hyper-connections are not computed",
    ),
    (
        "use_parallel_residual",
        0.0,
        "parallel residuals are not computed",
    ),
    ("num_loops", 1.0, "looped layers are not computed"),
    (
        "rescale_every_n_layers",
        0.0,
        "rescaled layers are not computed",
    ),
    (
        "rope.scaling.yarn_ext_factor",
        1.0,
        "extrapolation factors of YaRN are not computed",
    ),
    (
        "rope.scaling.alpha",
        0.0,
        "NTK-aware scaling is not computed",
    ),
];

/// What must be the same in layers that slide, unless an architecture computes with it.
const SAME: &[(&str, &str)] = &[
    ("attention.key_length_swa", "attention.key_length"),
    ("attention.value_length_swa", "attention.value_length"),
    ("rope.dimension_count_swa", "rope.dimension_count"),
    ("rope.freq_base_swa", "rope.freq_base"),
];

/// Errors: a key that asks for what `architecture` does not compute.
pub(super) fn refuse(keys: &MetadataView<'_>, architecture: &GgufArchitecture) -> Result<()> {
    let computed = |key: &str| architecture.computes.contains(&key);
    let optional = OPTIONAL.iter().filter(|(key, ..)| !computed(key));
    for (key, off, reason) in optional.chain(NEVER) {
        if keys.get(key).is_some_and(|value| !is_all(value, *off)) {
            return Err(unsupported(keys, architecture, key, reason));
        }
    }
    for (key, same) in SAME.iter().filter(|(key, _)| !computed(key)) {
        let number = |key| keys.get(key).and_then(Value::as_f64);
        if keys.has(key) && number(key) != number(same) {
            let reason = format!("layers that slide must have the same `{same}` as others");
            return Err(unsupported(keys, architecture, key, &reason));
        }
    }
    Ok(())
}

fn is_all(value: Value<'_>, number: f64) -> bool {
    match value {
        Value::Array(array) => array.iter().all(|v| is_all(v, number)),
        Value::Bool(b) => f64::from(u8::from(b)) == number,
        other => other.as_f64() == Some(number),
    }
}

fn unsupported(
    keys: &MetadataView<'_>,
    architecture: &GgufArchitecture,
    key: &str,
    reason: &str,
) -> ModelError {
    ModelError::Unsupported {
        path: keys.file().to_path_buf(),
        field: format!("{}.{key}", architecture.name),
        found: keys
            .get(key)
            .map_or("absent".into(), |v| clip(&v.to_string())),
        reason: reason.to_string(),
    }
}

impl GgufFile<'_> {
    /// The error for a key whose value is not computed here.
    pub(crate) fn unsupported(&self, key: &str, reason: &str) -> ModelError {
        unsupported(&self.keys, self.architecture, key, reason)
    }
}
