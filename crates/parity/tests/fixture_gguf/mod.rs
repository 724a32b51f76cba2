//! Fixture models as GGUF files, laid out as llama.cpp's converter lays them out.

use ::models::{Rope, RopeScaling};
use formats::gguf::{GgufKeys, Value, write_gguf};
use formats::{StoredType, TensorRef};
use runtime::Opened;
use std::path::Path;

/// Writes the model folder `dir` to `path`, matrices of whole blocks as `matrices` where that is
/// given and as they are where not; vectors become f32.
pub fn convert(dir: &Path, path: &Path, matrices: Option<StoredType>) {
    convert_with(dir, path, matrices, |_| {}, |_| true);
}

/// [`convert`] with more keys, and only the tensors that `keep` names.
pub fn convert_with(
    dir: &Path,
    path: &Path,
    matrices: Option<StoredType>,
    more: impl Fn(&mut GgufKeys),
    keep: impl Fn(&str) -> bool,
) {
    let opened = Opened::open(dir).expect("a fixture");
    let (spec, family) = (&opened.model.spec, opened.model.family);
    let architecture = match family {
        "mistral" => "llama",
        other => other,
    };
    let mut keys = keys(&opened, architecture);
    more(&mut keys);

    let mut tensors: Vec<(String, StoredType, Vec<usize>, Vec<u8>)> = Vec::new();
    let rope = &spec.ropes[0];
    if matches!(rope.scaling, RopeScaling::Llama3 { .. }) {
        let plain = Rope::new(rope.theta, rope.rotary_dim, RopeScaling::Default).expect("finite");
        let divisors = plain.inv_freq.iter().zip(&rope.inv_freq);
        let bytes = divisors.flat_map(|(p, f)| (p / f).to_le_bytes()).collect();
        let shape = vec![rope.rotary_dim / 2];
        tensors.push(("rope_freqs.weight".into(), StoredType::F32, shape, bytes));
    }
    let unused = opened.model.check_tensors(&opened.files.tensors);
    let unused = unused.expect("checked before").unused;
    for tensor in opened.files.tensors.iter() {
        if unused.contains(&tensor.info.name) {
            continue;
        }
        let name = name(&tensor.info.name);
        if name == "output.weight" && spec.tied_embeddings {
            continue;
        }
        let projection = name.contains(".attn_q.") || name.contains(".attn_k.");
        let head = (architecture == "llama" && projection).then_some(spec.head_dim);
        let (stored, bytes) = encode(&tensor, matrices, head);
        tensors.push((name, stored, tensor.info.shape.clone(), bytes));
    }
    let tensors: Vec<_> = tensors
        .iter()
        .filter(|t| keep(&t.0))
        .map(|(name, stored, shape, bytes)| (name.as_str(), *stored, &shape[..], &bytes[..]))
        .collect();
    write_gguf(path, &keys, &tensors).expect("a GGUF file");
}

fn keys(opened: &Opened, architecture: &str) -> GgufKeys {
    let spec = &opened.model.spec;
    let mut keys = GgufKeys::new();
    keys.put_str("general.architecture", architecture);
    let mut put = |key: &str, value: Value<'_>| {
        keys.put(&format!("{architecture}.{key}"), value);
    };
    let count = |n: usize| Value::U32(u32::try_from(n).expect("a small number"));
    put("block_count", count(spec.layers.len()));
    put("context_length", count(spec.context_length));
    put("embedding_length", count(spec.hidden_size));
    put("feed_forward_length", count(spec.intermediate_size));
    put("attention.head_count", count(spec.heads));
    put("attention.head_count_kv", count(spec.kv_heads));
    put("attention.key_length", count(spec.head_dim));
    put("attention.value_length", count(spec.head_dim));
    put(
        "attention.layer_norm_rms_epsilon",
        Value::F32(spec.rms_norm_eps),
    );
    let rope = &spec.ropes[0];
    put("rope.dimension_count", count(rope.rotary_dim));
    put("rope.freq_base", Value::F32(rope.theta as f32));
    match rope.scaling {
        RopeScaling::Linear { factor } => {
            put("rope.scaling.type", Value::Str(b"linear"));
            put("rope.scaling.factor", Value::F32(factor as f32));
        }
        RopeScaling::Yarn {
            factor,
            beta_fast,
            beta_slow,
            original_context,
            ..
        } => {
            put("rope.scaling.type", Value::Str(b"yarn"));
            put("rope.scaling.factor", Value::F32(factor as f32));
            put(
                "rope.scaling.original_context_length",
                count(original_context),
            );
            put("rope.scaling.yarn_beta_fast", Value::F32(beta_fast as f32));
            put("rope.scaling.yarn_beta_slow", Value::F32(beta_slow as f32));
        }
        _ => {}
    }
    let windows: Vec<Option<usize>> = spec.layers.iter().map(|l| l.window).collect();
    if let Some(window) = windows.iter().flatten().next() {
        put("attention.sliding_window", count(*window));
        let slides: Vec<bool> = windows.iter().map(Option::is_some).collect();
        let key = format!("{architecture}.attention.sliding_window_pattern");
        keys.put_bools(&key, &slides);
    }
    keys.put_str("tokenizer.ggml.model", "no_vocab");
    keys
}

fn name(hugging_face: &str) -> String {
    const PARTS: &[(&str, &str)] = &[
        ("model.embed_tokens.", "token_embd."),
        ("model.norm.", "output_norm."),
        ("lm_head.", "output."),
        ("model.layers.", "blk."),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    let replace = |name: String, (from, to): &(&str, &str)| name.replace(from, to);
    PARTS.iter().fold(hugging_face.to_string(), replace)
}

/// The tensor's new type and bytes; with `head`, each head's rows as the converter permutes them:
/// [2, head / 2] becomes [head / 2, 2].
fn encode(
    tensor: &TensorRef<'_>,
    matrices: Option<StoredType>,
    head: Option<usize>,
) -> (StoredType, Vec<u8>) {
    let shape = &tensor.info.shape;
    let width = shape.get(1).copied().unwrap_or(1);
    let mut values = tensor.to_f32().expect("real numbers");
    if let Some(head) = head {
        let old = values.clone();
        for (block, old) in values
            .chunks_exact_mut(head * width)
            .zip(old.chunks_exact(head * width))
        {
            for half in 0..2 {
                for i in 0..head / 2 {
                    block[(2 * i + half) * width..][..width]
                        .copy_from_slice(&old[(half * (head / 2) + i) * width..][..width]);
                }
            }
        }
    }
    let stored = match shape.len() {
        1 => StoredType::F32,
        _ => matrices.unwrap_or(tensor.info.stored),
    };
    let bytes = stored.bytes_for(shape).expect("whole blocks") as usize;
    let mut out = vec![0; bytes];
    formats::encode_row(stored, &values, &mut out).expect("finite values");
    (stored, out)
}
