//! Layouts that the converter wrote in the past, or writes when asked to.

use super::{Source, Tensor};
use ::models::spec::{Ffn, Mixer};

/// The same tensors with q, k and v in one; gate and up of the experts in one, or each expert
/// apart; keys and values of latent attention in one.
pub(super) fn layout(source: &Source<'_>, mut tensors: Vec<Tensor>) -> Vec<Tensor> {
    for (number, layer) in source.spec().layers.iter().enumerate() {
        let mut take = |name: &str| {
            let name = format!("blk.{number}.{name}");
            let at = tensors.iter().position(|t| t.name == name);
            at.map(|at| tensors.swap_remove(at))
        };
        let mut made = Vec::new();
        if layer_fuses(&layer.mixer) {
            for kind in ["weight", "bias"] {
                let parts = ["attn_q", "attn_k", "attn_v"].map(|p| take(&format!("{p}.{kind}")));
                let parts: Vec<Tensor> = parts.into_iter().flatten().collect();
                if parts.len() == 3 {
                    made.push(Tensor::joined(&parts).named(format!("attn_qkv.{kind}")));
                } else if let Some(fused) = parts.into_iter().next() {
                    panic!("{} without the others", fused.name);
                }
            }
        }
        if let Mixer::Latent(l) = &layer.mixer {
            let key = take("attn_k_b.weight").expect("keys");
            let value = take("attn_v_b.weight").expect("values");
            let (rank, nope) = (l.kv_rank, l.nope_dim);
            let transposed = (0..l.heads * nope).flat_map(|row| {
                let (head, i) = (row / nope, row % nope);
                let at = move |r| head * rank * nope + r * nope + i;
                (0..rank).map(at).collect::<Vec<_>>()
            });
            let values = transposed.map(|at| key.values[at]).collect();
            let key = Tensor {
                shape: vec![l.heads * nope, rank],
                values,
                ..key.clone()
            };
            let value = value.shaped(&[l.heads * l.value_dim, rank]);
            let both = Tensor::by_turns(&[(&key, nope), (&value, l.value_dim)]);
            made.push(both.named("attn_kv_b.weight"));
        }
        if let Ffn::Moe(m) = &layer.ffn {
            let experts = m.experts;
            let mut flat = |name: &str| {
                let stacked = take(&format!("{name}_exps.weight")).expect("experts");
                let rows = stacked.shape[..2].iter().product();
                let width = stacked.shape[2];
                stacked.shaped(&[rows, width])
            };
            if source.architecture == "llama" {
                for name in ["ffn_gate", "ffn_up", "ffn_down"] {
                    let all = flat(name);
                    let each = all.rows() / experts;
                    made.extend((0..experts).map(|e| {
                        let rows = e * each..(e + 1) * each;
                        all.reordered(rows).named(format!("{name}.{e}.weight"))
                    }));
                }
            } else {
                let (gate, up) = (flat("ffn_gate"), flat("ffn_up"));
                let (wide, width) = (m.intermediate, gate.width());
                let both = Tensor::by_turns(&[(&gate, wide), (&up, wide)]);
                let both = both.shaped(&[experts, 2 * wide, width]);
                made.push(both.named("ffn_gate_up_exps.weight"));
            }
        }
        for tensor in made {
            let name = format!("blk.{number}.{}", tensor.name);
            tensors.push(tensor.named(name));
        }
    }
    tensors
}

/// Queries with a gate of their own stay apart.
fn layer_fuses(mixer: &Mixer) -> bool {
    matches!(mixer, Mixer::Attention(a) if !a.output_gate)
}
