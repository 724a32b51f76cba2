//! What the derived families refuse, and how they say it.

mod common;

use common::{ALL, WRAPPED, load, merge, tiny, wrapped};
use serde_json::{Value, json};

#[track_caller]
fn refused_config(config: &Value, parts: &[&str]) {
    let text = match load(config) {
        Ok(_) => panic!("accepted: {config}"),
        Err(e) => e.to_string(),
    };
    assert!(text.contains("config.json"), "{text}");
    assert!(text.lines().count() <= 3 && text.len() < 600, "{text}");
    for part in parts {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
}

#[track_caller]
fn refused(family: &str, changes: Value, parts: &[&str]) {
    let mut config = tiny(family);
    merge(&mut config, &changes);
    refused_config(&config, parts);
}

#[track_caller]
fn accepted(family: &str, changes: Value) -> models::Model {
    let mut config = tiny(family);
    merge(&mut config, &changes);
    load(&config).unwrap_or_else(|e| panic!("{family} refuses {changes}: {e}"))
}

#[test]
fn no_family_computes_what_none_does() {
    for family in ALL {
        for (changes, parts) in [
            (json!({ "is_causal": false }), ["is_causal", "false"]),
            (
                json!({ "use_bidirectional_attention": true }),
                ["use_bidirectional_attention", "true"],
            ),
            (
                json!({ "attention_chunk_size": 8192 }),
                ["attention_chunk_size", "8192"],
            ),
            (
                json!({ "quantization_config": { "quant_method": "gptq", "bits": 4 } }),
                ["quantization_config.quant_method", "\"gptq\""],
            ),
        ] {
            refused(family, changes, &parts);
        }
        for (field, value) in [
            ("hidden_size", json!(0)),
            ("vocab_size", json!(-1)),
            ("num_hidden_layers", json!(4097)),
            ("max_position_embeddings", json!("8")),
        ] {
            refused(family, json!({ field: value }), &[field, "wanted"]);
        }
    }
}

#[test]
fn what_one_family_computes_others_refuse() {
    let features = [
        ("final_logit_softcapping", json!(30.0)),
        ("attn_logit_softcapping", json!(30.0)),
        ("embedding_multiplier", json!(12.0)),
        ("residual_multiplier", json!(0.5)),
        ("attention_multiplier", json!(0.5)),
        ("logits_scaling", json!(4.0)),
        ("num_experts", json!(4)),
        ("n_routed_experts", json!(8)),
        ("no_rope_layers", json!([0, 1])),
        ("rope_interleave", json!(true)),
    ];
    let computed: &[(&str, &[&str])] = &[
        (
            "gemma2",
            &["final_logit_softcapping", "attn_logit_softcapping"],
        ),
        ("gemma3_text", &["final_logit_softcapping"]),
        (
            "granite",
            &[
                "embedding_multiplier",
                "residual_multiplier",
                "attention_multiplier",
                "logits_scaling",
            ],
        ),
        ("qwen3_moe", &["num_experts"]),
        ("qwen3_next", &["num_experts"]),
        ("qwen3_5_moe_text", &["num_experts"]),
        ("deepseek_v3", &["n_routed_experts", "rope_interleave"]),
        ("smollm3", &["no_rope_layers"]),
    ];
    for family in ALL {
        let own = computed.iter().find(|(name, _)| *name == family);
        let own = own.map_or(&[][..], |(_, fields)| fields);
        for (field, value) in &features {
            let changes = json!({ *field: value });
            match own.contains(field) {
                true => drop(accepted(family, changes)),
                false => refused(family, changes, &[field]),
            }
        }
    }
}

#[test]
fn mixtures_must_make_sense() {
    for family in ["qwen3_moe", "qwen3_next", "qwen3_5_moe_text", "gpt_oss"] {
        refused(
            family,
            json!({ "num_experts_per_tok": 7 }),
            &["num_experts_per_tok", "7", "number of experts"],
        );
    }
    for value in [json!(0), json!(1 << 20), json!("4")] {
        refused(
            "mixtral",
            json!({ "num_local_experts": value }),
            &["num_local_experts"],
        );
    }
    refused(
        "qwen3_moe",
        json!({ "num_experts": 4, "num_local_experts": 8 }),
        &["num_experts", "num_local_experts", "4", "8"],
    );
    refused(
        "qwen3_moe",
        json!({ "decoder_sparse_step": 0 }),
        &["decoder_sparse_step"],
    );
    refused(
        "qwen3_5_moe_text",
        json!({ "num_experts": 0 }),
        &["num_experts", "every layer"],
    );
    refused(
        "qwen3_5_moe_text",
        json!({ "norm_topk_prob": false }),
        &["norm_topk_prob"],
    );
    for changes in [
        json!({ "n_group": 3 }),
        json!({ "topk_group": 5 }),
        json!({ "n_group": 8, "topk_group": 8 }),
        json!({ "topk_group": 1, "num_experts_per_tok": 3 }),
    ] {
        refused("deepseek_v3", changes, &["topk_group", "n_group"]);
    }
    for (field, value) in [
        ("scoring_func", json!("softmax")),
        ("topk_method", json!("greedy")),
        ("moe_layer_freq", json!(2)),
    ] {
        refused("deepseek_v3", json!({ field: value }), &[field]);
    }
    accepted(
        "deepseek_v3",
        json!({ "scoring_func": "sigmoid", "moe_layer_freq": 1 }),
    );
    refused(
        "gpt_oss",
        json!({ "swiglu_limit": 8.0 }),
        &["swiglu_limit", "7"],
    );
    accepted("gpt_oss", json!({ "swiglu_limit": 7.0 }));
    accepted(
        "gpt_oss",
        json!({ "quantization_config": { "quant_method": "mxfp4" } }),
    );
}

#[test]
fn recurrent_layers_must_make_sense() {
    for family in ["qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"] {
        refused(
            family,
            json!({ "linear_num_value_heads": 3 }),
            &["linear_num_value_heads", "3", "linear_num_key_heads"],
        );
        refused(
            family,
            json!({ "linear_conv_kernel_dim": 1 }),
            &["linear_conv_kernel_dim"],
        );
        refused(
            family,
            json!({ "hidden_act": "gelu" }),
            &["hidden_act", "silu"],
        );
        refused(
            family,
            json!({ "attn_output_gate": false }),
            &["attn_output_gate"],
        );
        refused(
            family,
            json!({ "layer_types": ["linear_attention", "sliding_attention"] }),
            &["layer_types[1]", "linear_attention"],
        );
        refused(
            family,
            json!({ "partial_rotary_factor": 0.3, "rope_parameters": null, "head_dim": 10 }),
            &["partial_rotary_factor", "0.3", "even"],
        );
    }
    refused("lfm2", json!({ "conv_L_cache": 1 }), &["conv_L_cache"]);
    refused(
        "lfm2",
        json!({ "layer_types": ["conv", "linear_attention"] }),
        &["layer_types[1]", "known: full_attention, conv"],
    );
    refused(
        "lfm2",
        json!({ "block_ffn_dim_multiplier": 1e-3, "intermediate_size": 1, "block_multiple_of": 1 }),
        &["intermediate_size", "makes an MLP of 0"],
    );
}

#[test]
fn rotary_settings_of_derived_families_must_be_sane() {
    let long = |changes: Value| {
        let mut rope = json!({
            "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
            "short_factor": [1.0, 1.5], "long_factor": [2.0, 4.0]
        });
        merge(&mut rope, &changes);
        json!({ "rope_parameters": rope })
    };
    refused(
        "phi3",
        long(json!({ "short_factor": [1.0] })),
        &["short_factor", "2 numbers"],
    );
    refused(
        "phi3",
        long(json!({ "long_factor": [1.0, 0.0] })),
        &["long_factor"],
    );
    refused(
        "phi3",
        long(json!({ "long_factor": null })),
        &["long_factor"],
    );
    refused(
        "phi3",
        long(json!({ "rope_type": "linear", "factor": 2.0 })),
        &["linear", "longrope"],
    );
    // Older names of the same.
    for name in ["su", "yarn", "longrope"] {
        let model = accepted("phi3", long(json!({ "rope_type": name })));
        assert_eq!(model.spec.ropes[0].long.as_ref().map(|l| l.0), Some(16));
    }
    refused(
        "glm4",
        json!({ "partial_rotary_factor": 1.5 }),
        &["partial_rotary_factor", "1.5"],
    );
    refused(
        "gemma3_text",
        json!({ "rope_parameters": { "rope_type": "default", "rope_theta": 1e4 } }),
        &[
            "rope_parameters.rope_t",
            "full_attention and sliding_attention",
        ],
    );
    refused(
        "gemma3_text",
        json!({ "rope_scaling": { "rope_type": "yarn", "factor": 2.0 } }),
        &["rope_scaling", "rope_parameters.full_attention", "differ"],
    );
    refused(
        "gemma3_text",
        json!({ "rope_scaling": { "rope_type": "linear", "factor": 2.0 } }),
        &["rope_scaling", "differ"],
    );
    accepted(
        "gemma3_text",
        json!({ "rope_scaling": { "rope_type": "linear", "factor": 8.0 } }),
    );
    for (rope, plain) in [
        (json!({ "rope_scaling": {} }), false),
        (json!({ "rope_parameters": {} }), true),
    ] {
        let mut config = tiny("gpt_oss");
        config["rope_parameters"] = Value::Null;
        merge(&mut config, &rope);
        let ropes = load(&config).unwrap().spec.ropes;
        assert_eq!(
            ropes[0].scaling == models::RopeScaling::Default,
            plain,
            "{rope}"
        );
        assert_eq!(ropes[0].theta, 150_000.0);
    }
    refused(
        "gemma3_text",
        json!({ "rope_parameters": null, "rope_local_base_freq": 0.5 }),
        &["rope_local_base_freq"],
    );
    refused(
        "smollm3",
        json!({ "no_rope_layers": [1] }),
        &["no_rope_layers", "1 entries"],
    );
    refused(
        "smollm3",
        json!({ "no_rope_layers": [1, 2] }),
        &["no_rope_layers"],
    );
    refused(
        "deepseek_v3",
        json!({ "qk_rope_head_dim": 5 }),
        &["qk_rope_head_dim", "even"],
    );
    refused(
        "deepseek_v3",
        json!({ "num_key_value_heads": 2 }),
        &["num_key_value_heads", "4"],
    );
}

#[test]
fn caps_and_multipliers_must_be_positive() {
    for value in [json!(0), json!(-1.0), json!(1e300), json!("x")] {
        for (family, field) in [
            ("gemma2", "attn_logit_softcapping"),
            ("gemma2", "final_logit_softcapping"),
            ("gemma2", "query_pre_attn_scalar"),
            ("granite", "embedding_multiplier"),
            ("granite", "logits_scaling"),
            ("granite", "attention_multiplier"),
            ("granite", "residual_multiplier"),
            ("deepseek_v3", "routed_scaling_factor"),
        ] {
            if field == "query_pre_attn_scalar" && value == json!(1e300) {
                continue;
            }
            refused(family, json!({ field: value }), &[field]);
        }
    }
    let none = json!({ "attn_logit_softcapping": null, "final_logit_softcapping": null });
    let spec = accepted("gemma2", none).spec;
    assert_eq!(spec.logits_softcap, None);
    assert!(spec.attentions().all(|a| a.softcap.is_none()));
    refused(
        "gemma2",
        json!({ "sliding_window": null }),
        &["layer_types[0]", "sliding_window"],
    );
}

#[test]
fn the_text_part_of_several_modalities_must_be_there_and_be_the_right_one() {
    for (family, _, text) in WRAPPED {
        let mut config = wrapped(family);
        config["text_config"]["model_type"] = json!("llama");
        refused_config(&config, &["text_config.model_type", "llama", text]);
        config["text_config"] = Value::Null;
        refused_config(&config, &["text_config", "missing"]);
        let mut config = wrapped(family);
        config["text_config"]["vocab_size"] = json!(0);
        refused_config(&config, &["text_config.vocab_size"]);
        let mut config = wrapped(family);
        config["text_config"]["attention_chunk_size"] = json!(4);
        refused_config(&config, &["attention_chunk_size"]);
        // The tie beside it counts.
        for tied in [true, false] {
            let mut config = wrapped(family);
            config["tie_word_embeddings"] = json!(tied);
            config["text_config"]["tie_word_embeddings"] = json!(!tied);
            assert_eq!(load(&config).unwrap().spec.tied_embeddings, tied);
        }
    }
}
