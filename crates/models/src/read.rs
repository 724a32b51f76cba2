//! Reading what families spell alike.

use formats::ConfigView;
use graph::Activation;

use crate::error::{ModelError, Result};
use crate::guard::is_null;
use crate::rope::{Rope, RopeDefaults};
use crate::spec::{
    Attention, Dense, Ffn, LayerSpec, MAX_HEAD_DIM, MAX_HEADS, Mixer, ModelSpec, Norms, QkNorm,
};

/// What an absent `num_key_value_heads` means.
#[derive(Clone, Copy, Debug)]
pub(crate) enum KvHeads {
    SameAsHeads,
    Count(usize),
}

/// A family's defaults for fields that its configurations may leave out, and its names of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults {
    /// `None`: the field must be there.
    pub vocab_size: Option<usize>,
    /// `None`: the field must be there.
    pub heads: Option<usize>,
    pub kv_heads: KvHeads,
    /// `None`: hidden_size / heads.
    pub head_dim: Option<usize>,
    pub context_length: usize,
    pub eps_field: &'static str,
    pub eps: f64,
    pub activation_field: &'static str,
    pub activation: Activation,
    pub tied_embeddings: bool,
    /// `None`: the family reads its rotary settings itself.
    pub rope: Option<RopeDefaults>,
}

impl Defaults {
    /// Llama's, from which families differ.
    pub(crate) const LLAMA: Defaults = Defaults {
        vocab_size: None,
        heads: None,
        kv_heads: KvHeads::SameAsHeads,
        head_dim: None,
        context_length: 2048,
        eps_field: "rms_norm_eps",
        eps: 1e-6,
        activation_field: "hidden_act",
        activation: Activation::Silu,
        tied_embeddings: false,
        rope: Some(RopeDefaults::WHOLE),
    };
}

impl ModelSpec {
    /// Reads a model of pre-norm attention and gated MLPs: no biases, no qk norm, no windows.
    pub(crate) fn read(config: &ConfigView<'_>, defaults: &Defaults) -> Result<Self> {
        let ffn = Ffn::Dense(Dense {
            intermediate: config.usize("intermediate_size")?,
            bias: false,
        });
        Self::read_with(config, defaults, ffn)
    }

    /// [`read`](Self::read) with the same feed-forward part in every layer.
    pub(crate) fn read_with(
        config: &ConfigView<'_>,
        defaults: &Defaults,
        ffn: Ffn,
    ) -> Result<Self> {
        let mut spec = Self::read_frame(config, defaults)?;
        let mut attention = read_attention(config, spec.hidden_size, defaults)?;
        if let Some(rope) = &defaults.rope {
            let (dim, context) = (attention.head_dim, spec.context_length);
            spec.ropes = vec![Rope::read(config, dim, context, rope)?];
            attention.rope = Some(0);
        }
        let layer = LayerSpec {
            mixer: Mixer::Attention(attention),
            ffn,
        };
        spec.layers = vec![layer; config.layers("num_hidden_layers")?];
        Ok(spec)
    }

    /// Reads what lies outside the layers; there are none.
    pub(crate) fn read_frame(config: &ConfigView<'_>, defaults: &Defaults) -> Result<Self> {
        let vocab_size = match defaults.vocab_size {
            None => config.usize("vocab_size")?,
            Some(default) => config.opt_usize("vocab_size")?.unwrap_or(default),
        };
        let tied = config.opt_bool("tie_word_embeddings")?;
        Ok(ModelSpec {
            vocab_size,
            hidden_size: config.usize("hidden_size")?,
            context_length: config
                .opt_usize("max_position_embeddings")?
                .unwrap_or(defaults.context_length),
            rms_norm_eps: read_eps(config, defaults)?,
            norm_offset: 0.0,
            activation: read_activation(config, defaults)?,
            tied_embeddings: tied.unwrap_or(defaults.tied_embeddings),
            embedding_scale: 1.0,
            residual_scale: 1.0,
            logits_scale: 1.0,
            logits_softcap: None,
            norms: Norms::PRE,
            ropes: Vec::new(),
            layers: Vec::new(),
            paro: None,
        })
    }

    /// Reads `attention_bias`, which some families apply to the output, too.
    pub(crate) fn set_attention_bias(
        &mut self,
        config: &ConfigView<'_>,
        default: bool,
        on_output: bool,
    ) -> Result<()> {
        let bias = config.opt_bool("attention_bias")?.unwrap_or(default);
        self.each_attention(|_, a| {
            a.qkv_bias = bias;
            a.o_bias = bias && on_output;
        });
        Ok(())
    }

    /// Reads `mlp_bias`.
    pub(crate) fn set_mlp_bias(&mut self, config: &ConfigView<'_>) -> Result<()> {
        let bias = config.opt_bool("mlp_bias")?.unwrap_or(false);
        for layer in &mut self.layers {
            if let Ffn::Dense(d) = &mut layer.ffn {
                d.bias = bias;
            }
        }
        Ok(())
    }
}

