//! Multi-head latent attention. Keys and values are never expanded: each head's query is carried
//! over to the latent space and its result back, so that the cache holds one vector for all heads.

use graph::{CacheSpec, GraphError, Op, ValueId};

use super::{Part, Wiring};
use crate::spec::Latent;

impl Wiring<'_> {
    pub(super) fn latent(
        &mut self,
        layer: usize,
        l: &Latent,
        h: ValueId,
    ) -> Result<ValueId, GraphError> {
        let hidden = self.spec.hidden_size;
        let part = Part {
            layer,
            group: "attn",
            tensors: "self_attn",
        };
        // These norms take their weights as they are, whatever the model's others do.
        let norm = (l.norm_eps, 0.0);
        let (from, width, name) = match l.q_rank {
            Some(rank) => {
                let q = self.linear(&part, "q_a_proj", h, (vec![rank], hidden), l.bias)?;
                let weight = part.tensor("q_a_layernorm.weight");
                let q = self.norm_with(&part.node("q_a_norm"), &weight, q, rank, norm)?;
                (q, rank, "q_b_proj")
            }
            None => (h, hidden, "q_proj"),
        };
        let q_nope = self.linear(
            &part,
            &format!("{name}.nope"),
            from,
            (vec![l.heads, l.nope_dim], width),
            false,
        )?;
        let q_rope = self.linear(
            &part,
            &format!("{name}.rope"),
            from,
            (vec![l.heads, l.rope_dim], width),
            false,
        )?;
        let size = (vec![l.kv_rank], hidden);
        let c = self.linear(&part, "kv_a_proj_with_mqa.latent", h, size, l.bias)?;
        let size = (vec![1, l.rope_dim], hidden);
        let k_rope = self.linear(&part, "kv_a_proj_with_mqa.rope", h, size, l.bias)?;
        let weight = part.tensor("kv_a_layernorm.weight");
        let c = self.norm_with(&part.node("kv_a_norm"), &weight, c, l.kv_rank, norm)?;
        let q_rope = self.rope(&part.node("q_rope"), l.rope, q_rope)?;
        let k_rope = self.rope(&part.node("k_rope"), l.rope, k_rope)?;

        let up = part.tensor("kv_b_proj.key.weight");
        let up = self.matrix(&up, l.heads * l.kv_rank, l.nope_dim)?;
        let node = part.node("q_latent");
        let q_latent = self.b.op(&node, Op::HeadLinear, &[q_nope, up])?;
        let cache = CacheSpec::latent(layer, l.kv_rank + l.rope_dim);
        let cache = self.b.cache(cache);
        let node = part.node("latent_append");
        let cache = self.b.op(&node, Op::LatentAppend, &[c, k_rope, cache])?;
        let op = Op::LatentAttention { scale: l.scale };
        let node = part.node("latent_attention");
        let o = self.b.op(&node, op, &[q_latent, q_rope, cache])?;
        let value = part.tensor("kv_b_proj.value.weight");
        let value = self.matrix(&value, l.heads * l.value_dim, l.kv_rank)?;
        let node = part.node("values");
        let o = self.b.op(&node, Op::HeadLinear, &[o, value])?;
        let size = (vec![hidden], l.heads * l.value_dim);
        self.linear(&part, "o_proj", o, size, l.bias)
    }
}
