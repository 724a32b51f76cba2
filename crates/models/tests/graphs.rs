//! The graph of a tiny model of each family, as text.
//!
//! Set UPDATE_SNAPSHOTS=1 to write the files in snapshots/ anew, then read the difference.

mod common;

use common::{ALL, FAMILIES, WRAPPED, load, merge, tiny, wrapped};
use graph::{CacheEntry, Op, OpKind, ValueKind};
use models::spec::Mixer;
use models::{Rope, RopeScaling};
use serde_json::json;

#[test]
fn each_family_wires_what_its_snapshot_says() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots");
    for family in ALL {
        let text = load(&tiny(family)).unwrap().graph.to_string();
        let path = folder.join(format!("{family}.txt"));
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let wanted = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text, wanted,
            "{family}: UPDATE_SNAPSHOTS=1 writes the new text"
        );
    }
}

/// Fusion looks for neighbours, and for the residual as the first operand.
#[test]
fn nodes_that_fuse_are_adjacent_and_residuals_come_first() {
    for family in FAMILIES {
        let model = load(&tiny(family)).unwrap();
        let names: Vec<&str> = model
            .graph
            .nodes()
            .iter()
            .map(|n| n.name.as_str())
            .collect();
        let adjacent = |parts: &[&str]| {
            let at = names.iter().position(|n| n.ends_with(parts[0]));
            let at = at.unwrap_or_else(|| panic!("{family}: no {}", parts[0]));
            for (name, part) in names[at..].iter().zip(parts) {
                assert!(name.ends_with(part), "{family}: {name} for {part}");
            }
        };
        adjacent(&["attn.q_proj", "attn.k_proj", "attn.v_proj"]);
        adjacent(&[
            "attn.q_rope",
            "attn.k_rope",
            "attn.kv_append",
            "attn.attention",
        ]);
        adjacent(&[
            "mlp.gate_proj",
            "mlp.up_proj",
            "mlp.silu_mul",
            "mlp.down_proj",
            "mlp.add",
        ]);
        if family == "qwen3" {
            adjacent(&["attn.q_norm", "attn.k_norm", "attn.q_rope"]);
        }
        let mut residual = model.graph.nodes()[0].outputs[0];
        for node in model.graph.nodes().iter().filter(|n| n.op == Op::Add) {
            assert_eq!(node.inputs[0], residual, "{family}: {}", node.name);
            residual = node.outputs[0];
        }
    }
}

#[test]
fn tied_models_read_one_matrix_twice() {
    for (tied, count) in [(true, 1), (false, 2)] {
        let mut config = tiny("llama");
        merge(&mut config, &json!({ "tie_word_embeddings": tied }));
        let model = load(&config).unwrap();
        let tables = model
            .graph
            .weights()
            .filter(|(_, v)| v.shape.dims()[0] == graph::Dim::Fixed(40));
        assert_eq!(tables.count(), count);
        assert_eq!(model.spec.tied_embeddings, tied);
    }
}

#[test]
fn layers_of_different_rotary_settings_have_their_own_tables() {
    let mut spec = load(&tiny("qwen3")).unwrap().spec;
    spec.ropes
        .push(Rope::new(5e5, 4, RopeScaling::Linear { factor: 2.0 }).unwrap());
    let Mixer::Attention(a) = &mut spec.layers[1].mixer else {
        panic!("qwen3 attends")
    };
    (a.window, a.rope) = (Some(7), Some(1));
    let graph = spec.graph("two", 64).unwrap();
    let table_of = |name: &str| {
        let node = graph.nodes().iter().find(|n| n.name == name).unwrap();
        let Op::Rope(rope) = &node.op else {
            panic!("{name} is {:?}", node.op)
        };
        let table = graph.node(graph.producer(node.inputs[1]).unwrap());
        let ValueKind::Constant(data) = &graph.value(table.inputs[0]).kind else {
            panic!("{name} rotates by no constant")
        };
        assert_eq!(data.len() * 2, rope.rotary_dim);
        (rope.rotary_dim, data[1])
    };
    assert_eq!(
        table_of("layers.0.attn.q_rope"),
        table_of("layers.0.attn.k_rope")
    );
    assert_eq!(table_of("layers.0.attn.q_rope").0, 6);
    assert_eq!(
        table_of("layers.1.attn.k_rope"),
        (4, spec.ropes[1].inv_freq[1])
    );
    let tables = graph
        .nodes()
        .iter()
        .filter(|n| n.op.kind() == OpKind::RopeTable);
    assert_eq!(tables.count(), 2);
}