fn read_attention(
    config: &ConfigView<'_>,
    hidden_size: usize,
    defaults: &Defaults,
) -> Result<Attention> {
    let heads = read_heads(config, defaults)?;
    let kv_heads = match config.opt_usize_in("num_key_value_heads", 1..=MAX_HEADS)? {
        Some(n) => n,
        None => match defaults.kv_heads {
            KvHeads::Count(n) if !is_null(config, "num_key_value_heads") => n,
            _ => heads,
        },
    };
    if !heads.is_multiple_of(kv_heads) {
        return Err(ModelError::inconsistent(
            config.file(),
            format!(
                "`num_attention_heads` is {heads}, not a multiple of `num_key_value_heads`, which is {kv_heads}; correct one of them"
            ),
        ));
    }
    let head_dim = read_head_dim(config, hidden_size, heads, defaults.head_dim)?;
    Ok(Attention {
        heads,
        kv_heads,
        head_dim,
        scale: inverse_root(head_dim as f64),
        window: None,
        softcap: None,
        rope: None,
        qkv_bias: false,
        o_bias: false,
        qk_norm: QkNorm::None,
        sinks: false,
        output_gate: false,
    })
}

/// x to the power of −½, as attention scales are computed.
pub(crate) fn inverse_root(x: f64) -> f32 {
    x.powf(-0.5) as f32
}

pub(crate) fn read_heads(config: &ConfigView<'_>, defaults: &Defaults) -> Result<usize> {
    const FIELD: &str = "num_attention_heads";
    Ok(match defaults.heads {
        None => config.usize_in(FIELD, 1..=MAX_HEADS)?,
        Some(default) => config
            .opt_usize_in(FIELD, 1..=MAX_HEADS)?
            .unwrap_or(default),
    })
}

fn read_head_dim(
    config: &ConfigView<'_>,
    hidden_size: usize,
    heads: usize,
    default: Option<usize>,
) -> Result<usize> {
    const WANTED: &str = "an even number";
    let given = config.opt_usize_in("head_dim", 1..=MAX_HEAD_DIM)?;
    if given.is_none() && default.is_some() && is_null(config, "head_dim") {
        return Err(config.invalid("head_dim", WANTED).into());
    }
    if let Some(dim) = given.or(default) {
        return match dim.is_multiple_of(2) {
            true => Ok(dim),
            false => Err(config.invalid("head_dim", WANTED).into()),
        };
    }
    let dim = hidden_size / heads;
    if !hidden_size.is_multiple_of(heads) || !dim.is_multiple_of(2) || dim > MAX_HEAD_DIM {
        return Err(ModelError::inconsistent(
            config.file(),
            format!(
                "`hidden_size` {hidden_size} over `num_attention_heads` {heads} makes no even head size up to {MAX_HEAD_DIM}; correct them, or give `head_dim`"
            ),
        ));
    }
    Ok(dim)
}

fn read_eps(config: &ConfigView<'_>, defaults: &Defaults) -> Result<f32> {
    match config.opt_positive_f64(defaults.eps_field)? {
        None => Ok(defaults.eps as f32),
        Some(eps) if eps <= 1.0 => Ok(eps as f32),
        Some(_) => Err(config
            .invalid(defaults.eps_field, "a number above 0 and up to 1")
            .into()),
    }
}

fn read_activation(config: &ConfigView<'_>, defaults: &Defaults) -> Result<Activation> {
    let field = defaults.activation_field;
    match config.opt_str(field)? {
        None => Ok(defaults.activation),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu") => Ok(Activation::Gelu),
        Some("gelu_pytorch_tanh" | "gelu_new") => Ok(Activation::GeluTanh),
        Some(other) => Err(ModelError::unsupported(
            config,
            field,
            format!("\"{other}\""),
            "known: silu, gelu, gelu_pytorch_tanh",
        )),
    }
}

/// A number of at least `least`, or the family's default.
pub(crate) fn size_or(
    config: &ConfigView<'_>,
    field: &str,
    least: usize,
    most: usize,
    default: usize,
) -> Result<usize> {
    Ok(config.opt_usize_in(field, least..=most)?.unwrap_or(default))
}

/// A number above 0 that is still one as f32, or the default.
pub(crate) fn factor_or(config: &ConfigView<'_>, field: &str, default: f64) -> Result<f32> {
    let factor = config.opt_positive_f64(field)?.unwrap_or(default) as f32;
    match factor.is_finite() && factor > 0.0 {
        true => Ok(factor),
        false => Err(config.invalid(field, "a number above 0 within f32").into()),
    }
}

/// The same, or none.
pub(crate) fn opt_factor(config: &ConfigView<'_>, field: &str) -> Result<Option<f32>> {
    match config.has(field) {
        true => factor_or(config, field, 1.0).map(Some),
        false => Ok(None),
    }
}
