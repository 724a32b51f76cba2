//! Mixers other than grouped-query attention.

use formats::config::{MAX_DIM, MAX_LAYERS};

use super::GgufFile;
use crate::error::Result;
use crate::read::inverse_root;
use crate::rope::Rope;
use crate::spec::{DeltaNet, Latent, MAX_HEAD_DIM, MAX_HEADS, MAX_KERNEL, ShortConv};

/// Epsilon of the norms on latent vectors, whatever the file says of the others.
const LATENT_EPS: f32 = 1e-6;

impl GgufFile<'_> {
    /// Multi-head latent attention of all layers, with the rotation that it uses.
    pub(crate) fn latent(&self) -> Result<(Latent, Rope)> {
        const WHOLE: &str = "attention.key_length_mla";
        let keys = &self.keys;
        let size = |key| keys.usize_in(key, 1..=MAX_HEAD_DIM);
        // Files from before the split of keys and values have the sizes of whole heads alone.
        let (key, value) = match keys.has(WHOLE) {
            true => (WHOLE, "attention.value_length_mla"),
            false => ("attention.key_length", "attention.value_length"),
        };
        let (whole, value_dim) = (size(key)?, size(value)?);
        let rope_dim = size("rope.dimension_count")?;
        let Some(nope_dim) = whole.checked_sub(rope_dim).filter(|n| *n > 0) else {
            let wanted = format!("more than rope.dimension_count, which is {rope_dim}");
            return Err(keys.invalid(key, &wanted).into());
        };
        let rope = Rope {
            interleaved: true,
            ..self.rope(rope_dim)?
        };
        let heads = self.heads()?;
        if heads.iter().any(|n| *n != heads[0]) {
            let wanted = "the same number in all layers";
            return Err(keys.invalid("attention.head_count", wanted).into());
        }
        let q_rank = match self.has(0, "attn_q.weight") {
            true => None,
            false => Some(keys.usize("attention.q_lora_rank")?),
        };
        let latent = Latent {
            heads: heads[0],
            q_rank,
            kv_rank: keys.usize_in("attention.kv_lora_rank", 1..=MAX_DIM)?,
            nope_dim,
            rope_dim,
            value_dim,
            scale: inverse_root(whole as f64) * self.attention_factor(&rope)?,
            rope: 0,
            bias: self.has(0, "attn_kv_a_mqa.bias"),
            norm_eps: LATENT_EPS,
        };
        Ok((latent, rope))
    }

    /// The gated delta net of recurrent layers. Files have the decay itself, not its logarithm.
    /// Where they are `tiled`, neighbouring value heads use different key heads.
    pub(crate) fn delta_net(&self, tiled: bool) -> Result<DeltaNet> {
        const INNER: &str = "ssm.inner_size";
        let keys = &self.keys;
        let key_heads = keys.usize_in("ssm.group_count", 1..=MAX_HEADS)?;
        let value_heads = keys.usize_in("ssm.time_step_rank", 1..=MAX_HEADS)?;
        if !value_heads.is_multiple_of(key_heads) {
            let wanted = format!("a divisor of ssm.time_step_rank, which is {value_heads}");
            return Err(keys.invalid("ssm.group_count", &wanted).into());
        }
        let inner = keys.usize(INNER)?;
        let value_dim = inner / value_heads;
        if !inner.is_multiple_of(value_heads) || value_dim > MAX_HEAD_DIM {
            let wanted = format!(
                "a multiple of ssm.time_step_rank, which is {value_heads}, up to {MAX_HEAD_DIM} times it"
            );
            return Err(keys.invalid(INNER, &wanted).into());
        }
        Ok(DeltaNet {
            key_heads,
            value_heads,
            key_dim: keys.usize_in("ssm.state_size", 1..=MAX_HEAD_DIM)?,
            value_dim,
            kernel: keys.usize_in("ssm.conv_kernel", 2..=MAX_KERNEL)?,
            log_decay: false,
            tiled,
        })
    }

    /// Per layer, whether it is recurrent: as listed, or all but every so many.
    pub(crate) fn recurrent(&self) -> Result<Vec<bool>> {
        if let Some(flags) = self.flags("attention.recurrent_layers")? {
            return Ok(flags);
        }
        let interval = self
            .keys
            .opt_usize_in("full_attention_interval", 1..=MAX_LAYERS)?;
        let interval = interval.unwrap_or(4);
        let recurrent = |i: usize| !i.is_multiple_of(interval);
        Ok((1..=self.layers).map(recurrent).collect())
    }

    /// The short convolution of layers that do not attend.
    pub(crate) fn short_conv(&self, layer: usize) -> Result<ShortConv> {
        Ok(ShortConv {
            kernel: self.keys.usize_in("shortconv.l_cache", 2..=MAX_KERNEL)?,
            bias: self.has(layer, "shortconv.conv.bias"),
        })
    }
}
