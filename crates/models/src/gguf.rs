//! GGUF: metadata and tensors to the specification of a dense decoder.
//!
//! An architecture is a [`GgufArchitecture`] that registers itself beside the family that it
//! belongs to; what they spell alike is read here. Which biases there are, and whether the output
//! head is the embedding, a GGUF file says only by the tensors that it holds.

use formats::{MetadataView, Recipe, RowPattern, TensorStore};
use graph::{Activation, ValueKind};

use crate::error::{ModelError, Result, clip};
use crate::model::{Model, build};
use crate::read::inverse_root;
use crate::rope::{DEFAULT_THETA, Rope, RopeScaling};
use crate::spec::{
    Attention, Dense, Ffn, LayerSpec, MAX_HEAD_DIM, MAX_HEADS, Mixer, ModelSpec, Norms, QkNorm,
};
use crate::wiring::{EMBEDDING, FINAL_NORM, LM_HEAD};

/// One architecture of GGUF files, registered with `inventory::submit!` in its family's file.
#[derive(Debug)]
pub struct GgufArchitecture {
    /// The value of `general.architecture`; also the prefix of its keys.
    pub name: &'static str,
    /// Whether the rows of q and k lie in pairs, see [`RowPattern::halves`].
    pub qk_interleaved: bool,
    /// Sets what the metadata does not say.
    pub adjust: fn(&mut ModelSpec),
    /// Source file.
    pub source: &'static str,
}

inventory::collect!(GgufArchitecture);

/// Every registered architecture, by name.
pub fn gguf_architectures() -> Vec<&'static GgufArchitecture> {
    let mut all: Vec<_> = inventory::iter::<GgufArchitecture>().collect();
    all.sort_by_key(|a| a.name);
    all
}

/// Names of tensors outside the layers: in a Hugging Face folder, in a GGUF file.
const OUTSIDE: &[(&str, &str)] = &[
    (EMBEDDING, "token_embd.weight"),
    (FINAL_NORM, "output_norm.weight"),
    (LM_HEAD, HEAD),
];

/// Names of a layer's parts, likewise.
const PARTS: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

const HEAD: &str = "output.weight";
/// Divisors of the rotary frequencies, where a model has any.
const ROPE_DIVISORS: &str = "rope_freqs.weight";
/// Frequencies of the rotation that old files repeat in every layer.
const ROPE_COPIES: &str = ".attn_rot_embd.weight";

/// The GGUF name of a tensor, given that of a Hugging Face folder. Names that have none stay.
pub(crate) fn tensor_name(hugging_face: &str) -> String {
    if let Some((_, name)) = OUTSIDE.iter().find(|(hf, _)| *hf == hugging_face) {
        return (*name).to_string();
    }
    let split = || {
        let (layer, rest) = hugging_face
            .strip_prefix("model.layers.")?
            .split_once('.')?;
        let (part, kind) = rest.rsplit_once('.')?;
        let (_, part) = PARTS.iter().find(|(hf, _)| *hf == part)?;
        Some(format!("blk.{layer}.{part}.{kind}"))
    };
    split().unwrap_or_else(|| hugging_face.to_string())
}

/// A key that changes the logits, the value (besides absent) that does not, and what any other
/// would ask for.
const REFUSED: &[(&str, f64, &str)] = &[
    (
        "expert_count",
        0.0,
        "mixtures of experts are not computed for this architecture yet",
    ),
    (
        "attention.clamp_kqv",
        0.0,
        "clipped projections are not computed",
    ),
    ("attention.max_alibi_bias", 0.0, "ALiBi is not computed"),
    (
        "attn_logit_softcapping",
        0.0,
        "soft-capped attention is not computed",
    ),
    (
        "final_logit_softcapping",
        0.0,
        "soft-capped logits are not computed",
    ),
    ("logit_scale", 1.0, "scaled logits are not computed"),
    ("embedding_scale", 1.0, "scaled embeddings are not computed"),
    ("residual_scale", 1.0, "scaled residuals are not computed"),
    (
        "attention.scale",
        0.0,
        "attention scales other than 1/sqrt(head size) are not computed",
    ),
    (
        "attention.temperature_scale",
        0.0,
        "queries scaled by their position are not computed",
    ),
];

