//! Every configuration that must be refused, and what the refusal says.

mod common;

use common::{FAMILIES, load, merge, tiny};
use serde_json::{Value, json};

/// The error for a tiny model of `family` with `changes`; it names the file and fits three lines.
#[track_caller]
fn error(family: &str, changes: Value) -> String {
    let mut config = tiny(family);
    merge(&mut config, &changes);
    let text = match load(&config) {
        Ok(_) => panic!("{family} accepts {changes}"),
        Err(e) => e.to_string(),
    };
    assert!(text.contains("config.json"), "{text}");
    assert!(text.lines().count() <= 3 && text.len() < 600, "{text}");
    text
}

#[track_caller]
fn refused(family: &str, changes: Value, parts: &[&str]) {
    let text = error(family, changes);
    for part in parts {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
}

#[track_caller]
fn accepted(family: &str, changes: Value) {
    let mut config = tiny(family);
    merge(&mut config, &changes);
    if let Err(e) = load(&config) {
        panic!("{family} refuses {changes}: {e}");
    }
}

#[test]
fn the_tiny_models_load() {
    for family in FAMILIES {
        accepted(family, json!({}));
    }
}

#[test]
fn unknown_architectures_are_named_with_what_is_known() {
    let known = [
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
    ];
    for name in [
        "GPT2LMHeadModel",
        "LlamaModel",
        "Qwen3ForSequenceClassification",
    ] {
        refused("llama", json!({ "architectures": [name] }), &[name]);
        refused("llama", json!({ "architectures": [name] }), &known);
    }
    let remote = json!({
        "architectures": ["OtherLM"], "model_type": "other", "auto_map": {"AutoConfig": "a.B"}
    });
    refused("llama", remote, &["OtherLM", "its own Python code"]);
    let none = json!({ "architectures": null, "model_type": null });
    refused(
        "llama",
        none,
        &["architectures", "model_type", "LlamaForCausalLM"],
    );
    refused(
        "llama",
        json!({ "architectures": [] , "model_type": "gpt2" }),
        &["gpt2", "known"],
    );
    refused(
        "llama",
        json!({ "architectures": "LlamaForCausalLM" }),
        &["architectures", "list"],
    );
    refused(
        "llama",
        json!({ "model_type": "mistral" }),
        &["`mistral`", "`llama`"],
    );
    let long = "x".repeat(10_000);
    assert!(error("llama", json!({ "architectures": [long] })).contains('…'));
}

#[test]
fn the_model_type_alone_is_enough() {
    for family in FAMILIES {
        let mut config = tiny(family);
        let named = load(&config).unwrap();
        config["architectures"] = Value::Null;
        let model = load(&config).unwrap();
        assert_eq!(model.architecture, named.architecture);
        config["architectures"] = json!([named.architecture]);
        config["model_type"] = Value::Null;
        assert_eq!(load(&config).unwrap().family, family);
        // Remote code does not matter where the architecture is known.
        accepted(family, json!({ "auto_map": { "AutoConfig": "a.B" } }));
    }
}

#[test]
fn absurd_sizes_are_refused() {
    let sizes = [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
        "max_position_embeddings",
        "head_dim",
    ];
    let absurd = [
        json!(0),
        json!(-1),
        json!(1e300),
        json!(2.5),
        json!("8"),
        json!(true),
    ];
    for family in FAMILIES {
        for field in sizes {
            for value in &absurd {
                refused(family, json!({ field: value }), &[field, "wanted"]);
            }
            refused(family, json!({ field: u64::MAX }), &[field]);
        }
    }
    for field in [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
    ] {
        refused("llama", json!({ field: null }), &[field, "missing"]);
    }
    refused(
        "llama",
        json!({ "num_hidden_layers": 4097 }),
        &["num_hidden_layers", "4096"],
    );
    for eps in [json!(0.0), json!(-1e-6), json!(2.0), json!("1e-6")] {
        refused("qwen3", json!({ "rms_norm_eps": eps }), &["rms_norm_eps"]);
    }
    let huge = json!({
        "hidden_size": 1 << 24, "intermediate_size": 1 << 24, "num_hidden_layers": 4096,
        "num_attention_heads": 1 << 16, "num_key_value_heads": 1 << 16, "head_dim": 1 << 13,
        "vocab_size": 1 << 24
    });
    for family in FAMILIES {
        let mut changes = huge.clone();
        changes["layer_types"] = Value::Null;
        refused(family, changes, &["parameters", "check the sizes"]);
    }
}

#[test]
fn heads_must_fit() {
    refused(
        "llama",
        json!({ "num_key_value_heads": 3 }),
        &["num_attention_heads", "4", "3"],
    );
    refused(
        "llama",
        json!({ "num_attention_heads": 5, "num_key_value_heads": 5 }),
        &["hidden_size", "head_dim"],
    );
    refused(
        "mistral",
        json!({ "hidden_size": 12 }),
        &["hidden_size` 12", "even"],
    );
    for family in FAMILIES {
        refused(family, json!({ "head_dim": 7 }), &["head_dim", "7", "even"]);
    }
    refused("qwen3", json!({ "head_dim": null }), &["head_dim", "null"]);
    accepted("qwen2", json!({ "head_dim": 10 }));
}

#[test]
fn features_that_are_not_computed_are_named() {
    for family in FAMILIES {
        for (changes, parts) in [
            (json!({ "hidden_act": "relu" }), ["hidden_act", "\"relu\""]),
            (json!({ "pretraining_tp": 2 }), ["pretraining_tp", "2"]),
            (
                json!({ "quantization_config": { "quant_method": "gptq", "bits": 4 } }),
                ["quantization_config.quant_method", "\"gptq\""],
            ),
            (
                json!({ "quantization_config": {} }),
                ["quantization_config", "not given"],
            ),
            (
                json!({ "compression_config": { "quant_method": "x" } }),
                ["compression_config", "\"x\""],
            ),
            (json!({ "is_causal": false }), ["is_causal", "false"]),
            (
                json!({ "num_local_experts": 8 }),
                ["num_local_experts", "8"],
            ),
            (
                json!({ "attention_chunk_size": 8192 }),
                ["attention_chunk_size", "8192"],
            ),
            (
                json!({ "final_logit_softcapping": 30.0 }),
                ["final_logit_softcapping", "30"],
            ),
            (
                json!({ "embedding_multiplier": 12 }),
                ["embedding_multiplier", "12"],
            ),
            (
                json!({ "rope_interleaved": true }),
                ["rope_interleaved", "true"],
            ),
            (
                json!({ "no_rope_layers": [1, 0] }),
                ["no_rope_layers", "[1,0]"],
            ),
            (
                json!({ "partial_rotary_factor": 0.5 }),
                ["partial_rotary_factor", "0.5"],
            ),
            (
                json!({ "per_layer_config": { "0": {} } }),
                ["per_layer_config", "{"],
            ),
        ] {
            refused(family, changes, &parts);
        }
        accepted(
            family,
            json!({
                "hidden_act": "swish", "pretraining_tp": 1, "is_causal": true, "use_mrope": false,
                "num_local_experts": 0, "logit_scale": 1.0, "rope_interleaved": false,
                "no_rope_layers": [], "partial_rotary_factor": 1.0, "quantization_config": null,
                "final_logit_softcapping": null
            }),
        );
        // What transformers ignores is ignored.
        accepted(
            family,
            json!({
                "attention_dropout": 0.1, "initializer_range": 0.02, "use_cache": false,
                "torch_dtype": "float16", "bos_token_id": 1, "transformers_version": "4.40.0",
                "my_own_note": { "a": [1, 2, 3] }
            }),
        );
    }
    refused(
        "mistral",
        json!({ "attention_bias": true }),
        &["attention_bias", "true"],
    );
    for family in ["mistral", "qwen2", "qwen3"] {
        refused(family, json!({ "mlp_bias": true }), &["mlp_bias", "true"]);
        accepted(family, json!({ "mlp_bias": false }));
    }
    for family in ["llama", "mistral", "qwen2"] {
        refused(
            family,
            json!({ "use_qk_norm": true }),
            &["use_qk_norm", "true"],
        );
    }
    refused(
        "llama",
        json!({ "sliding_window": 64 }),
        &["sliding_window", "64"],
    );
    refused(
        "llama",
        json!({ "attention_bias": "yes" }),
        &["attention_bias", "true or false"],
    );
}

#[test]
fn windows_must_make_sense() {
    for family in FAMILIES {
        refused(
            family,
            json!({ "layer_types": ["full_attention"] }),
            &["layer_types", "1 entries", "2 layers"],
        );
        refused(
            family,
            json!({ "layer_types": ["full_attention", "chunked_attention"] }),
            &[
                "layer_types[1]",
                "\"chunked_attention\"",
                "sliding_attention",
            ],
        );
        refused(
            family,
            json!({ "layer_types": [1, 2] }),
            &["layer_types", "strings"],
        );
    }
    let sliding = json!(["sliding_attention", "sliding_attention"]);
    let mixed = json!(["sliding_attention", "full_attention"]);
    refused(
        "llama",
        json!({ "layer_types": mixed }),
        &["layer_types[0]", "sliding_attention"],
    );
    refused(
        "mistral",
        json!({ "layer_types": mixed }),
        &["layer_types[1]", "full_attention", "6"],
    );
    accepted("mistral", json!({ "layer_types": sliding }));
    accepted(
        "llama",
        json!({ "layer_types": ["full_attention", "attention"] }),
    );
    for family in ["qwen2", "qwen3"] {
        refused(
            family,
            json!({ "layer_types": mixed, "use_sliding_window": false, "sliding_window": 8 }),
            &["layer_types[0]", "use_sliding_window"],
        );
        refused(
            family,
            json!({ "layer_types": mixed, "use_sliding_window": true, "sliding_window": null }),
            &["layer_types[0]", "sliding_window"],
        );
        for window in [json!(0), json!(-4), json!(1.5)] {
            refused(
                family,
                json!({ "use_sliding_window": true, "sliding_window": window }),
                &["sliding_window"],
            );
        }
        refused(
            family,
            json!({ "max_window_layers": -1 }),
            &["max_window_layers"],
        );
    }
    refused(
        "mistral",
        json!({ "sliding_window": 0 }),
        &["sliding_window"],
    );
}

#[test]
fn rotary_settings_must_be_known_and_sane() {
    for field in ["rope_scaling", "rope_parameters"] {
        let rope = |changes: Value| {
            let mut rope = json!({
                "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 32
            });
            merge(&mut rope, &changes);
            let mut all = json!({ "rope_scaling": null, "rope_parameters": null });
            all[field] = rope;
            all
        };
        for family in FAMILIES {
            for kind in ["dynamic", "su", "proportional", "mrope", "LLAMA3"] {
                let parts = [
                    &format!("{field}.rope_type"),
                    kind,
                    "known: default, linear, llama3, yarn, longrope",
                ];
                refused(family, rope(json!({ "rope_type": kind })), &parts);
                refused(
                    family,
                    rope(json!({ "type": kind })),
                    &[&format!("{field}.type"), kind],
                );
            }
            for kind in ["default", "linear", "llama3", "yarn"] {
                accepted(family, rope(json!({ "rope_type": kind })));
                accepted(family, rope(json!({ "type": kind })));
            }
        }
        for kind in ["linear", "llama3", "yarn"] {
            for factor in [
                json!(0),
                json!(-2.0),
                json!("4"),
                json!(null),
                json!(1e-320),
            ] {
                refused(
                    "llama",
                    rope(json!({ "rope_type": kind, "factor": factor })),
                    &[],
                );
            }
        }
        for (kind, changes, part) in [
            (
                "llama3",
                json!({ "high_freq_factor": 1.0 }),
                "high_freq_factor",
            ),
            (
                "llama3",
                json!({ "low_freq_factor": null }),
                "low_freq_factor",
            ),
            (
                "llama3",
                json!({ "original_max_position_embeddings": 0 }),
                "original_max",
            ),
            ("yarn", json!({ "beta_fast": -1 }), "beta_fast"),
            ("yarn", json!({ "truncate": 1 }), "truncate"),
            ("yarn", json!({ "attention_factor": 0 }), "attention_factor"),
            ("yarn", json!({ "mscale": "x" }), "mscale"),
            ("default", json!({ "rope_theta": 1.0 }), "rope_theta"),
            ("default", json!({ "rope_theta": 1e300 }), "rope_theta"),
            ("default", json!({ "rope_theta": -10000 }), "rope_theta"),
            (
                "default",
                json!({ "partial_rotary_factor": 0.25 }),
                "partial_rotary_factor",
            ),
            (
                "default",
                json!({ "llama_4_scaling_beta": 0.1 }),
                "llama_4_scaling_beta",
            ),
            (
                "default",
                json!({ "full_attention": {"rope_theta": 1e4} }),
                "full_attention",
            ),
        ] {
            let mut all = changes;
            all["rope_type"] = json!(kind);
            refused("llama", rope(all), &[field, part]);
        }
        refused("llama", json!({ field: [1] }), &[field, "an object"]);
        refused("llama", json!({ field: { "rope_type": 3 } }), &["rope"]);
    }
    refused(
        "llama",
        json!({ "rope_scaling": { "rope_type": "linear", "factor": 2.0 } }),
        &["rope_scaling", "rope_parameters", "differ"],
    );
    refused(
        "qwen3",
        json!({ "rope_parameters": null, "rope_theta": null }),
        &["rope_theta", "null"],
    );
}
