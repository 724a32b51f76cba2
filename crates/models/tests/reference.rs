//! Configurations against what transformers makes of them (golden/generate.py).

mod common;

use graph::{CacheKind, Dim, Op, ValueKind};
use models::Model;
use serde_json::Value;
use std::collections::BTreeMap;

fn cases() -> Vec<Value> {
    let text = include_str!("golden/reference.json");
    serde_json::from_str(text).unwrap()
}

fn shapes(model: &Model) -> BTreeMap<String, Vec<usize>> {
    let dims = |d: &Dim| match d {
        Dim::Fixed(n) => *n,
        other => panic!("{other} in a weight"),
    };
    model
        .graph
        .weights()
        .map(|(_, v)| match &v.kind {
            ValueKind::Weight { tensor, .. } => {
                (tensor.clone(), v.shape.dims().iter().map(dims).collect())
            }
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn parameters_windows_and_scales_are_those_of_the_reference() {
    let cases = cases();
    assert!(cases.len() >= 40);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let model = common::load(&case["config"]).unwrap_or_else(|e| panic!("{name}: {e}"));

        let wanted: BTreeMap<String, Vec<usize>> =
            serde_json::from_value(case["parameters"].clone()).unwrap();
        assert_eq!(shapes(&model), wanted, "{name}");
        let total: usize = wanted.values().map(|s| s.iter().product::<usize>()).sum();
        assert_eq!(model.parameters, total as u64, "{name}");

        let windows: Vec<Option<usize>> = serde_json::from_value(case["windows"].clone()).unwrap();
        let caches = model.graph.caches().map(|(_, spec)| match spec.kind {
            CacheKind::Full | CacheKind::Recurrent => None,
            CacheKind::Window { window } => Some(window),
        });
        assert_eq!(caches.collect::<Vec<_>>(), windows, "{name}");
        let scale = case["scaling"].as_f64().unwrap() as f32;
        let eps = case["rms_norm_eps"].as_f64().unwrap() as f32;
        let mut attentions = Vec::new();
        for node in model.graph.nodes() {
            match &node.op {
                Op::Attention(a) => {
                    assert_eq!(a.scale, scale, "{name}");
                    attentions.push(a.window);
                }
                Op::RmsNorm { eps: e, .. } => assert_eq!(*e, eps, "{name}"),
                _ => {}
            }
        }
        assert_eq!(attentions, windows, "{name}");
        let context = case["context_length"].as_u64().unwrap() as usize;
        assert_eq!(model.context_length, context, "{name}");
    }
}

#[test]
fn rotary_frequencies_are_those_of_the_reference() {
    for case in cases() {
        let name = case["name"].as_str().unwrap();
        let model = common::load(&case["config"]).unwrap();
        let wanted: Vec<f32> = serde_json::from_value(case["inv_freq"].clone()).unwrap();
        let constants = model.graph.values().iter().filter_map(|v| match &v.kind {
            ValueKind::Constant(data) => Some(data),
            _ => None,
        });
        let constants: Vec<_> = constants.collect();
        assert_eq!(constants.len(), 1, "{name}");
        assert_eq!(constants[0].len(), wanted.len(), "{name}");
        for (i, (got, want)) in constants[0].iter().zip(&wanted).enumerate() {
            // A few units in the last place: the reference's vectorised pow has 1 of its own.
            let error = (got - want).abs() / want.abs();
            assert!(error <= 4.0 * f32::EPSILON, "{name}[{i}]: {got} for {want}");
        }
        let factor = case["attention_factor"].as_f64().unwrap() as f32;
        let tables = model.graph.nodes().iter().filter_map(|n| match n.op {
            Op::RopeTable { attention_factor } => Some(attention_factor),
            _ => None,
        });
        assert_eq!(tables.collect::<Vec<_>>(), [factor], "{name}");
    }
}
