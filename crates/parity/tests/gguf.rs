//! GGUF files of the fixture models: the same logits as from safetensors.

mod fixture_gguf;
mod models;

use fixture_gguf::{convert, convert_beside, convert_otherwise, convert_with};
use formats::StoredType;
use formats::gguf::Value;
use kernels as _;
use models::{ferris, fixtures, model, name, random_models};
use parity::model_gate::{
    Bounds, Feed, ORACLE, RING1_TOLERANCE, Script, Trace, compare, compare_traces, f32_acts, fit,
    load_candidate, load_oracle, ring1,
};
use parity::stats::{Tally, compare_row};
use registry::Registry;
use runtime::{LoadOptions, Opened};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn registry() -> Registry {
    Registry::collect().expect("registered kernels")
}

#[test]
fn every_random_model_matches_transformers_from_a_gguf_file() {
    let registry = registry();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut families = BTreeSet::new();
    // No GGUF file has the rotations of ParoQuant.
    let is_paro = |dir: &PathBuf| name(dir).starts_with("paro-");
    for dir in random_models().into_iter().filter(|dir| !is_paro(dir)) {
        let path = folder.path().join(format!("{}.gguf", name(&dir)));
        convert(&dir, &path, None);
        let golden = dir.join("golden.safetensors");
        let feeds = [Feed::Whole, Feed::Chunks(64)];
        for backend in [ORACLE, "cpu_simd"] {
            let report = ring1(&path, &golden, &registry, backend, &feeds)
                .unwrap_or_else(|e| panic!("{}: {e}", name(&dir)));
            println!("{:28} {:6.3} of the tolerance", name(&dir), report.worst());
            assert!(report.passed(), "{} {backend}: {report:?}", name(&dir));
            families.insert(report.family);
        }
    }
    let known = ::models::gguf_architectures().into_iter().map(|a| a.name);
    assert_eq!(families, known.collect(), "an architecture without a model");
}

/// Tensors that older files fuse or hold apart, and that newer ones may.
#[test]
fn other_layouts_are_read_as_well() {
    let registry = registry();
    let folder = tempfile::tempdir().expect("a temporary folder");
    for fixture in [
        "llama-plain-f32",
        "qwen2-untied-f32",
        "mixtral-f16",
        "qwen3_5_moe-bf16",
        "deepseek_v3-bf16",
    ] {
        let path = folder.path().join(format!("{fixture}.gguf"));
        convert_otherwise(&model(fixture), &path, None);
        let golden = model(fixture).join("golden.safetensors");
        let report = ring1(&path, &golden, &registry, ORACLE, &[Feed::Whole]);
        let report = report.unwrap_or_else(|e| panic!("{fixture}: {e}"));
        assert!(report.passed(), "{fixture}: {report:?}");
    }
    // The part of a fused block tensor that must be transposed is decoded.
    let path = folder.path().join("blocks.gguf");
    convert_otherwise(&model("deepseek_v3-bf16"), &path, Some(StoredType::Q8_0));
    let opened = Opened::open(&path).expect("a GGUF model");
    let found = opened.files.tensors.get("blk.0.attn_k_b.weight");
    assert_eq!(found.expect("made").info.stored, StoredType::F32);
}

/// Files that llama.cpp's converter wrote.
#[test]
fn files_of_another_converter_match_transformers() {
    let registry = registry();
    let mut found = 0;
    for entry in std::fs::read_dir(fixtures().join("gguf")).expect("fixtures") {
        let path = entry.expect("a readable folder").path();
        if path.extension().is_none_or(|e| e != "gguf") {
            continue;
        }
        found += 1;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let golden = model(&stem).join("golden.safetensors");
        for backend in [ORACLE, "cpu_simd"] {
            let feeds = [Feed::Whole, Feed::OneByOne];
            let report = ring1(&path, &golden, &registry, backend, &feeds);
            let report = report.unwrap_or_else(|e| panic!("{stem}: {e}"));
            assert!(report.passed(), "{stem} {backend}: {report:?}");
        }
    }
    assert!(found >= 3, "{found}");
}

