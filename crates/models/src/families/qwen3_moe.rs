//! Qwen3-MoE: Qwen3 with mixtures of experts in place of its MLPs; one window for all layers.

use formats::ConfigView;
use formats::config::{MAX_DIM, MAX_LAYERS};
use graph::RouteScore;

use super::{qwen2, qwen3};
use crate::error::{ModelError, Result};
use crate::family::Family;
use crate::gguf::{Experts, GgufArchitecture, GgufFile};
use crate::read::{Defaults, KvHeads, size_or};
use crate::spec::{Ffn, MAX_EXPERTS, ModelSpec, Moe, QkNorm};
use crate::{guard, windows};

inventory::submit! {
    Family {
        computes: EXPERTS,
        ..Family::new("qwen3_moe", &["Qwen3MoeForCausalLM"], read, file!())
    }
}

inventory::submit! {
    GgufArchitecture {
        computes: &["expert_count"],
        ..GgufArchitecture::new("qwen3moe", read_gguf, file!())
    }
}

fn read_gguf(file: &GgufFile<'_>) -> Result<ModelSpec> {
    let moe = file.experts(&file.frame()?, &Experts::SOFTMAX)?;
    let mut spec = file.decoder_with(Some(&moe))?;
    spec.each_attention(|_, a| a.qk_norm = QkNorm::Head);
    Ok(spec)
}

/// What the number of experts is called: the second is what transformers 5 writes.
pub(super) const EXPERTS: &[&str] = &["num_experts", "num_local_experts"];

fn read(config: &ConfigView<'_>) -> Result<ModelSpec> {
    let defaults = Defaults {
        kv_heads: KvHeads::Count(4),
        ..qwen2::DEFAULTS
    };
    guard::refuse(config, guard::NO_MLP_BIAS)?;
    let mut spec = ModelSpec::read(config, &defaults)?;
    qwen3::set_attention(config, &mut spec)?;
    let window = match config.opt_bool("use_sliding_window")? {
        Some(true) => windows::sliding_window(config)?,
        _ => None,
    };
    spec.set_windows(&windows::uniform(config, spec.layers.len(), window)?);
    let normalise = config.opt_bool("norm_topk_prob")?.unwrap_or(false);
    let sizes = Sizes {
        experts: 128,
        top_k: 8,
        intermediate: 768,
    };
    let moe = read_moe(config, &spec, &sizes, normalise)?;
    set_sparse(config, &mut spec, moe)?;
    Ok(spec)
}

/// What absent sizes of a mixture mean.
pub(super) struct Sizes {
    pub experts: usize,
    pub top_k: usize,
    pub intermediate: usize,
}

/// A mixture of softmax routing, which Qwen's families share; `None` without experts.
pub(super) fn read_moe(
    config: &ConfigView<'_>,
    spec: &ModelSpec,
    sizes: &Sizes,
    normalise: bool,
) -> Result<Option<Moe>> {
    let mut experts = None;
    for field in EXPERTS {
        let given = config.opt_usize_in(field, 0..=MAX_EXPERTS)?;
        if let (Some(a), Some(b)) = (experts, given)
            && a != b
        {
            return Err(ModelError::inconsistent(
                config.file(),
                format!("`num_experts` is {a} and `num_local_experts` {b}; keep the right one"),
            ));
        }
        experts = experts.or(given);
    }
    let experts = experts.unwrap_or(sizes.experts);
    if experts == 0 {
        return Ok(None);
    }
    let top_k = read_top_k(config, experts, sizes.top_k)?;
    let field = "moe_intermediate_size";
    Ok(Some(Moe {
        experts,
        top_k,
        intermediate: size_or(config, field, 1, MAX_DIM, sizes.intermediate)?,
        activation: spec.activation,
        score: RouteScore::Softmax,
        normalise,
        scale: 1.0,
        groups: None,
        selection_bias: false,
        router_bias: false,
        expert_bias: false,
        shared: None,
    }))
}

/// `num_experts_per_tok`.
pub(super) fn read_top_k(config: &ConfigView<'_>, experts: usize, default: usize) -> Result<usize> {
    const FIELD: &str = "num_experts_per_tok";
    let top_k = size_or(config, FIELD, 1, MAX_EXPERTS, default)?;
    match top_k <= experts {
        true => Ok(top_k),
        false => {
            let wanted = format!("from 1 to the number of experts, which is {experts}");
            Err(config.invalid(FIELD, &wanted).into())
        }
    }
}

/// Puts the mixture in the layers that `decoder_sparse_step` and `mlp_only_layers` leave to it.
pub(super) fn set_sparse(
    config: &ConfigView<'_>,
    spec: &mut ModelSpec,
    moe: Option<Moe>,
) -> Result<()> {
    let step = size_or(config, "decoder_sparse_step", 1, MAX_LAYERS, 1)?;
    let dense = config.opt_usizes_in("mlp_only_layers", 0..=MAX_LAYERS)?;
    let dense = dense.unwrap_or_default();
    let Some(moe) = moe else { return Ok(()) };
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        if (i + 1).is_multiple_of(step) && !dense.contains(&i) {
            layer.ffn = Ffn::Moe(moe.clone());
        }
    }
    Ok(())
}
