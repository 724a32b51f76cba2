//! Commands that describe: what they print is for people and for programs.

mod common;

use common::*;
use serde_json::Value;

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("an array")
}

#[test]
fn kernels_lists_every_key_and_filters() {
    let all = json(run(["kernels", "--json"]));
    for kernel in list(&all) {
        let layer = list(&kernel["layer"]);
        assert!(!layer.is_empty() && layer.iter().all(Value::is_string));
        for field in ["backend", "quant", "variant", "act", "source"] {
            assert!(kernel[field].is_string(), "{field} in {kernel}");
        }
        assert!(kernel["rank"].is_i64() && kernel["tolerance"].is_number());
        let source = kernel["source"].as_str().unwrap();
        let folder = layer
            .iter()
            .map(|l| l.as_str().unwrap())
            .collect::<Vec<_>>();
        assert!(
            source.contains(&format!("/{}/", folder.join("__"))),
            "{source}"
        );
    }
    let backends = |rows: &Value| {
        let mut names: Vec<String> = list(rows)
            .iter()
            .map(|k| k["backend"].as_str().unwrap().to_string())
            .collect();
        names.dedup();
        names
    };
    assert!(backends(&all).len() >= 3, "{:?}", backends(&all));
    let one = json(run(["kernels", "--json", "--backend", ORACLE]));
    assert_eq!(backends(&one), [ORACLE]);
    let linear = json(run([
        "kernels", "--json", "--layer", "linear", "--quant", "f16",
    ]));
    assert!(!list(&linear).is_empty() && list(&linear).len() < list(&all).len());
    for kernel in list(&linear) {
        assert!(list(&kernel["layer"]).contains(&"linear".into()));
        assert!(kernel["quant"].as_str().unwrap().contains("f16"));
    }
    let lines = ok(run(["kernels", "--backend", ORACLE]));
    assert_eq!(lines.lines().count(), list(&one).len());
}

#[test]
fn plan_explains_every_step() {
    let ferris = ferris();
    let ferris = ferris.to_str().unwrap();
    let plan = |extra: &[&str]| {
        let base = ["plan", "-m", ferris, "--json"];
        json(run(base.iter().chain(extra)))
    };
    let all = plan(&["--backend", "cpu_simd"]);
    assert!(list(&all).len() > 1);
    let one = plan(&["--backend", "cpu_simd", "--rows", "1"]);
    assert_eq!(list(&one).len(), 1);
    let steps = list(&one[0]["steps"]);
    for step in steps {
        assert!(step["why"].is_string() && step["key"].is_string());
        assert!(!list(&step["nodes"]).is_empty());
    }
    let fused = |steps: &[Value]| {
        let is = |s: &&Value| s["key"].as_str().unwrap().contains('+');
        steps.iter().filter(is).count()
    };
    assert!(fused(steps) > 0);
    let bare = plan(&["--backend", "cpu_simd", "--rows", "1", "--no-fusion"]);
    assert_eq!(fused(list(&bare[0]["steps"])), 0);
    assert!(list(&bare[0]["steps"]).len() > steps.len());
    let text = ok(run([
        "plan",
        "-m",
        ferris,
        "--rows",
        "1",
        "--backend",
        ORACLE,
    ]));
    assert!(
        text.contains("embed_tokens") && text.contains("argmax"),
        "{text}"
    );
    // No layer on the GPU: everything on the CPU tree, whatever the backend.
    let none = plan(&["--backend", ORACLE, "--gpu-layers", "0"]);
    assert_eq!(none, all);
    assert_eq!(all[0]["targets"][0]["holds"], "the whole model");
    refused(
        run([
            "plan",
            "-q",
            "-m",
            ferris,
            "--rows",
            "99999",
            "--backend",
            ORACLE,
        ]),
        1,
        "99999",
    );
}