/// The bar can tell: the same file read without its row order is far off.
#[test]
fn rows_left_interleaved_do_not_pass() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("m.gguf");
    let dir = model("llama-plain-f32");
    convert(&dir, &path, None);
    let golden = parity::model_gate::Golden::open(&dir.join("golden.safetensors")).expect("golden");
    let prompt = golden.prompts.last().expect("prompts");
    let mut opened = Opened::open(&path).expect("a GGUF model");
    let names: Vec<String> = opened.files.tensors.names().map(str::to_string).collect();
    for name in names {
        let tensors = &mut opened.files.tensors;
        tensors.forget(&name);
    }
    let trace = trace(&opened, &prompt.ids);
    let rows = prompt.rows.iter().enumerate();
    let worst = rows.map(|(i, position)| {
        let row = trace.find(0, *position).expect("a row");
        compare_row(prompt.row(i), row).max_abs / prompt.sigma
    });
    let worst = worst.fold(0.0, f64::max);
    assert!(worst > 100.0 * RING1_TOLERANCE, "{worst}");
}

fn trace(opened: &Opened, ids: &[u32]) -> Trace {
    let script = Script::whole(&[ids.to_vec()]);
    let mut options = LoadOptions::new(ORACLE);
    options.kv = Some("f32".into());
    options.acts = Some(f32_acts(opened));
    options.tuned = Some(registry::Tuned::default());
    fit(&mut options, [&script].into_iter());
    let loaded = opened.load(&registry(), &options, &mut |_, _| {});
    let mut runner = loaded.expect("a runner").runner;
    Trace::record(&mut runner, &script).expect("logits")
}

/// The trained model in our own blocks, on the second half of one chunk of the held-out text. The
/// bounds are twice what other encoders' files give over the whole text.
#[test]
fn quantised_files_stay_near_the_floating_point_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let plain = Opened::open(&ferris()).expect("ferris-9m");
    let text = std::fs::read_to_string(fixtures().join("eval.txt")).expect("the text");
    let tokenizer = plain.files.require_tokenizer().expect("a tokenizer");
    let mut ids = tokenizer.encode(&text[..4000], false).expect("tokens");
    ids.truncate(384);
    assert_eq!(ids.len(), 384);
    let want = trace(&plain, &ids);
    for (stored, bound) in [
        (StoredType::BF16, 1e-9),
        (StoredType::Q8_0, 0.0028),
        (StoredType::Q6_K, 0.0162),
        (StoredType::Q4_K, 0.18),
        (StoredType::Q4_0, 0.27),
    ] {
        let path = folder.path().join(format!("{stored}.gguf"));
        convert(&ferris(), &path, Some(stored));
        let have = trace(&Opened::open(&path).expect("a GGUF model"), &ids);
        let mut tally = Tally::default();
        for position in 192..ids.len() {
            let rows = (want.find(0, position), have.find(0, position));
            let (want, have) = (rows.0.expect("a row"), rows.1.expect("a row"));
            tally.push(compare_row(want, have));
        }
        let kl = tally.summary().expect("rows").mean_kl;
        println!("{stored:6} mean KL {kl:.5}");
        assert!(kl <= bound, "{stored}: {kl} > {bound}");
        // A block scheme that changes nothing was not used.
        assert!(
            stored == StoredType::BF16 || kl > bound / 50.0,
            "{stored}: {kl}"
        );
    }
}

