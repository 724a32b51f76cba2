//! Random changes to valid configurations: an error or a model, never a panic, and a model that
//! is accepted is consistent.

mod common;

use common::{ALL, WRAPPED, load, tiny, wrapped};
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use serde_json::{Value, json};
use std::cell::Cell;

const FIELDS: &[&str] = &[
    "architectures",
    "attention_bias",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_types",
    "max_position_embeddings",
    "max_window_layers",
    "mlp_bias",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "pretraining_tp",
    "quantization_config",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "use_sliding_window",
    "vocab_size",
    // Of the derived families.
    "attention_multiplier",
    "attn_logit_softcapping",
    "block_auto_adjust_ff_dim",
    "block_ffn_dim_multiplier",
    "block_multiple_of",
    "conv_L_cache",
    "conv_bias",
    "decoder_sparse_step",
    "embedding_multiplier",
    "final_logit_softcapping",
    "first_k_dense_replace",
    "full_attention_interval",
    "full_attn_idxs",
    "hidden_activation",
    "kv_lora_rank",
    "linear_conv_kernel_dim",
    "linear_key_head_dim",
    "linear_num_key_heads",
    "linear_num_value_heads",
    "linear_value_head_dim",
    "logits_scaling",
    "mlp_only_layers",
    "moe_intermediate_size",
    "n_group",
    "n_routed_experts",
    "n_shared_experts",
    "no_rope_layer_interval",
    "no_rope_layers",
    "norm_topk_prob",
    "num_experts",
    "num_experts_per_tok",
    "num_local_experts",
    "q_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "query_pre_attn_scalar",
    "residual_multiplier",
    "rope_interleave",
    "rope_local_base_freq",
    "routed_scaling_factor",
    "shared_expert_intermediate_size",
    "sliding_window_pattern",
    "text_config",
    "topk_group",
    "v_head_dim",
];

const ROPE_FIELDS: &[&str] = &[
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "factor",
    "full_attention",
    "high_freq_factor",
    "long_factor",
    "low_freq_factor",
    "mscale",
    "mscale_all_dim",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rope_theta",
    "short_factor",
    "sliding_attention",
    "truncate",
    "type",
];

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => (1u64..200).prop_map(|n| json!(n)),
        1 => any::<i64>().prop_map(|n| json!(n)),
        1 => any::<u64>().prop_map(|n| json!(n)),
        1 => (0u32..64).prop_map(|n| json!(1u64 << n)),
        1 => any::<f64>().prop_map(|x| json!(x)),
        1 => (0.0..100.0f64).prop_map(|x| json!(x)),
    ]
}

fn scalar() -> impl Strategy<Value = Value> {
    let words = prop::sample::select(vec![
        "silu",
        "gelu",
        "default",
        "linear",
        "llama3",
        "yarn",
        "dynamic",
        "full_attention",
        "sliding_attention",
        "LlamaForCausalLM",
        "Qwen3ForCausalLM",
        "mistral",
    ]);
    prop_oneof![
        4 => number(),
        2 => words.prop_map(|w| json!(w)),
        1 => any::<String>().prop_map(|s| json!(s)),
        1 => any::<bool>().prop_map(|b| json!(b)),
        1 => Just(Value::Null),
    ]
}

fn rope() -> impl Strategy<Value = Value> {
    let kind = prop::sample::select(vec!["default", "linear", "llama3", "yarn", "longrope"]);
    let fields = prop::collection::vec((prop::sample::select(ROPE_FIELDS), scalar()), 0..5);
    (kind, fields).prop_map(|(kind, fields)| {
        let mut rope = json!({
            "rope_type": kind, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0
        });
        for (field, value) in fields {
            rope[field] = value;
        }
        rope
    })
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        6 => scalar(),
        3 => rope(),
        1 => prop::collection::vec(scalar(), 0..4).prop_map(Value::Array),
    ]
}

fn changes() -> impl Strategy<Value = Vec<(&'static str, Value)>> {
    prop::collection::vec((prop::sample::select(FIELDS), value()), 1..4)
}

fn consistent(model: &models::Model) -> Result<(), TestCaseError> {
    let stored: u128 = model
        .graph
        .weights()
        .map(|(_, v)| v.shape.fixed_len().unwrap() as u128)
        .sum();
    prop_assert_eq!(stored, u128::from(model.parameters));
    let layers: std::collections::BTreeSet<usize> =
        model.graph.caches().map(|(_, c)| c.layer).collect();
    prop_assert_eq!(layers.len(), model.layers);
    for rope in &model.spec.ropes {
        for context in [1, 1 << 30] {
            let frequencies = rope.frequencies(context);
            prop_assert!(frequencies.iter().all(|f| f.is_finite()));
            prop_assert_eq!(frequencies.len() * 2, rope.rotary_dim);
        }
        prop_assert!(rope.rotary_dim <= models::spec::MAX_HEAD_DIM);
    }
    Ok(())
}

#[test]
fn changed_configurations_never_panic() {
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 4000,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(2),
        ..ProptestConfig::default()
    });
    let accepted = Cell::new(0);
    let bare = ALL.iter().map(|family| tiny(family));
    let whole = bare.chain(WRAPPED.iter().map(|(family, _, _)| wrapped(family)));
    let config = prop::sample::select(whole.collect::<Vec<_>>());
    runner
        .run(&(config, changes()), |(mut config, changes)| {
            for (field, value) in changes {
                match config.get_mut("text_config") {
                    Some(Value::Object(text)) if field != "text_config" => {
                        text.insert(field.to_string(), value);
                    }
                    _ => config[field] = value,
                }
            }
            match load(&config) {
                Err(e) => {
                    let text = e.to_string();
                    prop_assert!(text.lines().count() <= 3 && text.len() < 1000, "{}", text);
                    Ok(())
                }
                Ok(model) => {
                    accepted.set(accepted.get() + 1);
                    consistent(&model)
                }
            }
        })
        .unwrap();
    // Changes that all fail would test the first check only.
    assert!((400..3600).contains(&accepted.get()), "{}", accepted.get());
}
