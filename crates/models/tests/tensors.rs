//! `check_tensors` on files that do not fit their configuration.

mod common;

use formats::{StoredType, TensorStore, TensorToWrite, write_safetensors};
use models::{Model, TensorReport};
use serde_json::json;

struct Tensor {
    name: String,
    shape: Vec<usize>,
    stored: &'static str,
    fill: u8,
}

/// A file with every weight of `model`, as `alter` leaves the list.
fn store(model: &Model, alter: impl FnOnce(&mut Vec<Tensor>)) -> TensorStore {
    let tensor = |v: &graph::Value| Tensor {
        name: v.name.clone(),
        shape: v
            .shape
            .dims()
            .iter()
            .map(|d| match d {
                graph::Dim::Fixed(n) => *n,
                other => panic!("{other}"),
            })
            .collect(),
        stored: "F16",
        fill: 0,
    };
    let mut list: Vec<Tensor> = model.graph.weights().map(|(_, v)| tensor(v)).collect();
    alter(&mut list);
    let typed: Vec<(StoredType, Vec<u8>)> = list
        .iter()
        .map(|t| {
            let stored = StoredType::from_safetensors_name(t.stored).unwrap();
            (
                stored,
                vec![t.fill; stored.bytes_for(&t.shape).unwrap() as usize],
            )
        })
        .collect();
    let tensors: Vec<TensorToWrite<'_>> = list
        .iter()
        .zip(&typed)
        .map(|(t, (stored, bytes))| {
            (
                t.name.as_str(),
                *stored,
                t.shape.as_slice(),
                bytes.as_slice(),
            )
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write_safetensors(&path, &tensors).unwrap();
    formats::open_dir(folder.path()).unwrap()
}

fn check(family: &str, alter: impl FnOnce(&mut Vec<Tensor>)) -> Result<TensorReport, String> {
    let model = common::load(&common::tiny(family)).unwrap();
    let store = store(&model, alter);
    model.check_tensors(&store).map_err(|e| e.to_string())
}

fn error(family: &str, alter: impl FnOnce(&mut Vec<Tensor>)) -> String {
    let error = check(family, alter).unwrap_err();
    assert!(error.lines().count() <= 3, "{error}");
    error
}

fn find<'a>(list: &'a mut [Tensor], name: &str) -> &'a mut Tensor {
    list.iter_mut().find(|t| t.name == name).unwrap()
}

fn assert_has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
}

#[test]
fn a_fitting_file_passes_and_extra_tensors_are_reported() {
    for family in common::FAMILIES {
        assert_eq!(
            check(family, |_| {}),
            Ok(TensorReport::default()),
            "{family}"
        );
    }
    let report = check("qwen3", |list| {
        list.push(Tensor {
            name: "model.layers.0.self_attn.rotary_emb.inv_freq".into(),
            shape: vec![3],
            stored: "F32",
            fill: 0,
        });
    });
    assert_eq!(
        report.unwrap().unused,
        ["model.layers.0.self_attn.rotary_emb.inv_freq"]
    );
}

#[test]
fn missing_tensors_are_named_and_counted() {
    let text = error("qwen3", |list| {
        list.retain(|t| !t.name.ends_with("q_norm.weight"))
    });
    assert_has(
        &text,
        &[
            "`model.layers.0.self_attn.q_norm.weight` [6]",
            "1 more",
            "Qwen3ForCausalLM",
        ],
    );
    let text = error("mistral", |list| {
        list.retain(|t| t.name != "lm_head.weight")
    });
    assert_has(&text, &["`lm_head.weight` [40, 16]", "tie_word_embeddings"]);
    let text = error("llama", |list| {
        for t in list {
            t.name = t.name.replace("model.", "");
        }
    });
    assert_has(
        &text,
        &["`model.embed_tokens.weight`", "lacks the `model.` prefix"],
    );
}

#[test]
fn wrong_shapes_show_both() {
    let text = error("llama", |list| {
        find(list, "model.layers.1.mlp.down_proj.weight").shape = vec![16, 23];
    });
    assert_has(
        &text,
        &[
            "`model.layers.1.mlp.down_proj.weight`",
            "[16, 23]",
            "[16, 24]",
        ],
    );
    let text = error("llama", |list| {
        find(list, "model.layers.1.self_attn.o_proj.bias").shape = vec![1, 16];
    });
    assert_has(&text, &["o_proj.bias", "[1, 16]", "[16]"]);
}

