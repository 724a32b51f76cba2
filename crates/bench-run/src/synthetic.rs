//! Models of real shapes with random weights: speed and memory without a file.

use anyhow::{Context as _, Result, bail};
use formats::hf::GenerationDefaults;
use formats::{ConfigView, Description, ModelFiles, Recipe, StoredType, TensorStore};
use graph::{Dim, Graph, Op, Value, ValueId, ValueKind};
use runtime::Opened;
use serde_json::{Value as Json, json};
use std::path::PathBuf;

/// A shape: its name, and its configuration without the number of layers.
struct Shape {
    name: &'static str,
    layers: usize,
    config: fn(usize) -> Json,
}

const SHAPES: &[Shape] = &[
    Shape {
        name: "qwen3-0.6b",
        layers: 28,
        config: |layers| qwen3(layers, 1024, 3072, 16, true),
    },
    Shape {
        name: "qwen3-1.7b",
        layers: 28,
        config: |layers| qwen3(layers, 2048, 6144, 16, true),
    },
    Shape {
        name: "qwen3-4b",
        layers: 36,
        config: |layers| qwen3(layers, 2560, 9728, 32, true),
    },
    Shape {
        name: "qwen3-8b",
        layers: 36,
        config: |layers| qwen3(layers, 4096, 12288, 32, false),
    },
    Shape {
        name: "qwen3.5-35b-a3b",
        layers: 40,
        config: qwen3_5_moe,
    },
    // For tests: every op of its larger relatives, a few hundred kilobytes.
    Shape {
        name: "tiny",
        layers: 2,
        config: tiny,
    },
];

fn qwen3(layers: usize, hidden: usize, ffn: usize, heads: usize, tied: bool) -> Json {
    json!({
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151_936,
        "max_position_embeddings": 40_960,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "hidden_act": "silu",
        "attention_bias": false,
        "tie_word_embeddings": tied,
    })
}

fn tiny(layers: usize) -> Json {
    let mut config = qwen3(layers, 256, 512, 4, true);
    config["num_key_value_heads"] = json!(2);
    config["head_dim"] = json!(64);
    config["vocab_size"] = json!(512);
    config
}

fn qwen3_5_moe(layers: usize) -> Json {
    let kind = |i: usize| match (i + 1) % 4 {
        0 => "full_attention",
        _ => "linear_attention",
    };
    json!({
        "architectures": ["Qwen3_5MoeForCausalLM"],
        "model_type": "qwen3_5_moe_text",
        "hidden_size": 2048,
        "num_hidden_layers": layers,
        "layer_types": (0..layers).map(kind).collect::<Vec<_>>(),
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
        "linear_value_head_dim": 128,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "vocab_size": 248_320,
        "max_position_embeddings": 262_144,
        "rms_norm_eps": 1e-6,
        "partial_rotary_factor": 0.25,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e7,
            "partial_rotary_factor": 0.25,
        },
        "hidden_act": "silu",
        "attention_bias": false,
        "tie_word_embeddings": false,
    })
}

/// How a file of some name stores its tensors.
#[derive(Clone, Copy, Debug)]
struct Quant {
    matrices: StoredType,
    /// Of the output head.
    head: StoredType,
    /// Of v and down projections in the layers that such files favour.
    favoured: StoredType,
}

/// Files of few bits have heads of six, as llama.cpp's quantiser writes them; `_m`
/// mixes more of those in.
fn quant(name: &str) -> Result<Quant> {
    let (base, mixed) = match name.strip_suffix("_m") {
        Some(base) => (base, true),
        None => (name, false),
    };
    let found = StoredType::ALL.iter().find(|t| t.scheme() == base);
    let real = |t: &&StoredType| formats::decode_row(**t, &[], &mut []).is_ok();
    let matrices = *found.filter(real).with_context(|| {
        format!("no storage scheme is called '{name}': use f32, f16, bf16, q8_0, q4_0, q4_k, q4_k_m, q5_k, q6_k or another scheme of blocks")
    })?;
    let few_bits =
        matrices.block_elements() > 1 && matrices.block_bytes() * 8 < 6 * matrices.block_elements();
    if mixed && !matches!(matrices, StoredType::Q4_K | StoredType::Q5_K) {
        bail!("there is no mix called '{name}': use q4_k_m or q5_k_m");
    }
    let better = match few_bits {
        true => StoredType::Q6_K,
        false => matrices,
    };
    Ok(Quant {
        matrices,
        head: better,
        favoured: if mixed { better } else { matrices },
    })
}

/// Opens a model of random weights, such as `qwen3-0.6b:q4_k_m`; with `layers` it
/// has fewer than the shape's own.
pub fn open(what: &str, layers: Option<usize>) -> Result<Opened> {
    let names = || SHAPES.iter().map(|s| s.name).collect::<Vec<_>>().join(", ");
    let Some((shape, scheme)) = what.split_once(':') else {
        bail!("'{what}' is no SHAPE:QUANT: write one such as qwen3-1.7b:q4_k_m");
    };
    let Some(shape) = SHAPES.iter().find(|s| s.name == shape) else {
        bail!("no shape is called '{shape}': use one of {}", names());
    };
    let quant = quant(scheme)?;
    let layers = layers.unwrap_or(shape.layers);
    if layers == 0 || layers > shape.layers {
        bail!(
            "{} has 1 to {} layers, not {layers}",
            shape.name,
            shape.layers
        );
    }
    let config = (shape.config)(layers);
    let path = PathBuf::from(what);
    let graph = models::load(&ConfigView::new(&config, &path)?)?.graph;
    let mut tensors = TensorStore::default();
    for (id, value) in graph.weights() {
        define(&mut tensors, &graph, id, value, &quant, layers)?;
    }
    Ok(Opened::from_files(ModelFiles {
        description: Description::Config {
            value: config,
            path: path.clone(),
        },
        path,
        generation: GenerationDefaults::default(),
        tensors,
    })?)
}