/// Mixtures, recurrent layers and latent attention in blocks: ring 3 of the fast tree.
#[test]
fn quantised_files_of_every_kind_run_on_both_trees() {
    let registry = registry();
    let folder = tempfile::tempdir().expect("a temporary folder");
    for fixture in [
        "qwen3_5_moe-bf16",
        "mixtral-f16",
        "lfm2-bf16",
        "deepseek_v3-bf16",
        "ferris-moe-2.7m",
    ] {
        for stored in [StoredType::Q8_0, StoredType::Q4_0] {
            let path = folder.path().join(format!("{fixture}-{stored}.gguf"));
            convert(&model(fixture), &path, Some(stored));
            let opened = Opened::open(&path).expect("a GGUF model");
            let ids = some_ids(&model(fixture));
            let scripts = [
                Script::whole(std::slice::from_ref(&ids)),
                Script::chunked(&[ids[..40].to_vec()], &[1]),
            ];
            let mut options = LoadOptions::new("cpu_simd");
            // Rounded activations turn near ties of routers, which is nothing that a file does.
            options.acts = Some(f32_acts(&opened));
            let fast = load_candidate(&opened, &registry, &options, scripts.iter());
            let mut fast = fast.expect("a runner");
            let (program, acts) = (fast.program().clone(), fast.program().acts());
            let slow = load_oracle(&opened, &registry, &program, acts.clone());
            let mut slow = slow.expect("a runner");
            let mut tally = Tally::default();
            for script in &scripts {
                tally.extend(&compare(&mut slow, &mut fast, script).expect("logits"));
            }
            let own = tally.summary().expect("rows");
            println!("{fixture:18} {stored:6} {own}");
            assert!(Bounds::of(&acts).hold(&own), "{fixture} {stored}: {own}");
            // A block scheme that changes nothing was not used.
            let plain = trace(&Opened::open(&model(fixture)).expect("a fixture"), &ids);
            let cost = compare_traces(&plain, &trace(&opened, &ids));
            let cost = cost.summary().expect("rows").mean_kl;
            assert!(cost > 1e-6, "{fixture} {stored}: {cost}");
        }
    }
}

/// Text to a model that can read, any tokens to others.
fn some_ids(dir: &Path) -> Vec<u32> {
    let opened = Opened::open(dir).expect("a fixture");
    let text = std::fs::read_to_string(fixtures().join("eval.txt")).expect("the text");
    let read = |t: &formats::Tokenizer| t.encode(&text[..2000], false).expect("tokens");
    let mut ids = match opened.files.require_tokenizer() {
        Ok(tokenizer) => read(&tokenizer),
        Err(_) => (0..200).map(|i| (i * 37 + i / 7) % 256).collect(),
    };
    ids.truncate(200);
    ids
}

/// The error for `llama-plain-f32` written with other keys or fewer tensors.
#[track_caller]
fn refused(
    more: impl Fn(&mut formats::gguf::GgufKeys),
    keep: impl Fn(&str) -> bool,
    parts: &[&str],
) {
    refused_of("llama-plain-f32", more, keep, parts);
}

/// The same for another model.
#[track_caller]
fn refused_of(
    fixture: &str,
    more: impl Fn(&mut formats::gguf::GgufKeys),
    keep: impl Fn(&str) -> bool,
    parts: &[&str],
) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("m.gguf");
    convert_with(&model(fixture), &path, None, more, keep);
    error(&path, parts);
}

