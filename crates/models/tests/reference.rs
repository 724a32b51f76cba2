//! Configurations against what transformers makes of them (golden/generate.py).

mod common;

use formats::{ModelFiles, StoredType, TensorToWrite, write_safetensors};
use graph::{CacheEntry, CacheKind, Op, ValueKind};
use models::Model;
use serde_json::Value;
use std::collections::BTreeMap;

fn cases() -> Vec<Value> {
    let text = include_str!("golden/reference.json");
    serde_json::from_str(text).unwrap()
}

fn load(case: &Value) -> Model {
    let name = case["name"].as_str().unwrap();
    common::load(&case["config"]).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// A model folder with the tensors that transformers writes, all zero.
fn folder(case: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = serde_json::to_vec(&case["config"]).unwrap();
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let files: BTreeMap<String, Vec<usize>> =
        serde_json::from_value(case["files"].clone()).unwrap();
    let most = files.values().map(|s| s.iter().product::<usize>()).max();
    let zeros = vec![0u8; 4 * most.unwrap()];
    let tensors: Vec<TensorToWrite<'_>> = files
        .iter()
        .map(|(name, shape)| {
            let bytes = 4 * shape.iter().product::<usize>();
            (
                name.as_str(),
                StoredType::F32,
                shape.as_slice(),
                &zeros[..bytes],
            )
        })
        .collect();
    write_safetensors(&folder.path().join("model.safetensors"), &tensors).unwrap();
    folder
}

#[test]
fn files_of_the_reference_hold_all_that_a_graph_needs() {
    let cases = cases();
    assert!(cases.len() >= 75);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let folder = folder(&case);
        let mut files = ModelFiles::open(folder.path()).unwrap();
        let model = models::read(&mut files).unwrap_or_else(|e| panic!("{name}: {e}"));
        let report = model.check_tensors(&files.tensors).unwrap();
        assert_eq!(report.unused, Vec::<String>::new(), "{name}");
        let stored = files.tensors.stored().map(|t| t.info.elements());
        assert_eq!(model.parameters, stored.sum::<usize>() as u64, "{name}");
    }
}

#[test]
fn windows_and_scales_are_those_of_the_reference() {
    for case in cases() {
        let name = case["name"].as_str().unwrap();
        let model = load(&case);
        let windows: Vec<Option<usize>> = serde_json::from_value(case["windows"].clone()).unwrap();
        let caches = model
            .graph
            .caches()
            .filter(|(_, spec)| !matches!(spec.entry, CacheEntry::State { .. }));
        let kept = caches.map(|(_, spec)| match spec.kind {
            CacheKind::Full | CacheKind::Recurrent => None,
            CacheKind::Window { window } => Some(window),
        });
        assert_eq!(kept.collect::<Vec<_>>(), windows, "{name}");
        let scales: Vec<f64> = serde_json::from_value(case["scaling"].clone()).unwrap();
        let eps = case["rms_norm_eps"].as_f64().unwrap() as f32;
        let (mut attentions, mut found) = (Vec::new(), Vec::new());
        for node in model.graph.nodes() {
            match &node.op {
                Op::Attention(a) => {
                    found.push(a.scale);
                    attentions.push(a.window);
                }
                Op::LatentAttention { scale } => {
                    found.push(*scale);
                    attentions.push(None);
                }
                // Norms on latent vectors have an epsilon of their own.
                Op::RmsNorm { .. } if node.name.ends_with("_a_norm") => {}
                Op::RmsNorm { eps: e, .. } => assert_eq!(*e, eps, "{name}"),
                _ => {}
            }
        }
        assert_eq!(attentions, windows, "{name}");
        assert_eq!(found.len(), scales.len(), "{name}");
        for (got, want) in found.iter().zip(&scales) {
            let want = *want as f32;
            let error = (got - want).abs() / want;
            assert!(error <= 2.0 * f32::EPSILON, "{name}: {got} for {want}");
        }
        let context = case["context_length"].as_u64().unwrap() as usize;
        assert_eq!(model.context_length, context, "{name}");
    }
}

#[track_caller]
fn assert_close(got: &[f32], wanted: &Value, what: &str) {
    let wanted: Vec<f32> = serde_json::from_value(wanted.clone()).unwrap();
    assert_eq!(got.len(), wanted.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(&wanted).enumerate() {
        // A few units in the last place: the reference's vectorised pow has 1 of its own.
        let error = (got - want).abs() / want.abs();
        assert!(error <= 4.0 * f32::EPSILON, "{what}[{i}]: {got} for {want}");
    }
}

#[test]
fn rotary_frequencies_are_those_of_the_reference() {
    let mut long = 0;
    for case in cases() {
        let name = case["name"].as_str().unwrap();
        let model = load(&case);
        let wanted = case["ropes"].as_array().unwrap();
        assert_eq!(model.spec.ropes.len(), wanted.len(), "{name}");
        for (rope, wanted) in model.spec.ropes.iter().zip(wanted) {
            assert_close(rope.frequencies(1), &wanted["inv_freq"], name);
            if let Some(limit) = wanted["limit"].as_u64() {
                assert_close(rope.frequencies(limit as usize), &wanted["inv_freq"], name);
                let beyond = rope.frequencies(limit as usize + 1);
                assert_close(beyond, &wanted["long"], name);
                long += 1;
            } else {
                assert_eq!(rope.long, None, "{name}");
            }
        }
        // The graph has them all, in this order.
        let graph = model.graph_for(1).unwrap();
        let constants = graph.values().iter().filter_map(|v| match &v.kind {
            ValueKind::Constant(data) => Some(data.to_vec()),
            _ => None,
        });
        let ropes = model.spec.ropes.iter().map(|r| r.inv_freq.clone());
        assert!(constants.eq(ropes), "{name}");
        let tables = graph.nodes().iter().filter_map(|n| match n.op {
            Op::RopeTable { attention_factor } => Some(attention_factor),
            _ => None,
        });
        let factors = wanted
            .iter()
            .map(|r| r["attention_factor"].as_f64().unwrap() as f32);
        assert!(tables.eq(factors), "{name}");
    }
    assert!(long >= 3);
}

/// Configurations at their full size: none of them is refused, and the graph needs as many weights
/// as the reference's model has.
#[test]
fn published_models_have_as_many_parameters_as_the_reference() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("golden/published.json")).unwrap();
    assert!(cases.len() >= 15);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let model = load(&case);
        assert_eq!(
            Some(model.parameters),
            case["parameters"].as_u64(),
            "{name}"
        );
        let wired = model.graph.weights().map(|(_, v)| v.shape.fixed_len());
        let wired: Option<usize> = wired.sum();
        assert_eq!(wired.map(|n| n as u64), Some(model.parameters), "{name}");
    }
}