fn define(
    tensors: &mut TensorStore,
    graph: &Graph,
    id: ValueId,
    value: &Value,
    quant: &Quant,
    layers: usize,
) -> Result<()> {
    let ValueKind::Weight { tensor, matrix } = &value.kind else {
        return Ok(());
    };
    let fixed = |d: &Dim| match d {
        Dim::Fixed(n) => Some(*n),
        _ => None,
    };
    let shape: Option<Vec<usize>> = value.shape.dims().iter().map(fixed).collect();
    let shape = shape.with_context(|| format!("{tensor} has no fixed shape"))?;
    let k = shape.last().copied().unwrap_or(1);
    let (mut stored, mut mean, mut deviation) = (StoredType::F32, 0.0, 0.1);
    if *matrix {
        stored = scheme_of(graph, id, tensor, quant, layers);
        if !k.is_multiple_of(stored.block_elements()) {
            stored = StoredType::F32;
        }
        deviation = (k as f32).sqrt().recip();
    } else if let Some(offset) = norm_offset(graph, id) {
        mean = 1.0 - offset;
    } else if tensor.ends_with("A_log") || tensor.ends_with("dt_bias") {
        // Decays that neither forget at once nor never.
        (mean, deviation) = (-1.0, 1.0);
    } else if tensor.contains("conv1d") {
        deviation = 0.5;
    }
    let seed = tensor.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    let recipe = Recipe::Random {
        stored,
        shape,
        mean,
        deviation,
        seed,
    };
    Ok(tensors.define(tensor, &recipe)?)
}

/// What a norm adds to its weights, if that is what the value is.
fn norm_offset(graph: &Graph, id: ValueId) -> Option<f32> {
    let users = graph.consumers(id).iter();
    users
        .filter_map(|n| match graph.node(*n).op {
            Op::RmsNorm { weight_offset, .. } => Some(weight_offset),
            _ => None,
        })
        .next()
}

fn scheme_of(graph: &Graph, id: ValueId, tensor: &str, quant: &Quant, layers: usize) -> StoredType {
    // Small and decisive: files keep routers and the gates of recurrences whole.
    let whole = [
        ".mlp.gate.",
        ".shared_expert_gate.",
        ".in_proj_a.",
        ".in_proj_b.",
    ];
    if whole.iter().any(|part| tensor.contains(part)) {
        return StoredType::F32;
    }
    let layer = tensor
        .split_once(".layers.")
        .and_then(|(_, rest)| rest.split('.').next()?.parse::<usize>().ok());
    let Some(layer) = layer else {
        // The head, the embedding where it is that too.
        let multiplies = |n: &graph::NodeId| graph.node(*n).op.kind().multiplies();
        return match graph.consumers(id).iter().any(multiplies) {
            true => quant.head,
            false => quant.matrices,
        };
    };
    let eighth = layers / 8;
    let favoured = layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2;
    let part = tensor.contains("v_proj") || tensor.contains("down_proj");
    match favoured && part {
        true => quant.favoured,
        false => quant.matrices,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schemes(opened: &Opened) -> Vec<(String, String)> {
        let all = opened.files.tensors.iter();
        all.map(|t| (t.info.name.clone(), t.info.stored.to_string()))
            .collect()
    }

    #[test]
    fn every_shape_opens_and_has_its_number_of_parameters() {
        for (name, billions) in [
            ("qwen3-0.6b", 0.596),
            ("qwen3-1.7b", 1.72),
            ("qwen3-4b", 4.02),
            ("qwen3-8b", 8.19),
            ("qwen3.5-35b-a3b", 34.66),
        ] {
            let opened =
                open(&format!("{name}:q4_k"), None).unwrap_or_else(|e| panic!("{name}: {e:#}"));
            let found = opened.model.parameters as f64 / 1e9;
            assert!((found / billions - 1.0).abs() < 0.01, "{name}: {found}");
        }
    }

    #[test]
    fn a_mix_favours_some_layers_and_the_head() {
        let all = schemes(&open("qwen3-0.6b:q4_k_m", None).unwrap());
        let of = |name: &str| &all.iter().find(|(n, _)| n == name).expect(name).1;
        assert_eq!(of("model.embed_tokens.weight"), "q6_k");
        assert_eq!(of("model.layers.0.self_attn.v_proj.weight"), "q6_k");
        assert_eq!(of("model.layers.3.self_attn.v_proj.weight"), "q4_k");
        assert_eq!(of("model.layers.5.mlp.down_proj.weight"), "q6_k");
        assert_eq!(of("model.layers.5.mlp.up_proj.weight"), "q4_k");
        let all = schemes(&open("qwen3-8b:q8_0", Some(2)).unwrap());
        assert!(all.iter().all(|(_, s)| s == "q8_0" || s == "f32"));
        assert!(all.iter().any(|(n, _)| n == "lm_head.weight"));
    }

    #[test]
    fn what_does_not_exist_is_refused_by_name() {
        for (what, layers, said) in [
            ("qwen3-0.6b", None, "SHAPE:QUANT"),
            ("gpt-9:q4_k", None, "qwen3-1.7b"),
            ("tiny:q9_z", None, "q9_z"),
            ("tiny:q8_0_m", None, "q4_k_m"),
            ("tiny:i32", None, "i32"),
            ("tiny:q4_k", Some(3), "1 to 2"),
        ] {
            let error = format!("{:#}", open(what, layers).err().expect(what));
            assert!(error.contains(said), "{what}: {error}");
        }
    }
}
