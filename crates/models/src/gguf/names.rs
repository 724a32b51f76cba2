//! Names of tensors: in a Hugging Face folder, in a GGUF file.

use crate::wiring::{EMBEDDING, FINAL_NORM, LAYERS, LM_HEAD};

/// The output head, where it is not the embedding.
pub(super) const HEAD: &str = "output.weight";

/// Outside the layers.
const OUTSIDE: &[(&str, &str)] = &[
    (EMBEDDING, "token_embd.weight"),
    (FINAL_NORM, "output_norm.weight"),
    (LM_HEAD, HEAD),
];

/// Parts of a layer, without `.weight` or `.bias`.
const PARTS: &[(&str, &str)] = &[
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_proj.query", "attn_q.query"),
    ("self_attn.q_proj.gate", "attn_q.gate"),
    ("self_attn.q_a_proj", "attn_q_a"),
    ("self_attn.q_a_layernorm", "attn_q_a_norm"),
    ("self_attn.q_b_proj", "attn_q_b"),
    ("self_attn.q_proj.nope", "attn_q.nope"),
    ("self_attn.q_proj.rope", "attn_q.rope"),
    ("self_attn.q_b_proj.nope", "attn_q_b.nope"),
    ("self_attn.q_b_proj.rope", "attn_q_b.rope"),
    ("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"),
    (
        "self_attn.kv_a_proj_with_mqa.latent",
        "attn_kv_a_mqa.latent",
    ),
    ("self_attn.kv_a_proj_with_mqa.rope", "attn_kv_a_mqa.rope"),
    ("self_attn.kv_a_layernorm", "attn_kv_a_norm"),
    ("self_attn.kv_b_proj", "attn_kv_b"),
    ("self_attn.kv_b_proj.key", "attn_k_b"),
    ("self_attn.kv_b_proj.value", "attn_v_b"),
    ("linear_attn.in_proj_qkv", "attn_qkv"),
    ("linear_attn.in_proj.q", "attn_qkv.q"),
    ("linear_attn.in_proj.k", "attn_qkv.k"),
    ("linear_attn.in_proj.v", "attn_qkv.v"),
    ("linear_attn.in_proj.z", "attn_gate"),
    ("linear_attn.in_proj.b", "ssm_beta"),
    ("linear_attn.in_proj.a", "ssm_alpha"),
    ("linear_attn.in_proj_qkvz", "ssm_in"),
    ("linear_attn.in_proj_ba", "ssm_ba"),
    ("linear_attn.conv1d", "ssm_conv1d"),
    ("linear_attn.conv1d.q", "ssm_conv1d.q"),
    ("linear_attn.conv1d.k", "ssm_conv1d.k"),
    ("linear_attn.conv1d.v", "ssm_conv1d.v"),
    ("linear_attn.norm", "ssm_norm"),
    ("linear_attn.out_proj", "ssm_out"),
    ("conv.in_proj", "shortconv.in_proj"),
    ("conv.in_proj.b", "shortconv.in_proj.b"),
    ("conv.in_proj.c", "shortconv.in_proj.c"),
    ("conv.in_proj.x", "shortconv.in_proj.x"),
    ("conv.conv", "shortconv.conv"),
    ("conv.conv.taps", "shortconv.conv"),
    ("conv.out_proj", "shortconv.out_proj"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    // Gate and up in one.
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.gate", "ffn_gate_inp"),
    ("mlp.experts.gate_proj", "ffn_gate_exps"),
    ("mlp.experts.up_proj", "ffn_up_exps"),
    ("mlp.experts.down_proj", "ffn_down_exps"),
    ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_expert.up_proj", "ffn_up_shexp"),
    ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
    ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
];

/// Parts whose names end otherwise on one side.
const WHOLE: &[(&str, &str)] = &[
    ("self_attn.sinks", "attn_sinks.weight"),
    ("linear_attn.A_log", "ssm_a"),
    ("linear_attn.dt_bias", "ssm_dt.bias"),
    ("mlp.gate.e_score_correction_bias", "exp_probs_b.bias"),
    ("mlp.experts.gate_up_proj", "ffn_gate_up_exps.weight"),
    ("mlp.experts.down_proj", "ffn_down_exps.weight"),
];

/// Experts in tensors of their own, as old files have them.
const EXPERT: &[(&str, &str)] = &[
    ("gate_proj", "ffn_gate"),
    ("up_proj", "ffn_up"),
    ("down_proj", "ffn_down"),
];

/// The GGUF name of a tensor, given that of a Hugging Face folder. Parts of layers that have no
/// other name keep theirs, as do tensors outside the layers.
pub(crate) fn tensor_name(hugging_face: &str) -> String {
    if let Some(name) = find(OUTSIDE, hugging_face) {
        return name.to_string();
    }
    let Some((layer, part)) = hugging_face
        .strip_prefix(LAYERS)
        .and_then(|rest| rest.split_once('.'))
    else {
        return hugging_face.to_string();
    };
    let part = part_name(part).unwrap_or_else(|| part.to_string());
    format!("blk.{layer}.{part}")
}

fn part_name(part: &str) -> Option<String> {
    if let Some(name) = find(WHOLE, part) {
        return Some(name.to_string());
    }
    let (name, kind) = part.rsplit_once('.')?;
    if let Some(name) = find(PARTS, name) {
        return Some(format!("{name}.{kind}"));
    }
    let (expert, name) = name.strip_prefix("mlp.experts.")?.split_once('.')?;
    Some(format!("{}.{expert}.{kind}", find(EXPERT, name)?))
}

fn find(names: &[(&str, &'static str)], wanted: &str) -> Option<&'static str> {
    let found = names.iter().find(|(name, _)| *name == wanted)?;
    Some(found.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_translated() {
        for (hf, gguf) in [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("lm_head.weight", "output.weight"),
            (
                "model.layers.11.self_attn.q_proj.bias",
                "blk.11.attn_q.bias",
            ),
            (
                "model.layers.3.mlp.down_proj.weight",
                "blk.3.ffn_down.weight",
            ),
            ("model.layers.0.attn_norm.weight", "blk.0.attn_norm.weight"),
            ("model.layers.2.linear_attn.A_log", "blk.2.ssm_a"),
            ("model.layers.2.self_attn.sinks", "blk.2.attn_sinks.weight"),
            (
                "model.layers.1.mlp.experts.7.up_proj.weight",
                "blk.1.ffn_up.7.weight",
            ),
            (
                "model.layers.1.mlp.experts.up_proj.bias",
                "blk.1.ffn_up_exps.bias",
            ),
            ("model.layers.x", "model.layers.x"),
            ("model.other", "model.other"),
        ] {
            assert_eq!(tensor_name(hf), gguf);
        }
    }
}
