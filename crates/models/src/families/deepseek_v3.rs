//! DeepSeek-V3 and R1: multi-head latent attention, mixtures with grouped routing and shared
//! experts, the first layers dense.

use formats::config::{MAX_DIM, MAX_LAYERS};
use formats::{ConfigView, Recipe};
use graph::{RouteGroups, RouteScore};

use super::qwen3_moe::read_top_k;
use crate::error::{ModelError, Result};
use crate::family::Family;
use crate::gguf::{Experts, GgufArchitecture, GgufFile};
use crate::guard::{self, Feature, Off, is_null};
use crate::read::{Defaults, factor_or, inverse_root, read_heads, size_or};
use crate::rope::{Rope, RopeDefaults};
use crate::sources::Weight;
use crate::spec::{
    Dense, Ffn, Latent, LayerSpec, MAX_EXPERTS, MAX_HEAD_DIM, MAX_HEADS, Mixer, ModelSpec, Moe,
    Shared,
};

inventory::submit! {
    Family {
        sources,
        computes: &["n_routed_experts", "num_local_experts", "rope_interleave"],
        ..Family::new("deepseek_v3", &["DeepseekV3ForCausalLM"], read, file!())
    }
}

inventory::submit! {
    GgufArchitecture {
        computes: &["expert_count", "rope.scaling.yarn_log_multiplier", "nextn_predict_layers"],
        ..GgufArchitecture::new("deepseek2", read_gguf, file!())
    }
}

/// Files of DeepSeek-V2, whose routers score by softmax and have no biases, share the architecture.
fn read_gguf(file: &GgufFile<'_>) -> Result<ModelSpec> {
    let mut spec = file.frame()?;
    let (latent, rope) = file.latent()?;
    spec.ropes = vec![rope];
    let biased = (0..file.layers).any(|i| file.has(i, "exp_probs_b.bias"));
    let experts = Experts {
        score: match biased {
            true => RouteScore::Sigmoid,
            false => RouteScore::Softmax,
        },
        normalise: false,
        selection_bias: biased,
        ..Experts::SOFTMAX
    };
    let moe = file.experts(&spec, &experts)?;
    let layer = |i| {
        Ok(LayerSpec {
            mixer: Mixer::Latent(latent.clone()),
            ffn: file.ffn(i, Some(&moe))?,
        })
    };
    spec.layers = (0..file.layers).map(layer).collect::<Result<_>>()?;
    Ok(spec)
}

const DEFAULTS: Defaults = Defaults {
    context_length: 4096,
    ..Defaults::LLAMA
};

/// Epsilon of the norms on latent vectors, whatever the configuration says of the others.
const LATENT_EPS: f32 = 1e-6;

/// What files of this architecture may say only in this way.
const FIXED: &[Feature] = &[
    (
        "scoring_func",
        &[Off::Text("sigmoid")],
        "routers of this family score by sigmoid",
    ),
    (
        "topk_method",
        &[Off::Text("noaux_tc")],
        "routers of this family choose by biased scores",
    ),
    (
        "moe_layer_freq",
        &[Off::Number(1.0)],
        "all layers after the first dense ones have experts",
    ),
];

fn read(config: &ConfigView<'_>) -> Result<ModelSpec> {
    guard::refuse(config, FIXED)?;
    guard::refuse(config, guard::NO_MLP_BIAS)?;
    guard::refuse(config, guard::NO_WINDOW)?;
    let mut spec = ModelSpec::read_frame(config, &DEFAULTS)?;
    let layers = config.layers("num_hidden_layers")?;
    let latent = read_latent(config, &mut spec)?;
    let dense = Ffn::Dense(Dense {
        intermediate: config.usize("intermediate_size")?,
        bias: false,
    });
    let moe = Ffn::Moe(read_moe(config, &spec)?);
    let first = size_or(config, "first_k_dense_replace", 0, MAX_LAYERS, 3)?;
    let layer = |i: usize| LayerSpec {
        mixer: Mixer::Latent(latent.clone()),
        ffn: if i < first {
            dense.clone()
        } else {
            moe.clone()
        },
    };
    spec.layers = (0..layers).map(layer).collect();
    Ok(spec)
}

