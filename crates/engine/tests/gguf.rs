//! GGUF files through the program: in parts, without a tokenizer, with a chat template.

mod common;
#[path = "common/gguf.rs"]
mod gguf;

use common::*;
use formats::gguf::{GgufKeys, Value};
use std::path::Path;
use std::process::Output;
use tempfile::TempDir;

const MODEL: &str = "qwen2-tied-bf16";

fn on(model: &Path, args: &[&str]) -> Output {
    let model = model.to_str().expect("UTF-8");
    let mut line = vec!["run", "-q", "--backend", ORACLE, "-m", model];
    line.extend(["-n", "5", "--greedy", "--ignore-eos"]);
    line.extend(args);
    run(line)
}

fn tokens(output: Output) -> serde_json::Value {
    json(output)["tokens"].clone()
}

fn file(keys: &GgufKeys) -> (TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("m.gguf");
    gguf::write(&model(MODEL), keys, &path);
    (dir, path)
}

#[test]
fn parts_are_one_model() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let parts = gguf::write_parts(&model(MODEL), dir.path(), 3);
    let ask = ["--ids", "1,2,3", "--json"];
    let wanted = tokens(on(&model(MODEL), &ask));
    for part in &parts {
        assert_eq!(tokens(on(part, &ask)), wanted);
    }
    let report = json(run([
        "inspect",
        "--json",
        parts[1].to_str().expect("UTF-8"),
    ]));
    assert_eq!(report["files"], 3);
    std::fs::remove_file(&parts[1]).expect("it is there");
    refused(on(&parts[0], &ask), 1, "m-00002-of-00003.gguf");
}

#[test]
fn files_without_a_tokenizer_take_token_ids() {
    for kind in [None, Some("no_vocab")] {
        let mut keys = gguf::keys(&model(MODEL));
        if let Some(kind) = kind {
            keys.put_str("tokenizer.ggml.model", kind);
        }
        let (_dir, path) = file(&keys);
        let ids = ["--ids", "1,2,3"];
        assert_eq!(ok(on(&path, &ids)), ok(on(&model(MODEL), &ids)));
        refused(on(&path, &["-p", "text"]), 1, "give token ids");
        let path = path.to_str().expect("UTF-8");
        refused(run(["tokenize", "-m", path, "-p", "x"]), 1, "m.gguf");
        refused(run(["chat", "-m", path]), 1, "m.gguf");
        ok(run(["inspect", path]));
    }
}

/// A vocabulary of letters, with the marks of a conversation.
fn with_tokenizer(template: Option<&str>) -> GgufKeys {
    let mut tokens = vec![
        "<unk>",
        "<s>",
        "</s>",
        "<|user|>",
        "<|assistant|>",
        "<|end|>",
    ];
    let mut types = vec![2, 3, 3, 3, 3, 3];
    tokens.extend(["▁", "a", "b", "c", "▁a", "▁ab"]);
    types.resize(tokens.len(), 1);
    let scores: Vec<f32> = (0..tokens.len()).map(|i| i as f32).collect();
    let mut keys = gguf::keys(&model(MODEL));
    keys.put_str("tokenizer.ggml.model", "llama")
        .put_strs("tokenizer.ggml.tokens", &tokens)
        .put_i32s("tokenizer.ggml.token_type", &types)
        .put_f32s("tokenizer.ggml.scores", &scores)
        .put("tokenizer.ggml.bos_token_id", Value::U32(1))
        .put("tokenizer.ggml.eos_token_id", Value::U32(2));
    if let Some(template) = template {
        keys.put_str("tokenizer.chat_template", template);
    }
    keys
}

#[test]
fn the_chat_template_of_the_file_is_used() {
    let template = "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
    let (_dir, path) = file(&with_tokenizer(Some(template)));
    let chat = json(on(&path, &["--chat", "-p", "ab c", "--json"]));
    let ids = "1,3,11,6,9,5,4";
    assert_eq!(chat["prompt_tokens"], 7);
    assert_eq!(chat["tokens"], tokens(on(&path, &["--ids", ids, "--json"])));
    // Without the template the same text is another prompt.
    let plain = json(on(&path, &["-p", "ab c", "--json"]));
    assert_eq!(plain["prompt_tokens"], 4);
    let shown = path.to_str().expect("UTF-8");
    let line = [
        "chat",
        "-q",
        "--backend",
        ORACLE,
        "-m",
        shown,
        "-n",
        "3",
        "--greedy",
    ];
    ok(run_with_stdin(line, b"ab c\n/reset\nab\n"));

    let (_dir, path) = file(&with_tokenizer(None));
    refused(on(&path, &["--chat", "-p", "ab"]), 1, "no chat template");
    let (_dir, path) = file(&with_tokenizer(Some("{{ unclosed")));
    refused(on(&path, &["--chat", "-p", "ab"]), 1, "m.gguf");
}