#[track_caller]
fn error(path: &Path, parts: &[&str]) {
    let text = match Opened::open(path) {
        Ok(_) => panic!("{} was accepted", path.display()),
        Err(e) => e.to_string(),
    };
    for part in parts {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
    assert!(text.len() < 600, "{text}");
}

#[test]
fn what_cannot_be_computed_is_refused_by_name() {
    let all = |_: &str| true;
    for (fixture, key, value, reason) in [
        (
            "qwen3-odd-f16",
            "qwen3.expert_count",
            Value::U32(8),
            "mixtures of experts",
        ),
        (
            "qwen3-odd-f16",
            "qwen3.rope.freq_base_swa",
            Value::F32(500.0),
            "rope.freq_base",
        ),
        (
            "gemma2-f16",
            "gemma2.logit_scale",
            Value::F32(2.0),
            "scaled logits",
        ),
        (
            "mixtral-f16",
            "llama.expert_gating_func",
            Value::U32(4),
            "sigmoid",
        ),
        (
            "qwen3_moe-bf16",
            "qwen3moe.expert_group_scale",
            Value::F32(0.5),
            "groups",
        ),
        (
            "olmo2-bf16",
            "olmo2.attention.sliding_window",
            Value::U32(8),
            "slide",
        ),
        (
            "lfm2-bf16",
            "lfm2.nextn_predict_layers",
            Value::U32(1),
            "further tokens",
        ),
        (
            "granite-f16",
            "granite.rope.scaling.alpha",
            Value::F32(2.0),
            "NTK",
        ),
    ] {
        let put = |k: &mut formats::gguf::GgufKeys| {
            k.put(key, value);
        };
        refused_of(fixture, put, all, &[key, reason]);
    }
    refused(
        |k| {
            k.put("llama.final_logit_softcapping", Value::F32(30.0));
        },
        all,
        &["llama.final_logit_softcapping", "30"],
    );
    refused(
        |k| {
            k.put("llama.attention.causal", Value::Bool(false));
        },
        all,
        &["llama.attention.causal", "causal"],
    );
}

#[test]
fn missing_tensors_are_refused_by_name() {
    for (fixture, tensor) in [
        ("qwen3_5_moe-bf16", "blk.0.ssm_a"),
        ("qwen3_5_moe-bf16", "blk.1.ffn_down_exps.weight"),
        ("qwen3_5_moe-bf16", "blk.1.ffn_gate_inp_shexp.weight"),
        ("gpt_oss-mxfp4", "blk.0.attn_sinks.weight"),
        ("deepseek_v3-bf16", "blk.1.attn_v_b.weight"),
        ("granite-f16", "blk.2.attn_q.weight"),
    ] {
        let none = |_: &mut formats::gguf::GgufKeys| {};
        refused_of(fixture, none, |t| t != tensor, &[tensor, "missing"]);
    }
    let none = |_: &mut formats::gguf::GgufKeys| {};
    refused(none, |t| t != "token_embd.weight", &["token_embd.weight"]);
    refused(
        none,
        |t| t != "blk.1.attn_k.weight",
        &["blk.1.attn_k.weight", "missing"],
    );
    refused(
        none,
        |t| !t.starts_with("blk.1.") || t == "blk.1.ffn_up.weight",
        &["blk.1.attn_norm.weight", "more"],
    );
}

#[test]
fn tensors_that_would_change_the_logits_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("m.gguf");
    for (fixture, tensor) in [
        ("llama-plain-f32", "blk.0.attn_sinks.weight"),
        ("qwen3_moe-bf16", "blk.0.ffn_up_shexp.weight"),
        ("qwen3_5-f16", "blk.3.attn_norm.weight"),
        ("glm4-bf16", "blk.1.post_norm.weight"),
        ("gemma2-f16", "output_norm.bias"),
    ] {
        convert_beside(&model(fixture), &path, tensor);
        error(&path, &[tensor, "no such tensor"]);
    }
    for tensor in ["blk.0.attn_rot_embd.weight", "cls.output.weight"] {
        convert_beside(&model("llama-plain-f32"), &path, tensor);
        assert!(Opened::open(&path).is_ok(), "{tensor}");
    }
}

#[test]
fn architectures_and_keys_are_checked() {
    use formats::gguf::{GgufKeys, write_gguf};
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("m.gguf");
    let write = |keys: &GgufKeys| {
        let tensor = (
            "token_embd.weight",
            StoredType::F32,
            &[1, 1][..],
            &[0; 4][..],
        );
        write_gguf(&path, keys, &[tensor]).expect("a file");
    };
    write(&GgufKeys::new());
    error(&path, &["general.architecture", "m.gguf"]);
    write(GgufKeys::new().put_str("general.architecture", "mamba"));
    error(&path, &["mamba", "llama, olmo2, phi3"]);
    let mut keys = GgufKeys::new();
    keys.put_str("general.architecture", "qwen3");
    write(&keys);
    error(&path, &["qwen3.block_count", "m.gguf"]);
    keys.put("qwen3.block_count", Value::U32(0));
    write(&keys);
    error(&path, &["qwen3.block_count", "from 1 to"]);
}