fn read_latent(config: &ConfigView<'_>, spec: &mut ModelSpec) -> Result<Latent> {
    let heads = read_heads(config, &DEFAULTS)?;
    let kv_heads = config.opt_usize_in("num_key_value_heads", 1..=MAX_HEADS)?;
    if kv_heads.is_some_and(|n| n != heads) {
        let wanted = format!("num_attention_heads, which is {heads}");
        return Err(config.invalid("num_key_value_heads", &wanted).into());
    }
    let size = |field, default| size_or(config, field, 1, MAX_HEAD_DIM, default);
    let (nope_dim, rope_dim) = (
        size("qk_nope_head_dim", 128)?,
        size("qk_rope_head_dim", 64)?,
    );
    if !rope_dim.is_multiple_of(2) {
        return Err(config.invalid("qk_rope_head_dim", "an even number").into());
    }
    let q_rank = match config.opt_usize("q_lora_rank")? {
        None if !is_null(config, "q_lora_rank") => Some(1536),
        given => given,
    };
    let rope = Rope::read(config, rope_dim, spec.context_length, &RopeDefaults::WHOLE)?;
    spec.ropes = vec![Rope {
        interleaved: config.opt_bool("rope_interleave")?.unwrap_or(true),
        ..rope
    }];
    let scale = inverse_root((nope_dim + rope_dim) as f64) * read_mscale(config)?;
    Ok(Latent {
        heads,
        q_rank,
        kv_rank: size_or(config, "kv_lora_rank", 1, MAX_DIM, 512)?,
        nope_dim,
        rope_dim,
        value_dim: size("v_head_dim", 128)?,
        scale,
        rope: 0,
        bias: config.opt_bool("attention_bias")?.unwrap_or(false),
        norm_eps: LATENT_EPS,
    })
}

/// What a scaled rotation multiplies the attention scale by.
fn read_mscale(config: &ConfigView<'_>) -> Result<f32> {
    for field in ["rope_scaling", "rope_parameters"] {
        let Some(rope) = config.opt_object(field)? else {
            continue;
        };
        let kind = rope.opt_str("rope_type")?.or(rope.opt_str("type")?);
        let mscale = rope.opt_f64_in("mscale_all_dim", 0.0..=1e6)?.unwrap_or(0.0);
        if matches!(kind, None | Some("default")) || mscale == 0.0 {
            continue;
        }
        let factor = rope.positive_f64("factor")?;
        let m = match factor > 1.0 {
            true => 0.1 * mscale * factor.ln() + 1.0,
            false => 1.0,
        };
        return Ok((m * m) as f32);
    }
    Ok(1.0)
}

fn read_moe(config: &ConfigView<'_>, spec: &ModelSpec) -> Result<Moe> {
    let mut experts = None;
    for field in ["n_routed_experts", "num_local_experts"] {
        experts = experts.or(config.opt_usize_in(field, 1..=MAX_EXPERTS)?);
    }
    let experts = experts.unwrap_or(256);
    let top_k = read_top_k(config, experts, 8)?;
    let count = size_or(config, "n_group", 1, MAX_EXPERTS, 8)?;
    let keep = size_or(config, "topk_group", 1, MAX_EXPERTS, 4)?;
    let in_group = experts / count;
    if !experts.is_multiple_of(count) || keep > count || in_group < 2 || top_k > keep * in_group {
        return Err(ModelError::inconsistent(
            config.file(),
            format!(
                "{keep} (`topk_group`) of {count} groups (`n_group`) of {experts} experts cannot hold the best {top_k} (`num_experts_per_tok`), or are too small; correct one of them"
            ),
        ));
    }
    let intermediate = size_or(config, "moe_intermediate_size", 1, MAX_DIM, 2048)?;
    let shared = size_or(config, "n_shared_experts", 1, MAX_EXPERTS, 1)?;
    Ok(Moe {
        experts,
        top_k,
        intermediate,
        activation: spec.activation,
        score: RouteScore::Sigmoid,
        normalise: config.opt_bool("norm_topk_prob")?.unwrap_or(true),
        scale: factor_or(config, "routed_scaling_factor", 2.5)?,
        // All groups kept is no grouping.
        groups: (keep < count).then_some(RouteGroups { count, keep }),
        selection_bias: true,
        router_bias: false,
        expert_bias: false,
        shared: Some(Shared {
            intermediate: intermediate * shared,
            gate: false,
        }),
    })
}

/// Its files speak of shared experts.
fn sources(_: &ModelSpec, weight: &Weight<'_>) -> Vec<Recipe> {
    match weight.part.strip_prefix("mlp.shared_expert.") {
        Some(name) => vec![weight.stored(&format!("mlp.shared_experts.{name}"))],
        None => Vec::new(),
    }
}
