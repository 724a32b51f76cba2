//! Damaged models, impossible wishes, unusable outputs: each is refused in at most
//! three lines that name the trouble.

mod common;

use common::*;
use std::path::Path;
use tempfile::TempDir;

const SMALL: &str = "qwen2-tied-bf16";
const FAILED: i32 = 1;
const USAGE: i32 = 2;

/// Every command that reads weights refuses the model.
#[track_caller]
fn model_refused(dir: &TempDir, names: &str) {
    let path = dir.path().to_str().expect("UTF-8");
    let backend = ["--backend", ORACLE, "-q"];
    let out = dir.path().join("out.safetensors");
    let out = out.to_str().expect("UTF-8");
    let commands: [&[&str]; 4] = [
        &["run", "-m", path, "--ids", "1,2"],
        &["logits", "-m", path, "--ids", "1,2", "--out", out],
        &["inspect", path],
        &["plan", "-m", path],
    ];
    for command in commands {
        refused(run(command.iter().chain(&backend)), FAILED, names);
    }
}

/// `run` on a model that is whole.
fn run_on(model: &Path, args: &[&str]) -> std::process::Output {
    let model = model.to_str().expect("UTF-8");
    let mut line = vec!["run", "-q", "--backend", ORACLE, "-m", model];
    line.extend(args);
    run(line)
}

#[test]
fn truncated_weights() {
    for keep in [0, 4, 100, 100_000] {
        let dir = copy(SMALL);
        edit(&dir, "model.safetensors", |b| b[..keep].to_vec());
        model_refused(&dir, "model.safetensors");
    }
}

#[test]
fn a_header_of_two_to_the_63_bytes() {
    let dir = copy(SMALL);
    edit(&dir, "model.safetensors", |mut b| {
        b[..8].copy_from_slice(&(1u64 << 63).to_le_bytes());
        b
    });
    model_refused(&dir, "9223372036854775808");
}

#[test]
fn tensors_that_overlap_or_lie_outside() {
    const NAME: &str = "model.norm.weight";
    let offsets = |h: &serde_json::Map<String, serde_json::Value>, name: &str| -> Vec<u64> {
        let list = h[name]["data_offsets"].as_array().expect("a list");
        list.iter().map(|v| v.as_u64().expect("a number")).collect()
    };
    let dir = copy(SMALL);
    edit_header(&dir, |h| {
        let bytes = offsets(h, NAME)[1] - offsets(h, NAME)[0];
        let other = offsets(h, "model.embed_tokens.weight")[0];
        h[NAME]["data_offsets"] = serde_json::json!([other, other + bytes]);
    });
    model_refused(&dir, "overlap");

    let dir = copy(SMALL);
    edit_header(&dir, |h| {
        let bytes = offsets(h, NAME)[1] - offsets(h, NAME)[0];
        h[NAME]["data_offsets"] = serde_json::json!([1u64 << 40, (1u64 << 40) + bytes]);
    });
    model_refused(&dir, NAME);

    let dir = copy(SMALL);
    edit_header(&dir, |h| {
        h[NAME]["data_offsets"] = serde_json::json!([u64::MAX, 3]);
    });
    model_refused(&dir, NAME);
}

#[test]
fn a_missing_shard_or_tensor() {
    let dir = copy("llama-linear-mqa-f16");
    std::fs::remove_file(dir.path().join("model-00003-of-00007.safetensors")).unwrap();
    model_refused(&dir, "model-00003-of-00007.safetensors");

    let dir = copy(SMALL);
    edit_config(&dir, |c| {
        let layers = c["num_hidden_layers"].as_u64().expect("a number");
        c["num_hidden_layers"] = (layers + 1).into();
        c.remove("layer_types");
    });
    model_refused(&dir, "missing");
}

#[test]
fn a_tokenizer_that_is_missing_damaged_or_of_another_model() {
    refused(
        run_on(&model(SMALL), &["-p", "hello"]),
        FAILED,
        "tokenizer.json",
    );

    let dir = copy(SMALL);
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(ferris().join(file), dir.path().join(file)).unwrap();
    }
    refused(run_on(dir.path(), &["-p", "hello"]), FAILED, "vocabulary");
    refused(run_on(dir.path(), &["--ids", "1"]), FAILED, "vocabulary");

    for keep in [0, 1000, 500_000] {
        edit(&dir, "tokenizer.json", |b| {
            let keep = keep.min(b.len());
            b[..keep].to_vec()
        });
        refused(
            run_on(dir.path(), &["-p", "hello"]),
            FAILED,
            "tokenizer.json",
        );
        std::fs::copy(
            ferris().join("tokenizer.json"),
            dir.path().join("tokenizer.json"),
        )
        .unwrap();
    }
}