#[test]
fn a_vocabulary_of_another_size_is_said_to_be_that() {
    let text = error("qwen2", |list| {
        find(list, "model.embed_tokens.weight").shape = vec![41, 16];
    });
    assert_has(
        &text,
        &[
            "`model.embed_tokens.weight`",
            "41 tokens",
            "`vocab_size` is 40",
        ],
    );
    let text = error("qwen3", |list| {
        find(list, "lm_head.weight").shape = vec![39, 16]
    });
    assert_has(
        &text,
        &["`lm_head.weight`", "39 tokens", "`vocab_size` is 40"],
    );
}

#[test]
fn integers_are_no_weights() {
    for stored in ["I8", "U8", "I64", "BOOL"] {
        let text = error("mistral", |list| {
            find(list, "model.layers.0.self_attn.k_proj.weight").stored = stored;
        });
        assert_has(
            &text,
            &["k_proj.weight", &stored.to_lowercase(), "unquantised"],
        );
    }
}

#[test]
fn a_tied_head_may_be_repeated_but_not_differ() {
    let repeat = |fill: u8, stored: &'static str| {
        move |list: &mut Vec<Tensor>| {
            list.push(Tensor {
                name: "lm_head.weight".into(),
                shape: vec![40, 16],
                stored,
                fill,
            });
        }
    };
    let report = check("qwen2", repeat(0, "F16")).unwrap();
    assert_eq!(report.unused, ["lm_head.weight"]);
    for (fill, stored) in [(1, "F16"), (0, "F32")] {
        let text = error("qwen2", repeat(fill, stored));
        assert_has(&text, &["tie_word_embeddings", "lm_head.weight", "differ"]);
    }
    assert!(common::tiny("qwen2")["tie_word_embeddings"] == json!(true));
}

/// A store with tensors of these names and shapes.
fn holding(tensors: &[(&str, &[usize])]) -> TensorStore {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, shape)| vec![0; 4 * shape.iter().product::<usize>()])
        .collect();
    let list: Vec<TensorToWrite<'_>> = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape), bytes)| (*name, StoredType::F32, *shape, bytes.as_slice()))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    write_safetensors(&folder.path().join("model.safetensors"), &list).unwrap();
    formats::open_dir(folder.path()).unwrap()
}

fn shape_of(store: &TensorStore, name: &str) -> Vec<usize> {
    let found = store.get(name).unwrap_or_else(|| panic!("no {name}"));
    found.info.shape.clone()
}

#[test]
fn experts_are_found_in_each_form() {
    let model = common::load(&common::tiny("qwen3_moe")).unwrap();
    let layer = "model.layers.1.mlp.experts";
    let stacked = holding(&[
        ("model.layers.1.mlp.experts.gate_up_proj", &[6, 20, 16]),
        ("model.layers.1.mlp.experts.down_proj", &[6, 16, 10]),
    ]);
    let names: Vec<String> = (0..6)
        .flat_map(|e| ["gate", "up", "down"].map(|p| format!("{layer}.{e}.{p}_proj.weight")))
        .collect();
    let apart: Vec<(&str, &[usize])> = names
        .iter()
        .map(|name| match name.contains("down") {
            true => (name.as_str(), [16, 10].as_slice()),
            false => (name.as_str(), [10, 16].as_slice()),
        })
        .collect();
    for mut store in [stacked, holding(&apart)] {
        // Other tensors of the model are missing, which is for `check_tensors` to say.
        model.define_tensors(&mut store).unwrap();
        for (part, shape) in [("gate", [60, 16]), ("up", [60, 16]), ("down", [96, 10])] {
            let name = format!("{layer}.{part}_proj.weight");
            assert_eq!(shape_of(&store, &name), shape, "{name}");
        }
    }
    let text = model
        .define_tensors(&mut holding(&apart[..17]))
        .unwrap_err()
        .to_string();
    assert_has(
        &text,
        &["experts.5.down_proj.weight", "is not in the files"],
    );
}

#[test]
fn parts_of_another_size_are_named() {
    let model = common::load(&common::tiny("phi3")).unwrap();
    // Too many rows are as wrong as too few.
    for rows in [47, 96] {
        let fused = "model.layers.0.self_attn.qkv_proj.weight";
        let mut store = holding(&[(fused, &[rows, 32])]);
        let text = model.define_tensors(&mut store).unwrap_err().to_string();
        assert_has(
            &text,
            &[
                "self_attn.q_proj.weight",
                &format!("[{rows}, 32]"),
                "[64, 32]",
                "configuration and weights are of different models",
            ],
        );
    }
}
