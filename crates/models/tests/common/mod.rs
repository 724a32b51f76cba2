//! Configurations for the tests: one tiny model per family.
#![allow(dead_code)]

use formats::ConfigView;
use models::{Model, ModelError};
use serde_json::{Value, json};
use std::path::Path;

/// The families that all others derive from.
pub const FAMILIES: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];

/// Every family that reads a configuration of text alone.
pub const ALL: [&str; 19] = [
    "deepseek_v3",
    "gemma2",
    "gemma3_text",
    "glm4",
    "gpt_oss",
    "granite",
    "lfm2",
    "llama",
    "mistral",
    "mixtral",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen3",
    "qwen3_5_moe_text",
    "qwen3_5_text",
    "qwen3_moe",
    "qwen3_next",
    "smollm3",
];

/// Families of several modalities, and the one of their text.
pub const WRAPPED: [(&str, &str, &str); 3] = [
    ("gemma3", "Gemma3ForConditionalGeneration", "gemma3_text"),
    ("qwen3_5", "Qwen3_5ForConditionalGeneration", "qwen3_5_text"),
    (
        "qwen3_5_moe",
        "Qwen3_5MoeForConditionalGeneration",
        "qwen3_5_moe_text",
    ),
];

/// The configuration of several modalities whose text is `tiny(text)`.
pub fn wrapped(family: &str) -> Value {
    let found = WRAPPED.iter().find(|(name, _, _)| *name == family);
    let (_, architecture, text) = found.unwrap_or_else(|| panic!("no family {family}"));
    let mut inner = tiny(text);
    inner["architectures"] = Value::Null;
    json!({
        "architectures": [architecture], "model_type": family, "text_config": inner,
        "vision_config": { "hidden_size": 8 }, "tie_word_embeddings": false
    })
}

/// Gated delta nets and, last, one layer of attention.
fn hybrid() -> Value {
    json!({
        "head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "linear_key_head_dim": 4, "linear_value_head_dim": 6,
        "layer_types": ["linear_attention", "full_attention"]
    })
}

fn experts() -> Value {
    json!({ "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 10 })
}

/// A valid configuration of two layers.
pub fn tiny(family: &str) -> Value {
    let mut config = json!({
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 40,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "rope_parameters": { "rope_type": "default", "rope_theta": 10000.0 },
        "tie_word_embeddings": false
    });
    let own = match family {
        "llama" => json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama",
            "attention_bias": true, "mlp_bias": true,
            "rope_parameters": {
                "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
                "original_max_position_embeddings": 32
            }
        }),
        "mistral" => json!({
            "architectures": ["MistralForCausalLM"], "model_type": "mistral",
            "sliding_window": 6
        }),
        "qwen2" => json!({
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
            "use_sliding_window": true, "sliding_window": 5, "max_window_layers": 1,
            "tie_word_embeddings": true
        }),
        "qwen3" => json!({
            "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3",
            "head_dim": 6, "attention_bias": false,
            "layer_types": ["full_attention", "full_attention"]
        }),
        "qwen3_moe" => json!({
            "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe",
            "head_dim": 6, "mlp_only_layers": [0], "norm_topk_prob": true
        }),
        "gemma2" => json!({
            "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2",
            "head_dim": 6, "sliding_window": 5, "query_pre_attn_scalar": 9,
            "attn_logit_softcapping": 4.0, "final_logit_softcapping": 3.0,
            "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": true
        }),
        "gemma3_text" => json!({
            "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text",
            "head_dim": 6, "sliding_window": 5, "sliding_window_pattern": 2,
            "rope_parameters": {
                "full_attention": { "rope_type": "linear", "factor": 8.0, "rope_theta": 1e6 },
                "sliding_attention": { "rope_type": "default", "rope_theta": 1e4 }
            }
        }),
        "phi3" => json!({
            "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "sliding_window": 9,
            "hidden_size": 32, "original_max_position_embeddings": 16,
            "rope_parameters": {
                "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
                "short_factor": [1.0, 1.5], "long_factor": [2.0, 4.0]
            }
        }),
        "qwen3_next" => json!({
            "architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next",
            "shared_expert_intermediate_size": 12, "mlp_only_layers": [0]
        }),
        "qwen3_5_text" => json!({
            "architectures": ["Qwen3_5ForCausalLM"], "model_type": "qwen3_5_text"
        }),
        "qwen3_5_moe_text" => json!({
            "architectures": ["Qwen3_5MoeForCausalLM"], "model_type": "qwen3_5_moe_text",
            "shared_expert_intermediate_size": 12
        }),
        "mixtral" => json!({
            "architectures": ["MixtralForCausalLM"], "model_type": "mixtral",
            "num_local_experts": 4
        }),
        "olmo2" => json!({
            "architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2"
        }),
        "granite" => json!({
            "architectures": ["GraniteForCausalLM"], "model_type": "granite",
            "embedding_multiplier": 12.0, "residual_multiplier": 0.5,
            "attention_multiplier": 0.25, "logits_scaling": 4.0
        }),
        "smollm3" => json!({
            "architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3",
            "no_rope_layers": [1, 0]
        }),
        "gpt_oss" => json!({
            "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss",
            "head_dim": 6, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 7
        }),
        "glm4" => json!({
            "architectures": ["Glm4ForCausalLM"], "model_type": "glm4", "head_dim": 8
        }),
        "deepseek_v3" => json!({
            "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
            "num_key_value_heads": 4, "n_routed_experts": 8, "num_experts_per_tok": 3,
            "moe_intermediate_size": 10, "n_shared_experts": 2, "n_group": 4, "topk_group": 2,
            "first_k_dense_replace": 1, "kv_lora_rank": 12, "q_lora_rank": 6,
            "qk_nope_head_dim": 5, "qk_rope_head_dim": 4, "v_head_dim": 7
        }),
        "lfm2" => json!({
            "architectures": ["Lfm2ForCausalLM"], "model_type": "lfm2", "norm_eps": 1e-5,
            "block_multiple_of": 8, "conv_bias": true, "layer_types": ["conv", "full_attention"]
        }),
        other => panic!("no family {other}"),
    };
    if family.starts_with("qwen3_next") || family.starts_with("qwen3_5") {
        merge(&mut config, &hybrid());
    }
    if family.starts_with("qwen3") && family.contains("moe") || family == "qwen3_next" {
        merge(&mut config, &experts());
    }
    merge(&mut config, &own);
    config
}

/// Sets the fields of `changes` in `config`.
pub fn merge(config: &mut Value, changes: &Value) {
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
}

pub fn load(config: &Value) -> Result<Model, ModelError> {
    models::load(&ConfigView::new(config, Path::new("config.json"))?)
}
