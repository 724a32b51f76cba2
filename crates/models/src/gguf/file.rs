//! What architectures spell alike.

use formats::config::{MAX_DIM, MAX_LAYERS};
use formats::gguf::Value;
use formats::{MetadataView, TensorStore};
use graph::Activation;

use super::names::{HEAD, tensor_name};
use super::{GgufArchitecture, PRE, guard};
use crate::error::{ModelError, Result};
use crate::read::inverse_root;
use crate::spec::{
    Attention, Dense, Ffn, LayerSpec, MAX_HEAD_DIM, MAX_HEADS, Mixer, ModelSpec, Moe, QkNorm,
};
use crate::wiring::EMBEDDING;

/// The metadata and tensors of a file, as its architecture reads them.
pub(crate) struct GgufFile<'a> {
    /// The keys of the architecture, by what follows its name.
    pub(crate) keys: MetadataView<'a>,
    pub(super) architecture: &'static GgufArchitecture,
    pub(super) tensors: &'a TensorStore,
    /// Layers, without those that predict further tokens.
    pub(crate) layers: usize,
    /// Those.
    pub(super) further: usize,
}

impl<'a> GgufFile<'a> {
    /// Errors: no layers; keys that the architecture does not compute with.
    pub(super) fn new(
        metadata: &MetadataView<'a>,
        architecture: &'static GgufArchitecture,
        tensors: &'a TensorStore,
    ) -> Result<Self> {
        let keys = metadata.within(architecture.name);
        guard::refuse(&keys, architecture)?;
        let layers = keys.layers("block_count")?;
        // What predicts further tokens lies behind the layers and counts as such.
        const FURTHER: &str = "nextn_predict_layers";
        let further = keys.opt_usize_in(FURTHER, 0..=MAX_LAYERS)?.unwrap_or(0);
        let Some(layers) = layers.checked_sub(further).filter(|n| *n > 0) else {
            let wanted = format!("a number below block_count, which is {layers}");
            return Err(keys.invalid(FURTHER, &wanted).into());
        };
        Ok(GgufFile {
            keys,
            architecture,
            tensors,
            layers,
            further,
        })
    }

    /// Whether the file holds the tensor of a layer.
    pub(crate) fn has(&self, layer: usize, part: &str) -> bool {
        self.tensors.contains(&format!("blk.{layer}.{part}"))
    }

    /// Pre-norm attention and gated MLPs, the same in every layer but for the windows and the
    /// tensors that there are.
    pub(crate) fn decoder(&self) -> Result<ModelSpec> {
        self.decoder_with(None)
    }

    /// [`decoder`](Self::decoder) with a mixture in the layers that have no MLP of their own.
    pub(crate) fn decoder_with(&self, moe: Option<&Moe>) -> Result<ModelSpec> {
        let mut spec = self.frame()?;
        let layer = |i| {
            Ok(LayerSpec {
                mixer: Mixer::Attention(self.attention(i)?),
                ffn: self.ffn(i, moe)?,
            })
        };
        spec.layers = (0..self.layers).map(layer).collect::<Result<_>>()?;
        self.finish(&mut spec)?;
        Ok(spec)
    }

    /// Gives the attention layers their rotation and their windows.
    pub(crate) fn finish(&self, spec: &mut ModelSpec) -> Result<()> {
        let head_dim = spec.attentions().next().map(|a| a.head_dim);
        if let Some(head_dim) = head_dim {
            spec.ropes = vec![self.rope(head_dim)?];
        }
        spec.set_windows(&self.windows(None, 1)?);
        Ok(())
    }

