//! GGUF files whose metadata lie: each is a model or an error, found within a megabyte or what the
//! file's own tensors make of it. One test, so that nothing else in the process allocates meanwhile.

#[path = "../../formats/tests/common/counting.rs"]
mod counting;

use std::path::Path;

use counting::peak_of;
use formats::ModelFiles;
use formats::gguf::Value;
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};

const MEGABYTE: usize = 1 << 20;
const LAYERS: usize = 2;

type Keys = Vec<(String, Value<'static>)>;

/// A model of two layers: hidden 8, two heads of 4 on one, 12 wide, 10 tokens.
fn keys(architecture: &'static str) -> Keys {
    let count = |n: u32| Value::U32(n);
    let own = [
        ("block_count", count(LAYERS as u32)),
        ("context_length", count(64)),
        ("embedding_length", count(8)),
        ("feed_forward_length", count(12)),
        ("attention.head_count", count(2)),
        ("attention.head_count_kv", count(1)),
        ("attention.key_length", count(4)),
        ("attention.value_length", count(4)),
        ("attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("rope.dimension_count", count(4)),
        ("rope.freq_base", Value::F32(1e4)),
    ];
    let own = own.map(|(key, value)| (format!("{architecture}.{key}"), value));
    let name = Value::Str(architecture.as_bytes());
    [("general.architecture".to_string(), name)]
        .into_iter()
        .chain(own)
        .collect()
}

/// Names and shapes of its tensors.
fn tensors(architecture: &str) -> Vec<(String, Vec<usize>)> {
    let mut all = vec![
        ("token_embd.weight".to_string(), vec![10, 8]),
        ("output_norm.weight".to_string(), vec![8]),
    ];
    for layer in 0..LAYERS {
        let mut add = |name: &str, shape: &[usize]| {
            all.push((format!("blk.{layer}.{name}"), shape.to_vec()));
        };
        for (name, rows, columns) in [
            ("attn_q", 8, 8),
            ("attn_k", 4, 8),
            ("attn_v", 4, 8),
            ("attn_output", 8, 8),
            ("ffn_gate", 12, 8),
            ("ffn_up", 12, 8),
            ("ffn_down", 8, 12),
        ] {
            add(&format!("{name}.weight"), &[rows, columns]);
        }
        for name in ["attn_norm", "ffn_norm"] {
            add(&format!("{name}.weight"), &[8]);
        }
        if architecture == "qwen2" {
            for (name, size) in [("attn_q", 8), ("attn_k", 4), ("attn_v", 4)] {
                add(&format!("{name}.bias"), &[size]);
            }
        }
        if architecture == "qwen3" {
            for name in ["attn_q_norm", "attn_k_norm"] {
                add(&format!("{name}.weight"), &[4]);
            }
        }
    }
    all
}

/// Writes a file; unlike the writer of models, without waiting for the disk.
fn write(path: &Path, keys: &Keys, tensors: &[(String, Vec<usize>)]) {
    let text = |s: &[u8]| [&(s.len() as u64).to_le_bytes(), s].concat();
    let mut out = [b"GGUF", &3u32.to_le_bytes()[..]].concat();
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in keys {
        let (kind, bytes) = match value {
            Value::U32(v) => (4u32, v.to_le_bytes().to_vec()),
            Value::I32(v) => (5, v.to_le_bytes().to_vec()),
            Value::F32(v) => (6, v.to_le_bytes().to_vec()),
            Value::Bool(v) => (7, vec![u8::from(*v)]),
            Value::Str(v) => (8, text(v)),
            Value::U64(v) => (10, v.to_le_bytes().to_vec()),
            Value::F64(v) => (12, v.to_le_bytes().to_vec()),
            other => panic!("no test has {other}"),
        };
        out.extend([&text(key.as_bytes())[..], &kind.to_le_bytes(), &bytes].concat());
    }
    let mut data = 0usize;
    for (name, shape) in tensors {
        out.extend(text(name.as_bytes()));
        out.extend((shape.len() as u32).to_le_bytes());
        out.extend(shape.iter().rev().flat_map(|d| (*d as u64).to_le_bytes()));
        out.extend([0; 4]);
        out.extend((data as u64).to_le_bytes());
        data += (4 * shape.iter().product::<usize>()).next_multiple_of(32);
    }
    out.resize(out.len().next_multiple_of(32) + data, 0);
    replace(path, &out);
}

/// A new file each time: some file systems wait for the disk where one is overwritten.
fn replace(path: &Path, bytes: &[u8]) {
    drop(std::fs::remove_file(path));
    std::fs::write(path, bytes).unwrap();
}

/// Reads a model; an error must be short.
fn read(path: &Path) -> Result<models::Model, String> {
    let mut files = ModelFiles::open(path).map_err(|e| e.to_string())?;
    models::read(&mut files).map_err(|e| e.to_string())
}

/// Whether a file is a model, found within `most` bytes.
fn survives(path: &Path, most: usize) -> Result<bool, String> {
    let mut model = None;
    let peak = peak_of(|| model = Some(read(path)));
    match model {
        _ if peak > most => Err(format!("{peak} bytes")),
        Some(Ok(model)) if model.layers > LAYERS => Err(format!("{} layers", model.layers)),
        Some(Ok(model)) => {
            let weights = model.graph.weights();
            let stored: usize = weights.filter_map(|(_, v)| v.shape.fixed_len()).sum();
            (stored as u64 == model.parameters)
                .then_some(true)
                .ok_or_else(|| format!("{stored} of {} parameters", model.parameters))
        }
        Some(Err(error)) if error.lines().count() > 3 || error.len() > 1000 => Err(error),
        _ => Ok(false),
    }
}

/// Keys that some architectures read.
const MORE_KEYS: &[&str] = &[
    "attention.causal",
    "attention.key_length_mla",
    "attention.kv_lora_rank",
    "attention.q_lora_rank",
    "attention.scale",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attention.value_length_mla",
    "expert_count",
    "expert_feed_forward_length",
    "expert_gating_func",
    "expert_group_count",
    "expert_group_used_count",
    "expert_shared_count",
    "expert_shared_feed_forward_length",
    "expert_used_count",
    "expert_weights_scale",
    "full_attention_interval",
    "leading_dense_block_count",
    "logit_scale",
    "nextn_predict_layers",
    "rope.dimension_sections",
    "rope.scale_linear",
    "rope.scaling.attn_factor",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "rope.scaling.yarn_beta_fast",
    "shortconv.l_cache",
    "ssm.conv_kernel",
    "ssm.group_count",
    "ssm.inner_size",
    "ssm.state_size",
    "ssm.time_step_rank",
    "vocab_size",
];

fn value() -> impl Strategy<Value = Value<'static>> {
    let words: [&[u8]; 5] = [b"linear", b"yarn", b"none", b"x", b"\xff"];
    prop_oneof![
        6 => (0u32..70).prop_map(Value::U32),
        2 => any::<u32>().prop_map(Value::U32),
        1 => any::<i32>().prop_map(Value::I32),
        1 => any::<u64>().prop_map(Value::U64),
        1 => any::<f32>().prop_map(Value::F32),
        1 => any::<f64>().prop_map(Value::F64),
        1 => any::<bool>().prop_map(Value::Bool),
        1 => prop::sample::select(words.to_vec()).prop_map(Value::Str),
    ]
}

/// A file whose `key`, four bytes long, is a whole number that it should not be, is survived.
fn lied(path: &Path, good: &[u8], key: &str, lie: u32) {
    let mut bytes = good.to_vec();
    let name = [&(key.len() as u64).to_le_bytes(), key.as_bytes()].concat();
    let at = bytes.windows(name.len()).position(|w| w == name).unwrap();
    let value = [4u32.to_le_bytes(), lie.to_le_bytes()].concat();
    bytes[at + name.len()..][..8].copy_from_slice(&value);
    replace(path, &bytes);
    let answer = survives(path, MEGABYTE);
    assert!(answer.is_ok(), "{key} = {lie}: {answer:?}");
}

#[test]
fn metadata_are_not_taken_at_their_word() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../formats/tests/seeds");
    let mut found = 0;
    for entry in std::fs::read_dir(seeds).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "gguf") {
            found += 1;
            assert_eq!(survives(&path, MEGABYTE), Ok(false), "{}", path.display());
        }
    }
    assert!(found > 25);

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    for architecture in ["llama", "qwen2", "qwen3"] {
        let (keys, tensors) = (keys(architecture), tensors(architecture));
        write(&path, &keys, &tensors);
        assert_eq!(survives(&path, MEGABYTE), Ok(true), "{architecture}");
        let good = std::fs::read(&path).unwrap();
        // Every number beyond all reason, one at a time.
        for at in 1..keys.len() {
            for lie in [0, 3, 17, 4096, 65535, 1 << 20, 1 << 24, u32::MAX] {
                lied(&path, &good, &keys[at].0, lie);
            }
            let mut fewer = keys.clone();
            let (key, _) = fewer.remove(at);
            write(&path, &fewer, &tensors);
            let answer = survives(&path, MEGABYTE);
            assert!(answer.is_ok(), "without {key}: {answer:?}");
        }
        for at in 0..tensors.len() {
            let mut fewer = tensors.clone();
            let (name, _) = fewer.remove(at);
            write(&path, &keys, &fewer);
            assert_eq!(survives(&path, MEGABYTE), Ok(false), "without {name}");
            let mut other = tensors.clone();
            other[at].1[0] += 1;
            write(&path, &keys, &other);
            let answer = survives(&path, MEGABYTE);
            // More rows of the embedding are more tokens.
            assert_eq!(answer, Ok(name == "token_embd.weight"), "{name}");
        }
    }
    // The keys of all architectures, believable in themselves and one of them not.
    for architecture in models::gguf_architectures() {
        let mut keys = keys(architecture.name);
        let tensors = tensors(architecture.name);
        let more = MORE_KEYS.iter().map(|key| {
            let key = format!("{}.{key}", architecture.name);
            (key, Value::U32(2))
        });
        keys.extend(more);
        write(&path, &keys, &tensors);
        let good = std::fs::read(&path).unwrap();
        for (key, _) in &keys[1..] {
            for lie in [0, 1, 1 << 16, 1 << 24, u32::MAX] {
                lied(&path, &good, key, lie);
            }
        }
    }
    changes_at_random(&path);
}

fn changes_at_random(path: &Path) {
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(3),
        ..ProptestConfig::default()
    });
    let accepted = std::cell::Cell::new(0);
    let change = (any::<prop::sample::Index>(), value());
    let architecture = prop::sample::select(vec!["llama", "qwen2", "qwen3", "phi3", "qwen3moe"]);
    let changes = prop::collection::vec(change, 1..4);
    let answer = runner.run(&(architecture, changes), |(architecture, changes)| {
        let (mut keys, tensors) = (keys(architecture), tensors(architecture));
        for (at, value) in changes {
            let known = keys.len();
            match at.index(known + MORE_KEYS.len()) {
                n if n < known => keys[n].1 = value,
                n => {
                    let key = format!("{architecture}.{}", MORE_KEYS[n - known]);
                    keys.retain(|(k, _)| *k != key);
                    keys.push((key, value));
                }
            }
        }
        write(path, &keys, &tensors);
        let model = survives(path, MEGABYTE).map_err(TestCaseError::fail)?;
        accepted.set(accepted.get() + usize::from(model));
        Ok(())
    });
    answer.unwrap();
    // Changes that all fail, or none of which does, would test little.
    let accepted = accepted.get();
    assert!((100..900).contains(&accepted), "{accepted}");
}
