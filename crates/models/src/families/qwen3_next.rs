//! Qwen3-Next: gated delta nets, every fourth layer gated attention; mixtures with a shared expert.

use formats::ConfigView;
use formats::config::{MAX_DIM, MAX_LAYERS};

use super::qwen3_moe::{EXPERTS, Sizes, read_moe, set_sparse};
use super::{qwen2, qwen3};
use crate::error::{ModelError, Result};
use crate::family::Family;
use crate::gguf::{self, Experts, GgufArchitecture, GgufFile};
use crate::guard::{self, Feature, Off};
use crate::read::{Defaults, KvHeads, size_or};
use crate::rope::RopeDefaults;
use crate::spec::{
    DeltaNet, Dense, Ffn, LayerSpec, MAX_HEAD_DIM, MAX_HEADS, MAX_KERNEL, Mixer, ModelSpec, Moe,
    QkNorm, Shared,
};
use crate::windows;

inventory::submit! {
    Family {
        computes: EXPERTS,
        ..Family::new("qwen3_next", &["Qwen3NextForCausalLM"], read, file!())
    }
}

inventory::submit! {
    GgufArchitecture {
        computes: &["expert_count", "nextn_predict_layers"],
        ..GgufArchitecture::new("qwen3next", |file| read_gguf(file, false, true), file!())
    }
}

/// Qwen3-Next and Qwen3.5, whose files order value heads otherwise; with and without experts.
pub(super) fn read_gguf(file: &GgufFile<'_>, tiled: bool, experts: bool) -> Result<ModelSpec> {
    let mut spec = file.frame()?;
    spec.norms = gguf::PRE_POST_NAMED;
    let sizes = Experts {
        shared_gate: true,
        ..Experts::SOFTMAX
    };
    let moe = match experts {
        true => Some(file.experts(&spec, &sizes)?),
        false => None,
    };
    let delta = file.delta_net(tiled)?;
    for (i, recurrent) in file.recurrent()?.into_iter().enumerate() {
        let mixer = match recurrent {
            true => Mixer::Delta(delta.clone()),
            false => Mixer::Attention(file.attention(i)?),
        };
        let ffn = file.ffn(i, moe.as_ref())?;
        spec.layers.push(LayerSpec { mixer, ffn });
    }
    spec.each_attention(|_, a| {
        a.qk_norm = QkNorm::Head;
        a.output_gate = true;
    });
    file.finish(&mut spec)?;
    Ok(spec)
}

/// What absent fields mean, in Qwen3.5, too.
pub(super) const DEFAULTS: Defaults = Defaults {
    kv_heads: KvHeads::Count(2),
    head_dim: Some(256),
    rope: Some(RopeDefaults {
        partial: Some(0.25),
        ..RopeDefaults::WHOLE
    }),
    ..qwen2::DEFAULTS
};

/// What these families compute in one way only.
const FIXED: &[Feature] = &[
    (
        "hidden_act",
        &[Off::Text("silu"), Off::Text("swish")],
        "the convolutions of this family are followed by silu here",
    ),
    (
        "attn_output_gate",
        &[Off::True],
        "attention of this family has an output gate",
    ),
];

fn read(config: &ConfigView<'_>) -> Result<ModelSpec> {
    let dense = read_dense(config, true)?;
    let mut spec = read_hybrid(config, &DEFAULTS, dense)?;
    let normalise = config.opt_bool("norm_topk_prob")?.unwrap_or(true);
    let sizes = Sizes {
        experts: 512,
        top_k: 10,
        intermediate: 512,
    };
    let moe = read_shared_moe(config, &spec, &sizes, normalise)?;
    set_sparse(config, &mut spec, moe)?;
    Ok(spec)
}

/// The MLP of layers without experts. Where there are none such, its size need not be given.
pub(super) fn read_dense(config: &ConfigView<'_>, required: bool) -> Result<Ffn> {
    const FIELD: &str = "intermediate_size";
    let intermediate = match required {
        true => config.usize(FIELD)?,
        false => config.opt_usize(FIELD)?.unwrap_or(1),
    };
    Ok(Ffn::Dense(Dense {
        intermediate,
        bias: false,
    }))
}

/// Everything but the feed-forward parts, which are all `ffn`.
pub(super) fn read_hybrid(
    config: &ConfigView<'_>,
    defaults: &Defaults,
    ffn: Ffn,
) -> Result<ModelSpec> {
    guard::refuse(config, FIXED)?;
    guard::refuse(config, guard::NO_MLP_BIAS)?;
    guard::refuse(config, guard::NO_WINDOW)?;
    let mut spec = ModelSpec::read_with(config, defaults, ffn)?;
    qwen3::set_attention(config, &mut spec)?;
    spec.norm_offset = 1.0;
    spec.each_attention(|_, a| a.output_gate = true);
    let delta = read_delta(config)?;
    let recurrent = read_recurrent(config, spec.layers.len())?;
    for (layer, recurrent) in spec.layers.iter_mut().zip(recurrent) {
        if recurrent {
            layer.mixer = Mixer::Delta(delta.clone());
        }
    }
    Ok(spec)
}

/// Per layer, whether it is a delta net.
fn read_recurrent(config: &ConfigView<'_>, layers: usize) -> Result<Vec<bool>> {
    const KINDS: &[(&str, bool)] = &[
        ("full_attention", false),
        ("linear_attention", true),
        // Older spellings.
        ("attention", false),
    ];
    let interval = size_or(config, "full_attention_interval", 1, MAX_LAYERS, 4)?;
    let types = windows::layer_types(config, layers, KINDS)?;
    let by_interval = || (1..=layers).map(|i| !i.is_multiple_of(interval)).collect();
    Ok(types.unwrap_or_else(by_interval))
}

fn read_delta(config: &ConfigView<'_>) -> Result<DeltaNet> {
    let size = |field, least, most, default| size_or(config, field, least, most, default);
    let key_heads = size("linear_num_key_heads", 1, MAX_HEADS, 16)?;
    let value_heads = size("linear_num_value_heads", 1, MAX_HEADS, 32)?;
    if !value_heads.is_multiple_of(key_heads) {
        return Err(ModelError::inconsistent(
            config.file(),
            format!(
                "`linear_num_value_heads` is {value_heads}, not a multiple of `linear_num_key_heads`, which is {key_heads}; correct one of them"
            ),
        ));
    }
    Ok(DeltaNet {
        key_heads,
        value_heads,
        key_dim: size("linear_key_head_dim", 1, MAX_HEAD_DIM, 128)?,
        value_dim: size("linear_value_head_dim", 1, MAX_HEAD_DIM, 128)?,
        kernel: size("linear_conv_kernel_dim", 2, MAX_KERNEL, 4)?,
        log_decay: true,
        tiled: false,
    })
}

/// A mixture with one shared expert that has a gate.
pub(super) fn read_shared_moe(
    config: &ConfigView<'_>,
    spec: &ModelSpec,
    sizes: &Sizes,
    normalise: bool,
) -> Result<Option<Moe>> {
    let field = "shared_expert_intermediate_size";
    let intermediate = size_or(config, field, 1, MAX_DIM, 512)?;
    let moe = read_moe(config, spec, sizes, normalise)?;
    Ok(moe.map(|moe| Moe {
        shared: Some(Shared {
            intermediate,
            gate: true,
        }),
        ..moe
    }))
}