/// Reads a model's metadata. Beside it, the tensors that must be made of those in the file.
///
/// Errors: an architecture that is not known; a key that is missing or out of range; a feature
/// that is not computed here; a tensor of a layer that the architecture does not have.
pub(crate) fn load(
    metadata: &MetadataView<'_>,
    tensors: &TensorStore,
) -> Result<(Model, Vec<(String, Recipe)>)> {
    let found = metadata.str("general.architecture")?;
    let all = gguf_architectures();
    let Some(architecture) = all.iter().find(|a| a.name == found) else {
        let names: Vec<_> = all.iter().map(|a| a.name).collect();
        return Err(ModelError::UnknownArchitecture {
            path: metadata.file().to_path_buf(),
            found: clip(found),
            known: names.join(", "),
            hint: "",
        });
    };
    let keys = metadata.within(architecture.name);
    let spec = read_spec(&keys, architecture, tensors)?;
    let head_dim = spec.attentions().next().map_or(0, |a| a.head_dim);
    let model = build(
        metadata.file(),
        architecture.name,
        architecture.name.to_string(),
        spec,
        tensor_name,
    )?;
    refuse_unknown_tensors(metadata, &model, tensors)?;
    let mut recipes = Vec::new();
    if architecture.qk_interleaved {
        for (_, value) in model.graph.weights() {
            if let ValueKind::Weight { tensor, .. } = &value.kind
                && (tensor.contains(".attn_q.") || tensor.contains(".attn_k."))
            {
                let rows = RowPattern::halves(head_dim);
                recipes.push((tensor.clone(), Recipe::tensor(tensor).rows(rows)));
            }
        }
    }
    // Shapes first: their errors say more than those of recipes.
    model.check_tensors(tensors)?;
    Ok((model, recipes))
}

fn read_spec(
    keys: &MetadataView<'_>,
    architecture: &GgufArchitecture,
    tensors: &TensorStore,
) -> Result<ModelSpec> {
    for (key, off, reason) in REFUSED {
        match keys.opt_f64(key)? {
            Some(value) if value != *off => {
                return Err(unsupported(keys, architecture, key, reason));
            }
            _ => {}
        }
    }
    if keys.opt_bool("attention.causal")? == Some(false) {
        let reason = "attention is causal here";
        return Err(unsupported(keys, architecture, "attention.causal", reason));
    }
    let layers = keys.layers("block_count")?;
    let hidden_size = keys.usize("embedding_length")?;
    let heads = keys.usize_in("attention.head_count", 1..=MAX_HEADS)?;
    let kv_heads = keys.opt_usize_in("attention.head_count_kv", 1..=MAX_HEADS)?;
    let kv_heads = kv_heads.unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        let wanted = format!("a divisor of attention.head_count, which is {heads}");
        return Err(keys.invalid("attention.head_count_kv", &wanted).into());
    }
    let head_dim = read_head_dim(keys, architecture, hidden_size, heads)?;
    let context_length = keys.usize("context_length")?;
    let eps = keys.positive_f64("attention.layer_norm_rms_epsilon")?;
    if eps > 1.0 {
        let wanted = "a number above 0 and up to 1";
        return Err(keys
            .invalid("attention.layer_norm_rms_epsilon", wanted)
            .into());
    }
    let has = |name: &str| tensors.contains(name);
    let layer = LayerSpec {
        mixer: Mixer::Attention(Attention {
            heads,
            kv_heads,
            head_dim,
            scale: inverse_root(head_dim as f64),
            window: None,
            softcap: None,
            rope: Some(0),
            qkv_bias: has("blk.0.attn_q.bias"),
            o_bias: has("blk.0.attn_output.bias"),
            qk_norm: QkNorm::None,
            sinks: false,
            output_gate: false,
        }),
        ffn: Ffn::Dense(Dense {
            intermediate: keys.usize("feed_forward_length")?,
            bias: has("blk.0.ffn_down.bias"),
        }),
    };
    let mut spec = ModelSpec {
        vocab_size: read_vocab(keys, tensors)?,
        hidden_size,
        context_length,
        rms_norm_eps: eps as f32,
        norm_offset: 0.0,
        activation: Activation::Silu,
        tied_embeddings: !has(HEAD),
        embedding_scale: 1.0,
        residual_scale: 1.0,
        logits_scale: 1.0,
        logits_softcap: None,
        norms: Norms::PRE,
        ropes: vec![read_rope(
            keys,
            architecture,
            tensors,
            head_dim,
            context_length,
        )?],
        layers: vec![layer; layers],
    };
    spec.set_windows(&read_windows(keys, layers)?);
    (architecture.adjust)(&mut spec);
    Ok(spec)
}