    /// What lies outside the layers; there are none.
    pub(crate) fn frame(&self) -> Result<ModelSpec> {
        let keys = &self.keys;
        const EPS: &str = "attention.layer_norm_rms_epsilon";
        let eps = keys.positive_f64(EPS)?;
        if eps > 1.0 {
            return Err(keys.invalid(EPS, "a number above 0 and up to 1").into());
        }
        const ACTIVATION: &str = "hidden_activation";
        if keys.has(ACTIVATION) && !matches!(keys.opt_str(ACTIVATION)?, Some("silu" | "swish")) {
            return Err(self.unsupported(ACTIVATION, "known: silu"));
        }
        Ok(ModelSpec {
            vocab_size: self.vocab_size()?,
            hidden_size: keys.usize("embedding_length")?,
            context_length: keys.usize("context_length")?,
            rms_norm_eps: eps as f32,
            norm_offset: 0.0,
            activation: Activation::Silu,
            tied_embeddings: !self.tensors.contains(HEAD),
            embedding_scale: 1.0,
            residual_scale: 1.0,
            logits_scale: 1.0,
            logits_softcap: None,
            norms: PRE,
            ropes: Vec::new(),
            layers: Vec::new(),
            paro: None,
        })
    }

    /// Rows of the embedding: files without a tokenizer need not say the size of their vocabulary.
    fn vocab_size(&self) -> Result<usize> {
        let name = tensor_name(EMBEDDING);
        let rows = self
            .tensors
            .get(&name)
            .and_then(|t| t.info.shape.first().copied())
            .filter(|rows| *rows <= MAX_DIM);
        rows.ok_or_else(|| ModelError::MissingTensor {
            tensor: name,
            shape: "[vocabulary, embedding_length]".to_string(),
            others: 0,
            hint: format!(
                "{} holds no embedding; download it again, or give a file with weights",
                self.keys.file().display()
            ),
        })
    }

    /// A count that is the same in all layers, or a list of one for each.
    pub(crate) fn opt_per_layer(
        &self,
        key: &str,
        range: std::ops::RangeInclusive<usize>,
    ) -> Result<Option<Vec<usize>>> {
        match self.keys.opt_usizes_in(key, range)? {
            Some(one) if one.len() == 1 => Ok(Some(vec![one[0]; self.layers])),
            // The layers that predict further tokens may have theirs.
            Some(all) if all.len() >= self.layers => Ok(Some(all)),
            None => Ok(None),
            Some(_) => {
                let wanted = format!("one number, or one for each of {} layers", self.layers);
                Err(self.keys.invalid(key, &wanted).into())
            }
        }
    }

    /// The same for a count that must be there.
    fn per_layer(&self, key: &str, range: std::ops::RangeInclusive<usize>) -> Result<Vec<usize>> {
        match self.opt_per_layer(key, range.clone())? {
            Some(counts) => Ok(counts),
            // For its error.
            None => Ok(vec![self.keys.usize_in(key, range)?; self.layers]),
        }
    }

    /// Key and value heads of each layer: 0 in those that do not attend.
    pub(crate) fn kv_heads(&self) -> Result<Option<Vec<usize>>> {
        self.opt_per_layer("attention.head_count_kv", 0..=MAX_HEADS)
    }