#[test]
fn a_config_with_impossible_values() {
    let cases: [(&str, &str); 9] = [
        ("hidden_size", "0"),
        ("hidden_size", "-64"),
        ("hidden_size", "1e300"),
        ("num_hidden_layers", "4000000000"),
        ("vocab_size", "1000000000000000"),
        ("num_attention_heads", "0"),
        ("rms_norm_eps", "NaN"),
        ("rms_norm_eps", "Infinity"),
        ("intermediate_size", "\"many\""),
    ];
    for (field, value) in cases {
        let dir = copy(SMALL);
        edit_config(&dir, |c| c[field] = "PLACEHOLDER".into());
        edit(&dir, "config.json", |b| {
            let text = String::from_utf8(b).expect("UTF-8");
            text.replace("\"PLACEHOLDER\"", value).into_bytes()
        });
        model_refused(&dir, field);
    }
    // Sizes that each are possible, and together are not this model's.
    let dir = copy(SMALL);
    edit_config(&dir, |c| c["vocab_size"] = 257.into());
    model_refused(&dir, "257");
    let dir = copy(SMALL);
    edit_config(&dir, |c| c["intermediate_size"] = 16_000_000.into());
    model_refused(&dir, "16000000");
}

#[test]
fn a_config_that_is_not_one() {
    let dir = copy(SMALL);
    edit_config(&dir, |c| {
        c["architectures"] = serde_json::json!(["MambaForCausalLM"])
    });
    model_refused(&dir, "MambaForCausalLM");

    for text in ["", "{", "[]", "\u{0}"] {
        let dir = copy(SMALL);
        edit(&dir, "config.json", |_| text.into());
        model_refused(&dir, "config.json");
    }
    let dir = copy(SMALL);
    std::fs::remove_file(dir.path().join("config.json")).unwrap();
    model_refused(&dir, "config.json");
    refused(
        run_on(Path::new("/nonexistent/model"), &["-p", "x"]),
        FAILED,
        "/nonexistent/model",
    );
}

#[test]
fn a_prompt_that_does_not_fit_or_is_not_there() {
    let small = model(SMALL);
    refused(
        run_on(&small, &["--ctx", "4", "--ids", "1,2,3,4"]),
        FAILED,
        "4 tokens",
    );
    refused(run_on(&small, &["--ids", "1,300"]), FAILED, "token id 300");
    refused(run_on(&small, &["--ids", ""]), USAGE, "--ids");
    refused(run_on(&small, &["--ids", "1,x"]), USAGE, "'x'");
    refused(
        run_on(&small, &["--ids", "@/nonexistent"]),
        FAILED,
        "/nonexistent",
    );
    refused(run_on(&ferris(), &["-p", ""]), FAILED, "empty");
    refused(run_on(&ferris(), &["-p", "", "--chat"]), FAILED, "empty");
    refused(
        run_on(&ferris(), &["-f", "/nonexistent"]),
        FAILED,
        "/nonexistent",
    );
    refused(
        run_on(
            &ferris(),
            &["--ctx", "8", "-p", "a b c d e f g h i j k l m n o p"],
        ),
        FAILED,
        "--ctx",
    );
    let ferris = ferris();
    let ferris = ferris.to_str().unwrap();
    let pipe = ["run", "-q", "--backend", ORACLE, "-m", ferris];
    refused(run_with_stdin(pipe, b""), FAILED, "empty");
    refused(run_with_stdin(pipe, b"ab\xff"), FAILED, "byte 2");
    // Surrogates, overlong forms, and characters that were cut.
    for (bytes, at) in [
        (&b"a\xed\xa0\x80"[..], "byte 1"),
        (b"ab\xc0\xafc", "byte 2"),
        (b"\xf4\x90\x80\x80", "byte 0"),
        ("é日🦀".as_bytes().split_last().expect("bytes").1, "byte 5"),
    ] {
        let tokenize = run_with_stdin(["tokenize", "-m", ferris], bytes);
        refused(tokenize, FAILED, at);
    }
}

#[test]
fn a_backend_or_device_that_is_not_there() {
    let run = |name: &str, backend: &[&str]| {
        let mut command = engine();
        command.args(["run", "-q", "--ids", "1", "-m"]);
        command.arg(model(name)).args(backend);
        // Without a driver for the loader to find.
        command.env("VK_DRIVER_FILES", "/nonexistent");
        command.env("VK_ICD_FILENAMES", "/nonexistent");
        command.output().unwrap()
    };
    let on = |backend: &[&str]| run(SMALL, backend);
    refused(on(&["--backend", "abacus"]), USAGE, "abacus");
    refused(on(&["--backend", "vulkan"]), FAILED, "vulkan");
    refused(on(&["--backend", ORACLE, "--device", "99"]), FAILED, "99");
    refused(on(&["--device", "99"]), FAILED, "99");
    refused(
        on(&["--backend", ORACLE, "--threads", "0"]),
        FAILED,
        "threads",
    );
    refused(on(&["--backend", ORACLE, "--cpu-isa", "z80"]), USAGE, "z80");
    refused(on(&["--backend", ORACLE, "--kv", "int1"]), FAILED, "int1");
    // There is nothing to divide between the CPU and itself.
    for flag in ["--gpu-layers", "--cpu-experts"] {
        for backend in [ORACLE, "cpu_simd"] {
            refused(on(&["--backend", backend, flag, "1"]), USAGE, backend);
        }
        let divided = run("mixtral-f16", &["--backend", "vulkan", flag, "1"]);
        refused(divided, FAILED, "vulkan");
        refused(on(&[flag, "-1"]), USAGE, flag);
    }
    let dense = on(&["--backend", "vulkan", "--cpu-experts", "1"]);
    refused(dense, FAILED, "no experts");
}

