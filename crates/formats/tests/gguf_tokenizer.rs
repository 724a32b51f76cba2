//! Tokenizers out of GGUF files against what transformers and sentencepiece produced.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use formats::gguf::{GgufKeys, Value, write_gguf};
use formats::{ChatMessage, ChatTemplate, GgufFile, IncrementalDetokenizer, Result, Tokenizer};
use serde::Deserialize;
use serde_json::Value as Json;
use tempfile::TempDir;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn json(path: PathBuf) -> Json {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn load(keys: &GgufKeys) -> Result<Option<Tokenizer>> {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("vocab.gguf");
    write_gguf(&path, keys, &[]).unwrap();
    GgufFile::open(&path).unwrap().tokenizer()
}

fn loaded(keys: &GgufKeys) -> Arc<Tokenizer> {
    Arc::new(load(keys).unwrap().unwrap())
}

fn refused(keys: &GgufKeys) -> String {
    let shown = load(keys).unwrap_err().to_string();
    assert!(
        shown.contains("vocab.gguf") && shown.lines().count() <= 3,
        "{shown}"
    );
    shown
}

fn streamed(tokenizer: &Arc<Tokenizer>, ids: &[u32], skip_special: bool) -> String {
    let mut stream = IncrementalDetokenizer::new(Arc::clone(tokenizer), skip_special);
    let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
    text.push_str(&stream.flush());
    text
}

/// The demonstration model's tokenizer, as llama.cpp's converter writes it.
fn ferris() -> GgufKeys {
    let dir = fixtures().join("models/ferris-9m");
    let tokenizer = json(dir.join("tokenizer.json"));
    let config = json(dir.join("tokenizer_config.json"));
    let vocab = tokenizer["model"]["vocab"].as_object().unwrap();
    let mut tokens = vec![String::new(); vocab.len()];
    for (token, id) in vocab {
        tokens[id.as_u64().unwrap() as usize] = token.clone();
    }
    let mut types = vec![1i32; tokens.len()];
    for added in tokenizer["added_tokens"].as_array().unwrap() {
        let special = added["special"].as_bool().unwrap();
        types[added["id"].as_u64().unwrap() as usize] = if special { 3 } else { 4 };
    }
    let merges = tokenizer["model"]["merges"].as_array().unwrap();
    let pair = |m: &Json| format!("{} {}", m[0].as_str().unwrap(), m[1].as_str().unwrap());
    let merges: Vec<String> = merges.iter().map(pair).collect();
    let mut keys = GgufKeys::new();
    keys.put_str("general.architecture", "qwen3")
        .put_str("tokenizer.ggml.model", "gpt2")
        .put_str("tokenizer.ggml.pre", "qwen2")
        .put_strs("tokenizer.ggml.tokens", &tokens)
        .put_i32s("tokenizer.ggml.token_type", &types)
        .put_strs("tokenizer.ggml.merges", &merges)
        .put("tokenizer.ggml.eos_token_id", Value::U32(2))
        .put("tokenizer.ggml.padding_token_id", Value::U32(0))
        .put("tokenizer.ggml.add_bos_token", Value::Bool(false))
        .put_str(
            "tokenizer.chat_template",
            config["chat_template"].as_str().unwrap(),
        );
    keys
}

#[derive(Deserialize)]
struct Golden {
    tokenizer: Vec<Encoded>,
    chat_template: Vec<Chat>,
}

#[derive(Deserialize)]
struct Encoded {
    text: String,
    ids: Vec<u32>,
    decoded: String,
    decoded_skip_special: String,
}

#[derive(Deserialize)]
struct Chat {
    messages: Vec<ChatMessage>,
    add_generation_prompt: bool,
    rendered: String,
    ids: Vec<u32>,
}

#[test]
fn byte_level_vocabularies_equal_transformers() {
    let tokenizer = loaded(&ferris());
    let golden = json(fixtures().join("golden/ferris-9m-tokenizer.json"));
    let golden: Golden = serde_json::from_value(golden).unwrap();
    assert!(golden.tokenizer.len() > 40);
    for case in golden.tokenizer {
        let text = &case.text;
        assert_eq!(tokenizer.encode(text, true).unwrap(), case.ids, "{text:?}");
        for (skip, wanted) in [(false, &case.decoded), (true, &case.decoded_skip_special)] {
            assert_eq!(&tokenizer.decode(&case.ids, skip), wanted, "{text:?}");
            assert_eq!(&streamed(&tokenizer, &case.ids, skip), wanted, "{text:?}");
        }
    }
    let chat = ChatTemplate::from_config(tokenizer.config()).unwrap();
    for case in golden.chat_template {
        let text = chat.render(
            &case.messages,
            case.add_generation_prompt,
            serde_json::Map::new(),
        );
        assert_eq!(text.as_ref().unwrap(), &case.rendered);
        assert_eq!(tokenizer.encode(&text.unwrap(), false).unwrap(), case.ids);
    }
}

#[test]
fn it_is_the_tokenizer_of_the_folder() {
    let ours = loaded(&ferris());
    let folder = Tokenizer::from_dir(&fixtures().join("models/ferris-9m")).unwrap();
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("vocab.gguf");
    write_gguf(&path, &ferris(), &[]).unwrap();
    let generation = GgufFile::open(&path).unwrap().generation().unwrap();
    assert_eq!(generation.eos_token_ids, [2, 0]);
    assert_eq!(ours.vocab_size(), folder.vocab_size());
    assert_eq!(
        (ours.bos_id(), ours.eos_id()),
        (folder.bos_id(), folder.eos_id())
    );
    assert!(ours.special_ids().eq(folder.special_ids()));
    assert_eq!(ours.config().pad_token, folder.config().pad_token);
    for id in 0..ours.vocab_size() as u32 {
        assert_eq!(ours.token_text(id), folder.token_text(id));
        assert_eq!(ours.token_bytes(id), folder.token_bytes(id));
    }
    let text = std::fs::read_to_string(fixtures().join("eval.txt")).unwrap();
    for part in text.split_inclusive('\n').take(400) {
        assert_eq!(
            ours.encode(part, true).unwrap(),
            folder.encode(part, true).unwrap()
        );
    }
}

#[derive(Deserialize)]
struct Spm {
    pieces: Vec<(String, f32, i32)>,
    texts: Vec<String>,
    models: Vec<SpmModel>,
}

#[derive(Deserialize)]
struct SpmModel {
    prefix: bool,
    unused: Vec<usize>,
    ids: Vec<Vec<u32>>,
    decoded: Vec<String>,
}

fn spm() -> Spm {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/spm.json");
    serde_json::from_value(json(path)).unwrap()
}

fn spm_keys(pieces: &[(String, f32, i32)], prefix: bool, unused: &[usize]) -> GgufKeys {
    let mut types: Vec<i32> = pieces.iter().map(|p| p.2).collect();
    for &i in unused {
        types[i] = 5;
    }
    let texts: Vec<&str> = pieces.iter().map(|p| p.0.as_str()).collect();
    let scores: Vec<f32> = pieces.iter().map(|p| p.1).collect();
    let mut keys = GgufKeys::new();
    keys.put_str("tokenizer.ggml.model", "llama")
        .put_strs("tokenizer.ggml.tokens", &texts)
        .put_f32s("tokenizer.ggml.scores", &scores)
        .put_i32s("tokenizer.ggml.token_type", &types)
        .put("tokenizer.ggml.add_space_prefix", Value::Bool(prefix));
    keys
}

#[test]
fn scored_pieces_equal_sentencepiece() {
    let golden = spm();
    assert!(golden.texts.len() > 80 && golden.models.len() == 3);
    for model in &golden.models {
        let tokenizer = loaded(&spm_keys(&golden.pieces, model.prefix, &model.unused));
        for ((text, ids), decoded) in golden.texts.iter().zip(&model.ids).zip(&model.decoded) {
            assert_eq!(&tokenizer.encode(text, false).unwrap(), ids, "{text:?}");
            assert_eq!(&tokenizer.decode(ids, true), decoded, "{text:?}");
            assert_eq!(&streamed(&tokenizer, ids, true), decoded, "{text:?}");
        }
    }
}

#[test]
fn scored_pieces_with_special_tokens() {
    let mut pieces = spm().pieces;
    pieces.push(("<|tool|>".into(), 0.0, 4));
    let plain = loaded(&spm_keys(&pieces, true, &[]));
    let (tool, hi) = (1000, plain.encode("hi", false).unwrap());
    // Customary ids where no key names others, and a beginning token.
    assert_eq!((plain.bos_id(), plain.eos_id()), (Some(1), Some(2)));
    assert_eq!(plain.encode("hi", true).unwrap(), [&[1], &hi[..]].concat());
    assert_eq!(
        plain.encode("</s>hi", false).unwrap(),
        [&[2], &hi[..]].concat()
    );
    let with_tool = plain.encode("<|tool|>hi", false).unwrap();
    assert_eq!(with_tool, [&[tool], &hi[..]].concat());
    assert_eq!(plain.special_ids().collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(plain.decode(&[1, tool, 2], true), "<|tool|>");

    let mut keys = spm_keys(&pieces, false, &[]);
    keys.put("tokenizer.ggml.bos_token_id", Value::U32(2))
        .put("tokenizer.ggml.eos_token_id", Value::U32(1))
        .put("tokenizer.ggml.add_bos_token", Value::Bool(true))
        .put("tokenizer.ggml.add_eos_token", Value::Bool(true));
    let both = loaded(&keys);
    let ids = both.encode("hi", true).unwrap();
    assert_eq!((ids[0], ids[ids.len() - 1]), (2, 1));
    assert_eq!(ids[1..ids.len() - 1], both.encode("hi", false).unwrap());

    // Phi-3's control tokens take the spaces that follow them.
    let mut pieces = spm().pieces;
    pieces.push(("<|user|>".into(), 0.0, 3));
    let mut keys = spm_keys(&pieces, true, &[]);
    assert_ne!(
        loaded(&keys).encode("<|user|>\n hi", false).unwrap().len(),
        1 + hi.len()
    );
    keys.put_str("general.architecture", "phi3");
    assert_eq!(
        loaded(&keys).encode("<|user|>\n hi", false).unwrap(),
        [&[1000], &hi[..]].concat()
    );
}

#[test]
fn characters_without_a_piece() {
    let piece = |text: &str, kind| (text.to_string(), 0.0, kind);
    let mut pieces = vec![
        piece("<unk>", 2),
        piece("<s>", 3),
        piece("</s>", 3),
        piece("a", 1),
    ];
    let tokenizer = loaded(&spm_keys(&pieces, false, &[]));
    assert_eq!(tokenizer.encode("aéüa日", false).unwrap(), [3, 0, 3, 0]);
    // Scores that are equal join from the left.
    pieces.push(piece("aa", 1));
    let tokenizer = loaded(&spm_keys(&pieces, false, &[]));
    assert_eq!(tokenizer.encode("aaaaa", false).unwrap(), [4, 4, 3]);
    let long = "a".repeat(200_001);
    assert_eq!(tokenizer.encode(&long, false).unwrap().len(), 100_001);
}

#[test]
fn files_without_types_or_tokenizer() {
    for model in [None, Some("no_vocab"), Some("none")] {
        let mut keys = GgufKeys::new();
        if let Some(model) = model {
            keys.put_str("tokenizer.ggml.model", model);
        }
        assert!(load(&keys).unwrap().is_none(), "{model:?}");
    }
    let golden = spm();
    let texts: Vec<&str> = golden.pieces.iter().map(|p| p.0.as_str()).collect();
    let scores: Vec<f32> = golden.pieces.iter().map(|p| p.1).collect();
    let mut keys = GgufKeys::new();
    keys.put_str("tokenizer.ggml.model", "llama")
        .put_strs("tokenizer.ggml.tokens", &texts)
        .put_f32s("tokenizer.ggml.scores", &scores);
    let untyped = loaded(&keys);
    for (text, ids) in golden.texts.iter().zip(&golden.models[0].ids) {
        assert_eq!(&untyped.encode(text, false).unwrap(), ids, "{text:?}");
    }
    assert!(untyped.is_special(1) && untyped.is_special(2));
    // Names must differ, so an empty one gets its own.
    let mut keys = GgufKeys::new();
    keys.put_str("tokenizer.ggml.model", "gpt2")
        .put_strs("tokenizer.ggml.tokens", &["", "a", ""])
        .put_strs("tokenizer.ggml.merges", &[] as &[&str]);
    let empty = loaded(&keys);
    assert_eq!(empty.token_text(2).unwrap(), "[EMPTY_2]");
    assert_eq!(empty.encode("aa", true).unwrap(), [1, 1]);
}

#[test]
fn named_chat_templates() {
    let mut keys = ferris();
    keys.put_str("tokenizer.chat_template.tool_use", "tools");
    let tokenizer = loaded(&keys);
    let names = tokenizer.config().chat_templates.iter();
    assert_eq!(
        names.map(|t| t.0.as_str()).collect::<Vec<_>>(),
        ["default", "tool_use"]
    );
    assert_eq!(tokenizer.config().chat_templates[1].1, "tools");
}

#[test]
fn split_names_decide() {
    let letters: Vec<String> = ('a'..='z').chain('0'..='9').map(String::from).collect();
    let mut tokens = letters.clone();
    tokens.extend(["12", "123", "1234", "<b>"].map(String::from));
    let ids = |pre: &str| {
        let mut keys = GgufKeys::new();
        keys.put_str("tokenizer.ggml.model", "gpt2")
            .put_str("tokenizer.ggml.pre", pre)
            .put_strs("tokenizer.ggml.tokens", &tokens)
            .put_strs("tokenizer.ggml.merges", &["1 2", "12 3", "123 4"])
            .put("tokenizer.ggml.bos_token_id", Value::U32(39));
        let tokenizer = loaded(&keys);
        let ids = tokenizer.encode("1234", true).unwrap();
        ids.iter()
            .map(|&id| tokenizer.token_text(id).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids("gpt-2"), ["1234"]);
    assert_eq!(ids("qwen2"), ["1", "2", "3", "4"]);
    assert_eq!(ids("llama-bpe"), ["<b>", "123", "4"]);
    assert_eq!(ids("default"), ["123", "4"]);
}

#[test]
fn damaged_tokenizers() {
    let refuse = |change: &dyn Fn(&mut GgufKeys)| {
        let mut keys = GgufKeys::new();
        change(&mut keys);
        refused(&keys)
    };
    let base = |keys: &mut GgufKeys, model: &str| {
        keys.put_str("tokenizer.ggml.model", model)
            .put_strs("tokenizer.ggml.tokens", &["a", "b", "ab"]);
    };
    type Change<'a> = &'a dyn Fn(&mut GgufKeys);
    let cases: [(&str, Change<'_>); 15] = [
        ("kind `bert`", &|k| base(k, "bert")),
        ("`tokenizer.ggml.model` is 3", &|k| {
            k.put("tokenizer.ggml.model", Value::U8(3));
        }),
        ("`tokenizer.ggml.tokens` is missing", &|k| {
            k.put_str("tokenizer.ggml.model", "gpt2");
        }),
        ("`tokenizer.ggml.tokens` is 0 of Str", &|k| {
            k.put_str("tokenizer.ggml.model", "gpt2")
                .put_strs("tokenizer.ggml.tokens", &[] as &[&str]);
        }),
        ("UTF-8 strings", &|k| {
            k.put_str("tokenizer.ggml.model", "gpt2")
                .put_strs("tokenizer.ggml.tokens", &[b"\xFF"]);
        }),
        ("tokens 0 and 2 are both `a`", &|k| {
            k.put_str("tokenizer.ggml.model", "gpt2")
                .put_strs("tokenizer.ggml.tokens", &["a", "b", "a"]);
        }),
        ("`tokenizer.ggml.merges` is missing", &|k| base(k, "gpt2")),
        ("pairs of tokens", &|k| {
            base(k, "gpt2");
            k.put_strs("tokenizer.ggml.merges", &["a b", "ab"]);
        }),
        ("do not fit its vocabulary", &|k| {
            base(k, "gpt2");
            k.put_strs("tokenizer.ggml.merges", &["a c"]);
        }),
        ("pre-tokenizer `klingon` is not known", &|k| {
            base(k, "gpt2");
            k.put_str("tokenizer.ggml.pre", "klingon");
        }),
        ("3 numbers, one for each token", &|k| {
            base(k, "gpt2");
            k.put_i32s("tokenizer.ggml.token_type", &[1, 1]);
        }),
        (
            "`tokenizer.ggml.eos_token_id` is 3; wanted a whole number from 0 to 2",
            &|k| {
                base(k, "gpt2");
                k.put_strs("tokenizer.ggml.merges", &["a b"])
                    .put("tokenizer.ggml.eos_token_id", Value::U32(3));
            },
        ),
        ("`tokenizer.ggml.scores` is missing", &|k| base(k, "llama")),
        ("one for each token", &|k| {
            base(k, "llama");
            k.put_f32s("tokenizer.ggml.scores", &[0.0, f32::NAN, 0.0]);
        }),
        ("`tokenizer.chat_template` is 1", &|k| {
            base(k, "llama");
            k.put_f32s("tokenizer.ggml.scores", &[0.0; 3])
                .put("tokenizer.chat_template", Value::U8(1));
        }),
    ];
    for (wanted, change) in cases {
        let shown = refuse(change);
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
}