/// Rows of the embedding: files without a tokenizer need not say the size of their vocabulary.
fn read_vocab(keys: &MetadataView<'_>, tensors: &TensorStore) -> Result<usize> {
    let name = tensor_name(EMBEDDING);
    let rows = tensors
        .get(&name)
        .and_then(|t| t.info.shape.first().copied())
        .filter(|rows| *rows <= formats::config::MAX_DIM);
    if let Some(rows) = rows {
        return Ok(rows);
    }
    Err(ModelError::MissingTensor {
        tensor: name,
        shape: "[vocabulary, embedding_length]".to_string(),
        others: 0,
        hint: format!(
            "{} holds no embedding; download it again, or give a file with weights",
            keys.file().display()
        ),
    })
}

fn read_head_dim(
    keys: &MetadataView<'_>,
    architecture: &GgufArchitecture,
    hidden_size: usize,
    heads: usize,
) -> Result<usize> {
    const KEY: &str = "attention.key_length";
    let given = keys.opt_usize_in(KEY, 1..=MAX_HEAD_DIM)?;
    let dim = match given {
        Some(dim) => dim,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => 0,
    };
    if dim == 0 || dim > MAX_HEAD_DIM || !dim.is_multiple_of(2) {
        return Err(keys
            .invalid(KEY, &format!("an even head size up to {MAX_HEAD_DIM}"))
            .into());
    }
    // What must be equal here to the size of a head, in these architectures.
    for key in ["attention.value_length", "rope.dimension_count"] {
        if let Some(other) = keys.opt_usize_in(key, 0..=MAX_HEAD_DIM)?
            && other != dim
        {
            let reason = format!("heads have {dim} elements, all of which rotate");
            return Err(unsupported(keys, architecture, key, &reason));
        }
    }
    Ok(dim)
}

/// One window for all layers, or for those that the pattern marks.
fn read_windows(keys: &MetadataView<'_>, layers: usize) -> Result<Vec<Option<usize>>> {
    const PATTERN: &str = "attention.sliding_window_pattern";
    let window = keys
        .opt_usize_in("attention.sliding_window", 0..=formats::config::MAX_DIM)?
        .filter(|w| *w > 0);
    if window.is_none() || !keys.has(PATTERN) {
        return Ok(vec![window; layers]);
    }
    match keys.opt_bools(PATTERN)? {
        Some(slides) if slides.len() == layers => {
            Ok(slides.iter().map(|s| window.filter(|_| *s)).collect())
        }
        _ => Err(keys
            .invalid(PATTERN, &format!("one boolean for each of {layers} layers"))
            .into()),
    }
}

fn read_rope(
    keys: &MetadataView<'_>,
    architecture: &GgufArchitecture,
    tensors: &TensorStore,
    head_dim: usize,
    context_length: usize,
) -> Result<Rope> {
    const THETA: &str = "rope.freq_base";
    let theta = keys.opt_f64(THETA)?.unwrap_or(DEFAULT_THETA);
    if theta <= 1.0 || !(theta as f32).is_finite() {
        return Err(keys.invalid(THETA, "a number above 1").into());
    }
    let scaling = read_scaling(keys, architecture, context_length)?;
    let rope = match tensors.get(ROPE_DIVISORS) {
        None => Rope::new(theta, head_dim, scaling),
        Some(_) if scaling != RopeScaling::Default => {
            let reason = format!("the file also divides the frequencies by `{ROPE_DIVISORS}`");
            return Err(unsupported(
                keys,
                architecture,
                "rope.scaling.type",
                &reason,
            ));
        }
        Some(found) => {
            let divisors = found.to_f32().filter(|d| d.len() == head_dim / 2);
            let Some(divisors) = divisors else {
                return Err(ModelError::TensorShape {
                    tensor: ROPE_DIVISORS.to_string(),
                    wanted: format!("[{}]", head_dim / 2),
                    found: format!("{:?} of {}", found.info.shape, found.info.stored),
                    hint: "it holds one number for each rotating pair of a head".to_string(),
                });
            };
            Rope::divided(theta, head_dim, &divisors)
        }
    };
    rope.ok_or_else(|| {
        ModelError::inconsistent(
            keys.file(),
            format!("the rotary settings ({scaling}, theta {theta}) give frequencies that are not finite; check them"),
        )
    })
}

