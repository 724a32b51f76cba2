//! Fixture models of the family qwen2 as GGUF files. (Those of every family are made for the gates.)

use formats::gguf::{GgufKeys, Value, write_gguf};
use serde_json::Value as Json;
use std::path::{Path, PathBuf};

const NAMES: &[(&str, &str)] = &[
    ("model.embed_tokens.", "token_embd."),
    ("model.norm.", "output_norm."),
    ("lm_head.", "output."),
    ("model.layers.", "blk."),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.", "attn_"),
    ("_proj.", "."),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.", "ffn_"),
];

/// The metadata of a model folder, without a tokenizer.
pub fn keys(folder: &Path) -> GgufKeys {
    let config = std::fs::read(folder.join("config.json")).expect("the fixture is there");
    let config: Json = serde_json::from_slice(&config).expect("JSON");
    let number = |field: &str| config[field].as_u64().expect("a number") as u32;
    let theta = config["rope_parameters"]["rope_theta"].as_f64();
    let theta = theta.or(config["rope_theta"].as_f64()).expect("a number");
    let eps = config["rms_norm_eps"].as_f64().expect("a number");
    let mut keys = GgufKeys::new();
    keys.put_str("general.architecture", "qwen2");
    for (key, field) in [
        ("block_count", "num_hidden_layers"),
        ("context_length", "max_position_embeddings"),
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
        ("attention.head_count_kv", "num_key_value_heads"),
    ] {
        keys.put(&format!("qwen2.{key}"), Value::U32(number(field)));
    }
    keys.put("qwen2.rope.freq_base", Value::F32(theta as f32))
        .put(
            "qwen2.attention.layer_norm_rms_epsilon",
            Value::F32(eps as f32),
        );
    keys
}

/// Writes the tensors of a model folder as they are, the whole model as one file.
pub fn write(folder: &Path, keys: &GgufKeys, path: &Path) {
    write_some(folder, keys, path, |_| true);
}

/// Writes a model folder in `count` parts, the first with the metadata; returns their paths.
pub fn write_parts(folder: &Path, into: &Path, count: u16) -> Vec<PathBuf> {
    let tensors = formats::open_dir(folder).expect("a fixture").len();
    let part = |number: u16| {
        let mut keys = match number {
            0 => keys(folder),
            _ => GgufKeys::new(),
        };
        keys.put("split.no", Value::U16(number))
            .put("split.count", Value::U16(count))
            .put("split.tensors.count", Value::I32(tensors as i32));
        let path = into.join(format!("m-{:05}-of-{count:05}.gguf", number + 1));
        let own = |index| index % usize::from(count) == usize::from(number);
        write_some(folder, &keys, &path, own);
        path
    };
    (0..count).map(part).collect()
}

fn write_some(folder: &Path, keys: &GgufKeys, path: &Path, take: impl Fn(usize) -> bool) {
    let store = formats::open_dir(folder).expect("a fixture");
    let taken = store.iter().enumerate().filter(|(index, _)| take(*index));
    let tensors: Vec<_> = taken
        .map(|(_, tensor)| {
            let replace = |name: String, (from, to): &(&str, &str)| name.replace(from, to);
            let name = NAMES.iter().fold(tensor.info.name.clone(), replace);
            (name, tensor.info, tensor.bytes())
        })
        .collect();
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, info, bytes)| (name.as_str(), info.stored, &info.shape[..], &bytes[..]))
        .collect();
    write_gguf(path, keys, &tensors).expect("writable");
}
