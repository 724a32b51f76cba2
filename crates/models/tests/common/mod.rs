//! Configurations for the tests: one tiny model per family.
#![allow(dead_code)]

use formats::ConfigView;
use models::{Model, ModelError};
use serde_json::{Value, json};
use std::path::Path;

pub const FAMILIES: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];

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
        other => panic!("no family {other}"),
    };
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