fn read_scaling(
    keys: &MetadataView<'_>,
    architecture: &GgufArchitecture,
    context_length: usize,
) -> Result<RopeScaling> {
    const KIND: &str = "rope.scaling.type";
    let kind = keys.opt_str(KIND)?;
    // Old files have this key alone.
    let old = keys.opt_positive_f64("rope.scale_linear")?;
    let factor = keys.opt_f64("rope.scaling.factor")?;
    // 0 stands for none.
    let factor = factor.filter(|f| *f != 0.0).or(old);
    let required = || match factor {
        Some(factor) if factor > 0.0 => Ok(factor),
        _ => Err(keys.invalid("rope.scaling.factor", "a number above 0")),
    };
    match kind {
        Some("none") => Ok(RopeScaling::Default),
        None if factor.is_none_or(|f| f == 1.0) => Ok(RopeScaling::Default),
        None | Some("linear") => Ok(RopeScaling::Linear {
            factor: required()?,
        }),
        Some("yarn") => {
            let factor = required()?;
            let number = |key: &str, default| -> Result<f64> {
                Ok(keys.opt_positive_f64(key)?.unwrap_or(default))
            };
            let scale = match factor > 1.0 {
                true => 0.1 * factor.ln() + 1.0,
                false => 1.0,
            };
            Ok(RopeScaling::Yarn {
                factor,
                beta_fast: number("rope.scaling.yarn_beta_fast", 32.0)?,
                beta_slow: number("rope.scaling.yarn_beta_slow", 1.0)?,
                original_context: keys
                    .opt_usize("rope.scaling.original_context_length")?
                    .unwrap_or(context_length),
                truncate: true,
                attention_factor: number("rope.scaling.attn_factor", 1.0)? * scale,
            })
        }
        Some(_) => {
            let reason = "known: none, linear, yarn";
            Err(unsupported(keys, architecture, KIND, reason))
        }
    }
}

/// A tensor of a layer that the graph does not read belongs to a variant whose logits differ.
fn refuse_unknown_tensors(
    metadata: &MetadataView<'_>,
    model: &Model,
    tensors: &TensorStore,
) -> Result<()> {
    let used: std::collections::HashSet<&str> = model
        .graph
        .weights()
        .filter_map(|(_, value)| match &value.kind {
            ValueKind::Weight { tensor, .. } => Some(tensor.as_str()),
            _ => None,
        })
        .collect();
    let stranger = tensors
        .names()
        .find(|n| n.starts_with("blk.") && !n.ends_with(ROPE_COPIES) && !used.contains(n));
    match stranger {
        None => Ok(()),
        Some(name) => Err(ModelError::Unsupported {
            path: metadata.file().to_path_buf(),
            field: clip(name),
            found: "a tensor of the file".to_string(),
            reason: format!(
                "`{}` with `block_count` {} has no such tensor; the file is of a variant that is not computed here",
                model.architecture, model.layers
            ),
        }),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_translated() {
        for (hf, gguf) in [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("lm_head.weight", "output.weight"),
            (
                "model.layers.11.self_attn.q_proj.bias",
                "blk.11.attn_q.bias",
            ),
            (
                "model.layers.0.input_layernorm.weight",
                "blk.0.attn_norm.weight",
            ),
            (
                "model.layers.3.mlp.down_proj.weight",
                "blk.3.ffn_down.weight",
            ),
            ("model.layers.x", "model.layers.x"),
        ] {
            assert_eq!(tensor_name(hf), gguf);
        }
    }

    #[test]
    fn no_two_architectures_have_one_name() {
        let names: Vec<_> = gguf_architectures().iter().map(|a| a.name).collect();
        assert_eq!(names, ["llama", "qwen2", "qwen3"]);
    }
}
