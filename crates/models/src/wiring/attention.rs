//! Grouped-query attention.

use graph::{Activation, AttentionSpec, CacheSpec, GraphError, Op, ValueId};

use super::{Part, Wiring};
use crate::spec::{Attention, QkNorm};

impl Wiring<'_> {
    pub(super) fn attention(
        &mut self,
        layer: usize,
        a: &Attention,
        h: ValueId,
    ) -> Result<ValueId, GraphError> {
        let hidden = self.spec.hidden_size;
        let (heads, kv_heads, dim) = (a.heads, a.kv_heads, a.head_dim);
        let part = Part {
            layer,
            group: "attn",
            tensors: "self_attn",
        };
        let mut project = |name: &str, heads: usize| {
            self.linear(&part, name, h, (vec![heads, dim], hidden), a.qkv_bias)
        };
        let mut q = match a.output_gate {
            true => project("q_proj.query", heads)?,
            false => project("q_proj", heads)?,
        };
        let mut k = project("k_proj", kv_heads)?;
        let v = project("v_proj", kv_heads)?;
        let gate = match a.output_gate {
            true => Some(project("q_proj.gate", heads)?),
            false => None,
        };
        let norm_dims = match a.qk_norm {
            QkNorm::None => None,
            QkNorm::Head => Some((dim, dim)),
            QkNorm::Whole => Some((heads * dim, kv_heads * dim)),
        };
        if let Some((q_dim, k_dim)) = norm_dims {
            q = self.norm(
                &part.node("q_norm"),
                &part.tensor("q_norm.weight"),
                q,
                q_dim,
            )?;
            k = self.norm(
                &part.node("k_norm"),
                &part.tensor("k_norm.weight"),
                k,
                k_dim,
            )?;
        }
        if let Some(rope) = a.rope {
            q = self.rope(&part.node("q_rope"), rope, q)?;
            k = self.rope(&part.node("k_rope"), rope, k)?;
        }
        let cache = CacheSpec::key_value(layer, a.window, kv_heads, dim);
        let cache = self.b.cache(cache);
        let node = part.node("kv_append");
        let cache = self.b.op(&node, Op::KvAppend, &[k, v, cache])?;
        let attend = Op::Attention(AttentionSpec {
            scale: a.scale,
            window: a.window,
            softcap: a.softcap,
        });
        let mut inputs = vec![q, cache];
        if a.sinks {
            inputs.push(self.vector(&part.tensor("sinks"), heads)?);
        }
        let mut o = self.b.op(&part.node("attention"), attend, &inputs)?;
        if let Some(gate) = gate {
            let op = Op::GatedMul(Activation::Sigmoid);
            o = self.b.op(&part.node("sigmoid_mul"), op, &[gate, o])?;
        }
        self.linear(&part, "o_proj", o, (vec![hidden], heads * dim), a.o_bias)
    }
}