#[test]
fn inspect_says_what_a_model_is_and_needs() {
    let got = json(
        engine()
            .args(["inspect", "--json", "--backend", ORACLE, "--ctx", "1024"])
            .arg(ferris())
            .output()
            .unwrap(),
    );
    assert_eq!(got["architecture"], "Qwen3ForCausalLM");
    assert_eq!(
        (&got["layers"], &got["vocab_size"]),
        (&8.into(), &8192.into())
    );
    assert_eq!(got["schemes"]["bf16"]["bytes"], got["tensor_bytes"]);
    assert_eq!(got["chat_template"], true);
    assert_eq!(got["tokenizer"]["tokens"], 8192);
    assert!(got.get("tensors").is_none());
    let at = list(&got["memory"]["at"]);
    let cache = |i: usize| at[i]["cache"].as_u64().unwrap();
    assert_eq!(
        (&at[0]["context"], &at[1]["context"]),
        (&1024.into(), &4096.into())
    );
    assert_eq!(cache(0) * 4, cache(1));

    let text = ok(engine()
        .args(["inspect", "-v", "--backend", ORACLE])
        .arg(model("qwen3-bias-mixed-bf16"))
        .output()
        .unwrap());
    for part in [
        "tokenizer      none",
        "window         20 tokens in 2 layers",
        "5 files",
    ] {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
    assert!(
        text.contains("model.layers.0.self_attn.q_proj.bias"),
        "{text}"
    );
}

#[test]
fn tokenize_agrees_with_transformers_and_goes_back() {
    let file = fixtures().join("golden/ferris-9m-tokenizer.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let ferris = ferris();
    let ferris = ferris.to_str().unwrap();
    for case in list(&golden["tokenizer"]).iter().take(12) {
        let text = case["text"].as_str().unwrap();
        if text.ends_with('\n') || text.contains('\0') {
            continue;
        }
        let line = ["tokenize", "-m", ferris, "--no-special", "--json"];
        let got = json(run_with_stdin(line, text.as_bytes()));
        assert_eq!(got["ids"], case["ids"], "{text:?}");
        let ids: Vec<u32> = list(&got["ids"])
            .iter()
            .map(|v| v.as_u64().unwrap() as u32)
            .collect();
        if ids.is_empty() {
            continue;
        }
        assert_eq!(list(&got["pieces"]).len(), ids.len());
        let back = json(run([
            "tokenize",
            "-m",
            ferris,
            "--json",
            "--decode",
            &comma(&ids),
        ]));
        assert_eq!(back["text"], case["decoded"]);
    }
    let lines = ok(run(["tokenize", "-m", ferris, "-p", "fn main"]));
    assert_eq!(lines.lines().count(), 2, "{lines}");
    refused(
        run(["tokenize", "-m", ferris, "--decode", "8192"]),
        1,
        "8192",
    );
}

#[test]
fn doctor_finds_the_cpu_and_explains_what_is_missing() {
    let report = engine()
        .args(["doctor", "--json"])
        .env("VK_DRIVER_FILES", "/nonexistent")
        .env("VK_ICD_FILENAMES", "/nonexistent")
        .output()
        .unwrap();
    let report = json(report);
    let backends = list(&report["backends"]);
    let named = |name: &str| {
        let found = backends.iter().find(|b| b["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {report}"))
    };
    assert_eq!(list(&named(ORACLE)["devices"]).len(), 1);
    assert!(named(ORACLE)["problem"].is_null());
    for b in backends.iter().filter(|b| list(&b["devices"]).is_empty()) {
        assert!(b["problem"].is_string() && b["advice"].is_string(), "{b}");
    }
    assert!(list(&named("vulkan")["devices"]).is_empty());
    assert!(report["memory"]["available"].as_u64().unwrap() > 0);
    let auto = report["auto"]["backend"].as_str().unwrap();
    assert_ne!(auto, ORACLE, "the oracle is for comparisons");
    let text = ok(run(["doctor"]));
    assert!(text.contains("auto: ") && text.contains(ORACLE), "{text}");
}

#[test]
fn help_documents_exit_codes() {
    let help = ok(run(["--help"]));
    for part in ["Exit codes", "130", "verify", "--backend"] {
        assert!(help.contains(part), "{part}");
    }
    assert!(ok(run(["--version"])).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn verify_prints_a_line_for_each_gate() {
    let only = [
        "verify",
        "-q",
        "--quick",
        "--backend",
        "cpu_simd",
        "--only",
        "/add/",
    ];
    let text = ok(run(only));
    assert!(text.lines().all(|l| l.starts_with("ring 2  ")), "{text}");
    assert!(text.contains("ok   cpu_simd/add/"), "{text}");
    let nothing = [
        "verify",
        "-q",
        "--backend",
        "cpu_simd",
        "--only",
        "no such key",
    ];
    refused(run(nothing), 1, "cpu_simd");
    refused(run(["verify", "--backend", ORACLE]), 2, ORACLE);

    let model = model("qwen2-tied-bf16");
    let model = model.to_str().unwrap();
    let ring3 = [
        "verify",
        "-q",
        "--ring",
        "3",
        "--backend",
        "cpu_simd",
        "-m",
        model,
    ];
    let text = ok(run(ring3.iter().chain(&["--time-limit", "10"])));
    assert!(text.lines().all(|l| l.starts_with("ring 3  ")), "{text}");
    assert!(text.contains("pass") && !text.contains("FAIL"), "{text}");
    let text = ok(run(ring3.iter().chain(&["--f32-activations"])));
    assert!(text.contains("activations f32, "), "{text}");
}