#[test]
fn more_memory_than_there_is() {
    let run_ctx = |ctx| run_on(&ferris(), &["-p", "x", "--ctx", ctx]);
    refused(run_ctx("200000000"), FAILED, "KV cache");
    refused(run_ctx("99999999999999"), FAILED, "context");
    refused(run_ctx("0"), USAGE, "--ctx");
    refused(run_ctx("99999999999999999999999"), USAGE, "--ctx");
}

/// A context that many machines could hold, and this process may not.
#[cfg(target_os = "linux")]
#[test]
fn more_memory_than_this_process_may_take() {
    let line = format!(
        "ulimit -v 600000; exec {} run -q --threads 1 --backend {ORACLE} -m {} -p x --ctx 200000",
        env!("CARGO_BIN_EXE_engine"),
        ferris().display()
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &line])
        .output();
    refused(output.unwrap(), FAILED, "is free");
}

#[test]
fn an_output_that_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    for out in [
        dir.path().join("no/such/x.safetensors"),
        dir.path().to_path_buf(),
        file.join("x.safetensors"),
    ] {
        let output = engine()
            .args(["logits", "-q", "--backend", ORACLE, "--ids", "1"])
            .arg("-m")
            .arg(model(SMALL))
            .arg("--out")
            .arg(&out)
            .output();
        refused(output.unwrap(), FAILED, out.to_str().unwrap());
    }
    let full = Path::new("/dev/full");
    if full.exists() {
        let full = std::fs::OpenOptions::new().write(true).open(full).unwrap();
        let output = engine().arg("kernels").stdout(full).output().unwrap();
        refused(output, FAILED, "standard output");
    }
}

#[test]
fn logits_of_ids_that_do_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("x.safetensors");
    let logits = |args: &[&str]| {
        let mut command = engine();
        command.args(["logits", "-q", "--backend", ORACLE, "-m"]);
        command.arg(model(SMALL)).arg("--out").arg(&out).args(args);
        command.output().unwrap()
    };
    refused(
        logits(&["--ids", "1,2,3", "--ctx", "2"]),
        FAILED,
        "3 tokens",
    );
    refused(logits(&["--ids", "1,2,300"]), FAILED, "300");
    let many = dir.path().join("ids.txt");
    std::fs::write(&many, comma(&[1; 100_000])).unwrap();
    let many = format!("@{}", many.display());
    refused(logits(&["--ids", &many]), USAGE, "100000 ids");
    assert!(!out.exists());
}

#[test]
fn sampling_flags_out_of_range() {
    let cases: [(&str, &str, &str); 12] = [
        ("--temp", "-1", "temperature"),
        ("--temp", "nan", "temperature"),
        ("--temp", "warm", "--temp"),
        ("--top-p", "1.5", "top_p"),
        ("--min-p", "-0.1", "min_p"),
        ("--top-k", "-3", "--top-k"),
        ("--repeat-penalty", "0", "repetition_penalty"),
        ("--presence-penalty", "3", "presence_penalty"),
        ("--frequency-penalty", "-3", "frequency_penalty"),
        ("--logit-bias", "7", "--logit-bias"),
        ("--logit-bias", "7=nan", "logit_bias"),
        ("--seed", "-1", "--seed"),
    ];
    for (flag, value, names) in cases {
        refused(run_on(&ferris(), &["-p", "x", flag, value]), USAGE, names);
    }
    let twice = ["-p", "x", "--logit-bias", "7=1", "--logit-bias", "7=2"];
    refused(run_on(&ferris(), &twice), USAGE, "more than once");
    refused(
        run_on(&ferris(), &["-p", "x", "--stop", ""]),
        USAGE,
        "--stop",
    );
    refused(
        run_on(&ferris(), &["-p", "x", "-n", "0"]),
        USAGE,
        "--max-tokens",
    );
    let outside = ["-p", "x", "-n", "1", "--logit-bias", "99999=1"];
    refused(run_on(&ferris(), &outside), FAILED, "99999");
}

#[test]
fn a_command_line_that_is_not_one() {
    refused(run(["frobnicate"]), USAGE, "frobnicate");
    refused(run(["run", "-p", "x"]), USAGE, "--model");
    refused(run(["kernels", "--backend", "abacus"]), USAGE, "abacus");
    let elsewhere = engine()
        .env("ESPALIER_FIXTURES", "/nonexistent")
        .output()
        .unwrap();
    refused(elsewhere, FAILED, "ESPALIER_FIXTURES");
}

#[test]
fn chat_without_a_template() {
    let dir = copy("ferris-9m");
    std::fs::remove_file(dir.path().join("tokenizer_config.json")).unwrap();
    let path = dir.path().to_str().unwrap();
    let chat = ["chat", "-q", "--backend", ORACLE, "-m", path];
    refused(run_with_stdin(chat, b"hello\n"), FAILED, "chat template");
}
