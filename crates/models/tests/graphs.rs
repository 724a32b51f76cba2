//! The graph of a tiny model of each family, as text.
//!
//! Set UPDATE_SNAPSHOTS=1 to write the files in snapshots/ anew, then read the difference.

mod common;

use common::{FAMILIES, load, merge, tiny};
use graph::{Op, OpKind, ValueKind};
use models::{LayerSpec, Rope, RopeScaling};
use serde_json::json;

#[test]
fn each_family_wires_what_its_snapshot_says() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots");
    for family in FAMILIES {
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
    spec.layers[1] = LayerSpec {
        window: Some(7),
        rope: 1,
    };
    let graph = spec.graph("two").unwrap();
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
