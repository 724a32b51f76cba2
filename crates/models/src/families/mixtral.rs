//! Mixtral: Mistral with mixtures of experts, and no window unless one is given.

use formats::{ConfigView, Recipe};
use graph::RouteScore;

use super::mistral;
use super::qwen3_moe::read_top_k;
use crate::error::Result;
use crate::family::Family;
use crate::read::{Defaults, size_or};
use crate::rope::RopeDefaults;
use crate::sources::{Weight, each_expert};
use crate::spec::{Dense, Ffn, MAX_EXPERTS, ModelSpec, Moe};
use crate::windows;

inventory::submit! {
    Family {
        sources,
        computes: &["num_local_experts"],
        ..Family::new("mixtral", &["MixtralForCausalLM"], read, file!())
    }
}

fn read(config: &ConfigView<'_>) -> Result<ModelSpec> {
    let defaults = Defaults {
        eps: 1e-5,
        rope: Some(RopeDefaults {
            theta: 1e6,
            ..RopeDefaults::WHOLE
        }),
        ..mistral::DEFAULTS
    };
    let mut spec = mistral::read_base(config, &defaults)?;
    let window = config.opt_usize("sliding_window")?;
    spec.set_windows(&windows::uniform(config, spec.layers.len(), window)?);
    let experts = size_or(config, "num_local_experts", 1, MAX_EXPERTS, 8)?;
    let top_k = read_top_k(config, experts, 2)?;
    for layer in &mut spec.layers {
        if let Ffn::Dense(Dense { intermediate, .. }) = layer.ffn {
            layer.ffn = Ffn::Moe(Moe {
                experts,
                top_k,
                intermediate,
                activation: spec.activation,
                score: RouteScore::Softmax,
                normalise: true,
                scale: 1.0,
                groups: None,
                selection_bias: false,
                router_bias: false,
                expert_bias: false,
                shared: None,
            });
        }
    }
    Ok(spec)
}

/// Its files have their own names for experts.
fn sources(spec: &ModelSpec, weight: &Weight<'_>) -> Vec<Recipe> {
    const BLOCK: &str = "block_sparse_moe";
    let moe = weight.layer.and_then(|i| match &spec.layers.get(i)?.ffn {
        Ffn::Moe(m) => Some(m),
        Ffn::Dense(_) => None,
    });
    let Some(moe) = moe else { return Vec::new() };
    let own = match weight.part {
        "mlp.gate.weight" => return vec![weight.stored(&format!("{BLOCK}.gate.weight"))],
        "mlp.experts.gate_proj.weight" => "w1",
        "mlp.experts.down_proj.weight" => "w2",
        "mlp.experts.up_proj.weight" => "w3",
        _ => return Vec::new(),
    };
    let name = |e| format!("{BLOCK}.experts.{e}.{own}.weight");
    vec![each_expert(moe, weight, name)]
}
