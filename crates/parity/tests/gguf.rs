//! GGUF files of the fixture models: the same logits as from safetensors.

mod fixture_gguf;
mod models;

use fixture_gguf::{convert, convert_with};
use formats::StoredType;
use formats::gguf::Value;
use kernels as _;
use models::{ferris, fixtures, model, name, random_models_of};
use parity::model_gate::{Feed, ORACLE, RING1_TOLERANCE, Script, Trace, f32_acts, fit, ring1};
use parity::stats::{Tally, compare_row};
use registry::Registry;
use runtime::{LoadOptions, Opened};
use std::collections::BTreeSet;
use std::path::Path;

fn registry() -> Registry {
    Registry::collect().expect("registered kernels")
}

#[test]
fn every_random_model_matches_transformers_from_a_gguf_file() {
    let registry = registry();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut families = BTreeSet::new();
    for dir in random_models_of(&["llama", "mistral", "qwen2", "qwen3"]) {
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
    assert_eq!(
        families.into_iter().collect::<Vec<_>>(),
        ["llama", "qwen2", "qwen3"]
    );
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

/// The error for `llama-plain-f32` written with other keys or fewer tensors.
#[track_caller]
fn refused(
    more: impl Fn(&mut formats::gguf::GgufKeys),
    keep: impl Fn(&str) -> bool,
    parts: &[&str],
) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("m.gguf");
    convert_with(&model("llama-plain-f32"), &path, None, more, keep);
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
    let number = Value::U32(8);
    refused(
        |k| {
            k.put("llama.expert_count", number);
        },
        all,
        &["llama.expert_count", "8", "mixtures of experts"],
    );
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
    error(&path, &["mamba", "llama, qwen2, qwen3"]);
    let mut keys = GgufKeys::new();
    keys.put_str("general.architecture", "qwen3");
    write(&keys);
    error(&path, &["qwen3.block_count", "m.gguf"]);
    keys.put("qwen3.block_count", Value::U32(0));
    write(&keys);
    error(&path, &["qwen3.block_count", "from 1 to"]);
}