    /// Attention without norms on q and k that rotates as the model's first setting says.
    pub(crate) fn attention(&self, layer: usize) -> Result<Attention> {
        const KV_HEADS: &str = "attention.head_count_kv";
        let keys = &self.keys;
        let heads = self.heads()?[layer];
        let kv_heads = self.kv_heads()?.map_or(heads, |counts| counts[layer]);
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            let wanted = format!("a divisor of attention.head_count, which is {heads}");
            return Err(keys.invalid(KV_HEADS, &wanted).into());
        }
        let head_dim = self.head_dim(heads)?;
        const VALUES: &str = "attention.value_length";
        if let Some(other) = keys.opt_usize_in(VALUES, 0..=MAX_HEAD_DIM)?
            && other != head_dim
        {
            let reason = format!("heads of queries and keys have {head_dim} elements");
            return Err(self.unsupported(VALUES, &reason));
        }
        let has = |part| self.has(layer, part);
        Ok(Attention {
            heads,
            kv_heads,
            head_dim,
            scale: inverse_root(head_dim as f64),
            window: None,
            softcap: None,
            rope: Some(0),
            qkv_bias: has("attn_q.bias") || has("attn_qkv.bias"),
            o_bias: has("attn_output.bias"),
            qk_norm: QkNorm::None,
            sinks: false,
            output_gate: false,
        })
    }

    pub(crate) fn heads(&self) -> Result<Vec<usize>> {
        self.per_layer("attention.head_count", 1..=MAX_HEADS)
    }

    fn head_dim(&self, heads: usize) -> Result<usize> {
        const KEY: &str = "attention.key_length";
        let hidden_size = self.keys.usize("embedding_length")?;
        let given = self.keys.opt_usize_in(KEY, 1..=MAX_HEAD_DIM)?;
        let dim = match given {
            Some(dim) => dim,
            None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
            None => 0,
        };
        if dim == 0 || dim > MAX_HEAD_DIM || !dim.is_multiple_of(2) {
            let wanted = format!("an even head size up to {MAX_HEAD_DIM}");
            return Err(self.keys.invalid(KEY, &wanted).into());
        }
        Ok(dim)
    }

    /// The feed-forward part of a layer.
    pub(crate) fn ffn(&self, layer: usize, moe: Option<&Moe>) -> Result<Ffn> {
        match moe {
            Some(moe) if !self.has(layer, "ffn_up.weight") => Ok(Ffn::Moe(moe.clone())),
            _ => Ok(Ffn::Dense(Dense {
                intermediate: self.per_layer("feed_forward_length", 1..=MAX_DIM)?[layer],
                bias: self.has(layer, "ffn_down.bias"),
            })),
        }
    }

    /// Windows: of all layers, or of those that the file's pattern marks. Without a pattern, of
    /// every `period` layers all slide but the last; all of them where it is 1.
    pub(crate) fn windows(
        &self,
        default: Option<usize>,
        period: usize,
    ) -> Result<Vec<Option<usize>>> {
        const PATTERN: &str = "attention.sliding_window_pattern";
        let window = self
            .keys
            .opt_usize_in("attention.sliding_window", 0..=MAX_DIM)?
            .or(default)
            .filter(|w| *w > 0);
        let periodic = |period: usize| {
            let slides = move |i: usize| period <= 1 || !(i + 1).is_multiple_of(period);
            let of = |i| window.filter(|_| slides(i));
            (0..self.layers).map(of).collect::<Vec<_>>()
        };
        match self.keys.get(PATTERN) {
            _ if window.is_none() => Ok(vec![None; self.layers]),
            None => Ok(periodic(period)),
            Some(Value::Array(_)) => {
                let slides = self.flags(PATTERN)?.unwrap_or_default();
                Ok(slides.iter().map(|s| window.filter(|_| *s)).collect())
            }
            // 1 would be no layer here, 0 all of them.
            Some(_) => Ok(match self.keys.usize_in(PATTERN, 0..=MAX_LAYERS)? {
                1 => vec![None; self.layers],
                period => periodic(period),
            }),
        }
    }

    /// A list of booleans, or of 0 and 1, of which each layer has one.
    pub(crate) fn flags(&self, key: &str) -> Result<Option<Vec<bool>>> {
        let Some(value) = self.keys.get(key) else {
            return Ok(None);
        };
        let flag = |v: Value<'_>| match v.as_u64() {
            Some(n) if n <= 1 => Some(n == 1),
            _ => v.as_bool(),
        };
        let read = |array: formats::gguf::Array<'_>| array.iter().map(flag).collect();
        let flags: Option<Vec<bool>> = value.as_array().and_then(read);
        match flags {
            Some(mut flags) if flags.len() >= self.layers => {
                flags.truncate(self.layers);
                Ok(Some(flags))
            }
            _ => {
                let wanted = format!("one boolean for each of {} layers", self.layers);
                Err(self.keys.invalid(key, &wanted).into())
            }
        }
    }

    /// A factor above 0 that is still one as f32; absent and 0 stand for none.
    pub(crate) fn factor(&self, key: &str) -> Result<Option<f32>> {
        let Some(factor) = self.keys.opt_f64(key)?.filter(|f| *f != 0.0) else {
            return Ok(None);
        };
        match factor as f32 {
            f if f > 0.0 && f.is_finite() => Ok(Some(f)),
            _ => Err(self.keys.invalid(key, "a number above 0 within f32").into()),
        }
    }
}
