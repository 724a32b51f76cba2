//! LFM2: gated short convolutions and some layers of attention, under names of their own.

use formats::config::MAX_DIM;
use formats::{ConfigView, Recipe};

use crate::error::{ModelError, Result};
use crate::family::Family;
use crate::gguf::{GgufArchitecture, GgufFile};
use crate::guard;
use crate::read::{Defaults, KvHeads, size_or};
use crate::rope::RopeDefaults;
use crate::sources::Weight;
use crate::spec::{Dense, Ffn, LayerSpec, MAX_KERNEL, Mixer, ModelSpec, Norms, QkNorm, ShortConv};
use crate::windows;

inventory::submit! {
    Family {
        sources,
        ..Family::new("lfm2", &["Lfm2ForCausalLM"], read, file!())
    }
}

inventory::submit! {
    GgufArchitecture::new("lfm2", read_gguf, file!())
}

/// Layers without key and value heads convolve.
fn read_gguf(file: &GgufFile<'_>) -> Result<ModelSpec> {
    let mut spec = file.frame()?;
    let kv_heads = file.kv_heads()?;
    let attends = |i: usize| kv_heads.as_ref().is_none_or(|counts| counts[i] > 0);
    for i in 0..file.layers {
        let mixer = match attends(i) {
            true => Mixer::Attention(file.attention(i)?),
            false => Mixer::Conv(file.short_conv(i)?),
        };
        let ffn = file.ffn(i, None)?;
        spec.layers.push(LayerSpec { mixer, ffn });
    }
    spec.each_attention(|_, a| a.qk_norm = QkNorm::Head);
    file.finish(&mut spec)?;
    Ok(spec)
}

const DEFAULTS: Defaults = Defaults {
    kv_heads: KvHeads::Count(8),
    context_length: 128_000,
    eps_field: "norm_eps",
    eps: 1e-5,
    tied_embeddings: true,
    rope: Some(RopeDefaults {
        theta: 1e6,
        ..RopeDefaults::WHOLE
    }),
    ..Defaults::LLAMA
};

const NORMS: Norms = Norms {
    before_mixer: Some("operator_norm"),
    after_mixer: None,
    before_ffn: Some("ffn_norm"),
    after_ffn: None,
};

fn read(config: &ConfigView<'_>) -> Result<ModelSpec> {
    guard::refuse(config, guard::NO_QK_NORM)?;
    guard::refuse(config, guard::NO_ATTENTION_BIAS)?;
    guard::refuse(config, guard::NO_MLP_BIAS)?;
    guard::refuse(config, guard::NO_WINDOW)?;
    let ffn = Ffn::Dense(Dense {
        intermediate: read_intermediate(config)?,
        bias: false,
    });
    let mut spec = ModelSpec::read_with(config, &DEFAULTS, ffn)?;
    if let Some(tied) = config.opt_bool("tie_embedding")? {
        spec.tied_embeddings = tied;
    }
    spec.norms = NORMS;
    spec.each_attention(|_, a| a.qk_norm = QkNorm::Head);
    let conv = ShortConv {
        kernel: size_or(config, "conv_L_cache", 2, MAX_KERNEL, 3)?,
        bias: config.opt_bool("conv_bias")?.unwrap_or(false),
    };
    let attends = read_attends(config, spec.layers.len())?;
    for (layer, attends) in spec.layers.iter_mut().zip(attends) {
        if !attends {
            layer.mixer = Mixer::Conv(conv.clone());
        }
    }
    if spec.attentions().next().is_none() {
        spec.ropes.clear();
    }
    Ok(spec)
}

/// The size of the MLP is computed from the one given, unless that is switched off.
fn read_intermediate(config: &ConfigView<'_>) -> Result<usize> {
    let field = match config.has("block_ff_dim") {
        true => "block_ff_dim",
        false => "intermediate_size",
    };
    let given = config.usize(field)?;
    if config.opt_bool("block_auto_adjust_ff_dim")? == Some(false) {
        return Ok(given);
    }
    let two_thirds = 2 * given / 3;
    const MULTIPLIER: &str = "block_ffn_dim_multiplier";
    let size = match config.opt_positive_f64(MULTIPLIER)? {
        // Without one, nothing is rounded up either.
        None if guard::is_null(config, MULTIPLIER) => two_thirds,
        multiplier => {
            let size = (multiplier.unwrap_or(1.0) * two_thirds as f64).min(MAX_DIM as f64) as usize;
            let multiple = size_or(config, "block_multiple_of", 1, MAX_DIM, 256)?;
            size.next_multiple_of(multiple)
        }
    };
    match (1..=MAX_DIM).contains(&size) {
        true => Ok(size),
        false => Err(ModelError::inconsistent(
            config.file(),
            format!("`{field}` {given} makes an MLP of {size}; wanted from 1 to {MAX_DIM}"),
        )),
    }
}

/// Per layer, whether it attends.
fn read_attends(config: &ConfigView<'_>, layers: usize) -> Result<Vec<bool>> {
    const KINDS: &[(&str, bool)] = &[("full_attention", true), ("conv", false)];
    if let Some(kinds) = windows::layer_types(config, layers, KINDS)? {
        return Ok(kinds);
    }
    let indices = config.opt_usizes_in("full_attn_idxs", 0..=MAX_DIM)?;
    let attends = |i| indices.as_ref().is_none_or(|list| list.contains(&i));
    Ok((0..layers).map(attends).collect())
}

fn sources(_: &ModelSpec, weight: &Weight<'_>) -> Vec<Recipe> {
    let own = match weight.part {
        "norm.weight" if weight.layer.is_none() => "embedding_norm.weight",
        "self_attn.o_proj.weight" => "self_attn.out_proj.weight",
        "self_attn.q_norm.weight" => "self_attn.q_layernorm.weight",
        "self_attn.k_norm.weight" => "self_attn.k_layernorm.weight",
        "mlp.gate_proj.weight" => "feed_forward.w1.weight",
        "mlp.up_proj.weight" => "feed_forward.w3.weight",
        "mlp.down_proj.weight" => "feed_forward.w2.weight",
        _ => return Vec::new(),
    };
    vec![weight.stored(own)]
}
