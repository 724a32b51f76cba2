//! GPT-OSS: attention with sinks, every other layer sliding; mixtures with biases whose matrices
//! lie transposed, gate and up by turns, or in MXFP4.

use formats::{ConfigView, Recipe, RowPattern, StoredType};
use graph::{Activation, RouteScore};

use super::qwen3_moe::read_top_k;
use crate::error::Result;
use crate::family::Family;
use crate::gguf::{self, Experts, GgufArchitecture, GgufFile};
use crate::guard::{self, Feature, Off};
use crate::read::{Defaults, KvHeads, size_or};
use crate::rope::{Rope, RopeDefaults, RopeScaling};
use crate::sources::Weight;
use crate::spec::{Dense, Ffn, MAX_EXPERTS, ModelSpec, Moe};
use crate::windows;

inventory::submit! {
    Family {
        sources,
        computes: &["num_local_experts"],
        quantised: &[StoredType::MXFP4],
        ..Family::new("gpt_oss", &["GptOssForCausalLM"], read, file!())
    }
}

inventory::submit! {
    GgufArchitecture {
        computes: &["expert_count"],
        ..GgufArchitecture::new("gpt-oss", read_gguf, file!())
    }
}

fn read_gguf(file: &GgufFile<'_>) -> Result<ModelSpec> {
    let experts = Experts {
        biases: true,
        ..Experts::SOFTMAX
    };
    let moe = Moe {
        activation: Activation::SwigluOai,
        ..file.experts(&file.frame()?, &experts)?
    };
    let mut spec = file.decoder_with(Some(&moe))?;
    spec.norms = gguf::PRE_POST_NAMED;
    spec.each_attention(|_, a| {
        a.qkv_bias = true;
        a.o_bias = true;
        a.sinks = true;
    });
    spec.set_windows(&file.windows(None, 2)?);
    // No key says that the ends of the blend are not rounded.
    for rope in &mut spec.ropes {
        if let RopeScaling::Yarn { truncate, .. } = &mut rope.scaling {
            *truncate = false;
            *rope = Rope::new(rope.theta, rope.rotary_dim, rope.scaling).unwrap_or(rope.clone());
        }
    }
    Ok(spec)
}

const DEFAULTS: Defaults = Defaults {
    kv_heads: KvHeads::Count(8),
    head_dim: Some(64),
    context_length: 131_072,
    eps: 1e-5,
    rope: Some(RopeDefaults {
        theta: 150_000.0,
        ..RopeDefaults::WHOLE
    }),
    ..Defaults::LLAMA
};

const FIXED: &[Feature] = &[(
    "swiglu_limit",
    &[Off::Number(7.0)],
    "this family's experts clamp at 7",
)];

fn read(config: &ConfigView<'_>) -> Result<ModelSpec> {
    guard::refuse(config, guard::NO_QK_NORM)?;
    guard::refuse(config, FIXED)?;
    let mut spec = ModelSpec::read(config, &DEFAULTS)?;
    // An empty object is no setting where it is the older field, and a plain one otherwise.
    let scaling = config.get("rope_scaling").and_then(|v| v.as_object());
    if !config.has("rope_parameters") && scaling.is_none_or(|map| map.is_empty()) {
        set_default_scaling(&mut spec);
    }
    spec.set_attention_bias(config, true, true)?;
    spec.each_attention(|_, a| a.sinks = true);
    let window = windows::sliding_window_or(config, 128)?;
    let alternate = |i: usize| i.is_multiple_of(2);
    let windows = windows::alternating(config, spec.layers.len(), window, alternate)?;
    spec.set_windows(&windows);
    let experts = size_or(config, "num_local_experts", 1, MAX_EXPERTS, 128)?;
    let top_k = read_top_k(config, experts, 4)?;
    for layer in &mut spec.layers {
        if let Ffn::Dense(Dense { intermediate, .. }) = layer.ffn {
            layer.ffn = Ffn::Moe(Moe {
                experts,
                top_k,
                intermediate,
                activation: Activation::SwigluOai,
                // A softmax over the chosen is one over all, normalised.
                score: RouteScore::Softmax,
                normalise: true,
                scale: 1.0,
                groups: None,
                selection_bias: false,
                router_bias: true,
                expert_bias: true,
                shared: None,
            });
        }
    }
    Ok(spec)
}

/// YaRN as the published models have it, which is what no setting at all means.
fn set_default_scaling(spec: &mut ModelSpec) {
    let factor: f64 = 32.0;
    let scaling = RopeScaling::Yarn {
        factor,
        beta_fast: 32.0,
        beta_slow: 1.0,
        original_context: 4096,
        truncate: false,
        attention_factor: 0.1 * factor.ln() + 1.0,
    };
    for rope in &mut spec.ropes {
        if let Some(scaled) = Rope::new(rope.theta, rope.rotary_dim, scaling) {
            *rope = scaled;
        }
    }
}

fn sources(spec: &ModelSpec, weight: &Weight<'_>) -> Vec<Recipe> {
    let moe = weight.layer.and_then(|i| match &spec.layers.get(i)?.ffn {
        Ffn::Moe(m) => Some(m),
        Ffn::Dense(_) => None,
    });
    let Some(moe) = moe else { return Vec::new() };
    let (experts, wide, hidden) = (moe.experts, moe.intermediate, spec.hidden_size);
    let Some((name, kind)) = weight.within("mlp.") else {
        return Vec::new();
    };
    // Gate and up lie by turns in one tensor.
    let (fused, turn, rows, columns) = match name {
        "gate" => return vec![weight.stored(&format!("mlp.router{kind}"))],
        "experts.gate_proj" => ("gate_up_proj", Some(0), 2 * wide, hidden),
        "experts.up_proj" => ("gate_up_proj", Some(1), 2 * wide, hidden),
        "experts.down_proj" => ("down_proj", None, hidden, wide),
        _ => return Vec::new(),
    };
    let pick = |all: Recipe| match turn {
        Some(turn) => all.rows(RowPattern::strided(2, turn)),
        None => all,
    };
    let stored = |suffix: &str| weight.stored(&format!("mlp.experts.{fused}{suffix}"));
    if kind == ".bias" {
        return vec![pick(stored("_bias").reshape(&[experts * rows]))];
    }
    let blocks = Recipe::Microscaling {
        blocks: Box::new(stored("_blocks")),
        scales: Box::new(stored("_scales")),
    };
    let matrices = |all: Recipe| pick(all.reshape(&[experts * rows, columns]));
    vec![matrices(stored("").transpose()), matrices(blocks)]
}