#[test]
fn the_model_describes_itself() {
    let model = load(&tiny("llama")).unwrap();
    assert_eq!(model.architecture, "LlamaForCausalLM");
    assert_eq!(model.family, "llama");
    assert_eq!(model.graph.name(), "llama");
    assert_eq!(model.rope, "yarn x4 from 32, theta 10000, 4 dims");
    assert_eq!((model.context_length, model.vocab_size), (128, 40));
    assert_eq!((model.hidden_size, model.layers), (16, 2));
    let stored: usize = model
        .graph
        .weights()
        .filter_map(|(_, v)| v.shape.fixed_len())
        .sum();
    assert_eq!(model.parameters, stored as u64);
    assert_eq!(u128::from(model.parameters), model.spec.parameters());
}

/// What tells the families of one mixer apart, beyond the text of their graphs.
#[test]
fn caches_are_those_of_the_mixers() {
    let entries = |family: &str| {
        let model = load(&tiny(family)).unwrap();
        let caches = model.graph.caches();
        let entry = |(_, c): (_, &graph::CacheSpec)| (c.layer, c.part, c.entry);
        caches.map(entry).collect::<Vec<_>>()
    };
    let state = |len| CacheEntry::State { len };
    let kv = CacheEntry::KeyValue {
        kv_heads: 2,
        head_dim: 8,
    };
    // Three taps back over 2 x 4 keys and 4 x 6 values, and a state of 4 x 4 x 6.
    let delta = [
        (0, 0, state(3 * 8)),
        (0, 1, state(3 * 8)),
        (0, 2, state(3 * 24)),
        (0, 3, state(4 * 4 * 6)),
        (1, 0, kv),
    ];
    for family in ["qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"] {
        assert_eq!(entries(family), delta, "{family}");
    }
    let latent = CacheEntry::Latent { len: 12 + 4 };
    assert_eq!(entries("deepseek_v3"), [(0, 0, latent), (1, 0, latent)]);
    let kv = CacheEntry::KeyValue {
        kv_heads: 2,
        head_dim: 4,
    };
    assert_eq!(entries("lfm2"), [(0, 0, state(2 * 16)), (1, 0, kv)]);
}

#[test]
fn the_text_of_several_modalities_is_the_text_model() {
    for (family, architecture, text) in WRAPPED {
        let model = load(&wrapped(family)).unwrap();
        let mut plain = tiny(text);
        plain["tie_word_embeddings"] = json!(false);
        let plain = load(&plain).unwrap();
        assert_eq!(model.architecture, architecture);
        assert_eq!(model.family, family);
        assert_eq!(model.spec, plain.spec, "{family}");
        assert!(model.left_out.is_some_and(|what| what.contains("images")));
        assert_eq!(plain.left_out, None);
    }
}

#[test]
fn long_contexts_have_frequencies_of_their_own() {
    let model = load(&tiny("phi3")).unwrap();
    assert!(model.depends_on_context());
    let frequencies = |graph: &graph::Graph| {
        let constants = graph.values().iter().filter_map(|v| match &v.kind {
            ValueKind::Constant(data) => Some(data.to_vec()),
            _ => None,
        });
        constants.collect::<Vec<_>>()
    };
    let short = model.graph_for(16).unwrap();
    let long = model.graph_for(17).unwrap();
    // Bases 1 and 10000^(1/2), divided by the factors.
    assert_eq!(frequencies(&short), [[1.0, 1.0 / (1.5 * 100.0)]]);
    assert_eq!(frequencies(&long), [[0.5, 1.0 / (4.0 * 100.0)]]);
    assert_eq!(
        short.to_string().lines().count(),
        long.to_string().lines().count()
    );
    assert_eq!(short.nodes().len(), long.nodes().len());
    let same = short.values().iter().zip(long.values());
    assert!(same.into_iter().all(|(a, b)| a.name == b.name));
    assert!(!load(&tiny("llama")).unwrap().depends_on_context());
}

#[test]
fn a_table_that_no_layer_reads_is_not_made() {
    let mut config = tiny("gemma3_text");
    let tables = |config: &serde_json::Value| load(config).unwrap().spec.ropes;
    assert_eq!(tables(&config).len(), 2);
    config["layer_types"] = json!(["sliding_attention", "sliding_attention"]);
    assert_eq!(tables(&config)[0].theta, 1e4);
    config["layer_types"] = json!(["full_attention", "full_attention"]);
    assert_eq!(tables(&config)[0].theta, 1e6);
    assert_eq!(tables(&config).len(), 1);
}
