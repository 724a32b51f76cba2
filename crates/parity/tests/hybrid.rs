//! A hybrid mixture of experts whose sizes are whole blocks of 256, in k-quants: ring
//! 3 of the fast tree. The models of `fixtures/models` are narrower and hold the
//! schemes of 32 only; this one is drawn here, from `fixtures/configs/hybrid-256`.

mod fixture_gguf;
mod models;

use fixture_gguf::convert;
use formats::{StoredType, write_safetensors};
use graph::{Dim, ValueKind};
use kernels as _;
use models::fixtures;
use parity::model_gate::{
    Bounds, compare, f32_acts, forgets, load_candidate, load_oracle, matrix, pseudo_random_ids,
};
use parity::stats::Tally;
use registry::Registry;
use runtime::{LoadOptions, Opened};
use std::path::Path;

/// Normal numbers from a seed (sums of uniform ones).
struct Normals(u64);

impl Normals {
    fn uniform(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }

    fn next(&mut self) -> f32 {
        (0..12).map(|_| self.uniform()).sum::<f32>() - 6.0
    }
}

/// Writes a model folder: the configuration, and weights under the names that its
/// graph gives them.
fn draw(folder: &Path) {
    let config = fixtures().join("configs/hybrid-256/config.json");
    let text = std::fs::read_to_string(&config).expect("the configuration");
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let view = formats::ConfigView::new(&value, &config).expect("an object");
    let model = ::models::load(&view).expect("a model");
    let mut normals = Normals(0x9e37_79b9_7f4a_7c15);
    let mut made = Vec::new();
    for (_, v) in model.graph.weights() {
        let ValueKind::Weight { tensor, .. } = &v.kind else {
            continue;
        };
        let fixed = |d: &Dim| match d {
            Dim::Fixed(n) => *n,
            _ => unreachable!("weights have fixed dimensions"),
        };
        let shape: Vec<usize> = v.shape.dims().iter().map(fixed).collect();
        let fan_in = (*shape.last().expect("a dimension") as f32).sqrt().recip();
        let count: usize = shape.iter().product();
        let mut one = || {
            let x = normals.next();
            match tensor {
                t if t.ends_with("A_log") => 0.5 * x - 1.0,
                t if t.ends_with("dt_bias") => 0.5 * x - 2.0,
                t if t.ends_with("linear_attn.norm.weight") => 1.0 + 0.2 * x,
                t if t.contains("norm") => 0.2 * x,
                t if t.contains("conv1d") => 0.5 * x,
                t if t.contains("embed_tokens") => x,
                t if t.contains("q_norm") || t.contains("k_norm") => 0.5 + 0.2 * x,
                // Layers that add less than what they read: rounded activations differ
                // in an element here and there, and a deep sum of such differences
                // must not choose other experts.
                t if t.contains("out_proj") || t.contains("o_proj") || t.contains("down_proj") => {
                    0.4 * fan_in * x
                }
                _ => fan_in * x,
            }
        };
        let bytes: Vec<u8> = (0..count).flat_map(|_| one().to_le_bytes()).collect();
        made.push((tensor.clone(), shape, bytes));
    }
    let tensors: Vec<_> = made
        .iter()
        .map(|(name, shape, bytes)| (name.as_str(), StoredType::F32, &shape[..], &bytes[..]))
        .collect();
    write_safetensors(&folder.join("model.safetensors"), &tensors).expect("written");
    std::fs::copy(&config, folder.join("config.json")).expect("copied");
}

#[test]
fn k_quants_of_a_hybrid_mixture_keep_to_the_oracle() {
    let registry = Registry::collect().expect("registered kernels");
    let folder = tempfile::tempdir().expect("a temporary folder");
    draw(folder.path());
    for stored in [StoredType::Q4_K, StoredType::Q6_K] {
        let path = folder.path().join(format!("{stored}.gguf"));
        convert(folder.path(), &path, Some(stored));
        let opened = Opened::open(&path).expect("a GGUF model");
        let held = |t: &str| opened.files.tensors.get(t).map(|t| t.info.stored);
        let experts = opened.graph.weights().filter_map(|(_, v)| match &v.kind {
            ValueKind::Weight {
                tensor,
                matrix: true,
            } if tensor.contains("exps") => held(tensor),
            _ => None,
        });
        let experts: Vec<_> = experts.collect();
        assert!(
            !experts.is_empty() && experts.iter().all(|s| *s == stored),
            "{experts:?}"
        );
        let ids = pseudo_random_ids(opened.model.vocab_size, 260, 5);
        let scripts = matrix(&ids, forgets(&opened.graph));
        // The default formats, unfused as well; then f32 activations, whose bounds show
        // what rounding would hide.
        let plain = Some(f32_acts(&opened));
        for (fusion, acts) in [(true, None), (false, None), (true, plain)] {
            let mut options = LoadOptions::new("cpu_simd");
            options.fusion = fusion;
            options.acts = acts;
            options.open.threads = Some(2);
            let mut candidate =
                load_candidate(&opened, &registry, &options, scripts.iter()).expect("a plan");
            let program = candidate.program().clone();
            let mut oracle =
                load_oracle(&opened, &registry, &program, program.acts()).expect("the oracle");
            let mut tally = Tally::default();
            for script in &scripts {
                tally.extend(&compare(&mut oracle, &mut candidate, script).expect("a comparison"));
            }
            let found = tally.summary().expect("rows");
            println!("{stored} fusion {fusion}: {found}");
            let bounds = Bounds::of(&program.acts());
            assert!(bounds.hold(&found), "{stored} fusion {fusion}: {found}");
        }
    }
}
