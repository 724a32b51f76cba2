//! Configurations and model folders: every field that cannot be used is named.

use std::path::{Path, PathBuf};

use formats::{ConfigView, Error, HfDir, StoredType, resolve_model_dir, write_safetensors};
use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/ferris-9m")
}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let weights = dir.path().join("model.safetensors");
    write_safetensors(&weights, &[("w", StoredType::U8, &[1], &[1])]).unwrap();
    dir
}

fn open_error(files: &[(&str, &str)]) -> String {
    let text = HfDir::open(folder(files).path()).unwrap_err().to_string();
    assert!(text.lines().count() <= 3, "{text}");
    text
}

#[test]
fn the_demonstration_model_opens() {
    let model = HfDir::open(&fixture()).unwrap();
    let view = model.view().unwrap();
    assert_eq!(view.str("model_type").unwrap(), "qwen3");
    assert_eq!(view.layers("num_hidden_layers").unwrap(), 8);
    assert_eq!(view.positive_f64("rms_norm_eps").unwrap(), 1e-6);
    let rope = view.object("rope_parameters").unwrap();
    assert_eq!(rope.positive_f64("rope_theta").unwrap(), 1e5);
    assert_eq!(view.opt_usize("sliding_window").unwrap(), None);
    assert_eq!(view.opt_strs("layer_types").unwrap().unwrap().len(), 8);
    let embed = model.tensors.get("model.embed_tokens.weight").unwrap();
    assert_eq!(embed.info.shape, [8192, 256]);
    assert_eq!(embed.info.stored, StoredType::BF16);
    let generation = &model.generation;
    assert_eq!(generation.eos_token_ids, [2, 0]);
    assert_eq!(generation.temperature, Some(0.7));
    assert_eq!(generation.top_p, Some(0.9));
    assert_eq!(generation.repetition_penalty, Some(1.05));
    assert_eq!(generation.do_sample, None);
    let by_file = HfDir::open(&fixture().join("config.json")).unwrap();
    assert_eq!(by_file.path, fixture());
}

#[test]
fn view_checks_types_and_ranges() {
    let value = json!({
        "good": 7, "zero": 0, "negative": -3, "huge": 1u64 << 40, "float": 7.0, "half": 0.5,
        "text": "x", "null": null, "on": true, "list": [1, 2], "strings": ["a"],
        "nested": {"theta": 0, "inner": {"n": "x"}}, "big": 1e308,
    });
    let file = Path::new("some/config.json");
    let view = ConfigView::new(&value, file).unwrap();
    assert_eq!(view.usize("good").unwrap(), 7);
    for field in [
        "zero", "negative", "huge", "float", "half", "text", "on", "list", "nested",
    ] {
        let error = view.usize(field).unwrap_err().to_string();
        for part in [
            "some/config.json",
            field,
            "wanted an integer from 1 to 16777216",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }
    assert!(
        view.usize("huge")
            .unwrap_err()
            .to_string()
            .contains("1099511627776")
    );
    assert!(matches!(
        view.usize("absent").unwrap_err(),
        Error::FieldMissing { .. }
    ));
    assert!(matches!(
        view.usize("null").unwrap_err(),
        Error::FieldMissing { .. }
    ));
    assert_eq!(view.opt_usize("null").unwrap(), None);
    assert!(view.opt_usize("zero").is_err());
    assert_eq!(view.usize_in("zero", 0..=1).unwrap(), 0);
    assert_eq!(view.f64("good").unwrap(), 7.0);
    assert!(view.positive_f64("zero").is_err() && view.positive_f64("negative").is_err());
    assert_eq!(view.positive_f64("big").unwrap(), 1e308);
    assert!(view.bool("on").unwrap() && view.bool("good").is_err());
    assert!(view.str("good").is_err() && view.object("good").is_err());
    assert_eq!(view.opt_usizes_in("list", 0..=9).unwrap().unwrap(), [1, 2]);
    assert_eq!(view.opt_usizes_in("good", 0..=9).unwrap().unwrap(), [7]);
    assert!(view.opt_usizes_in("list", 0..=1).is_err() && view.opt_strs("list").is_err());
    let nested = view.object("nested").unwrap();
    let error = nested.positive_f64("theta").unwrap_err().to_string();
    assert!(error.contains("`nested.theta` is 0"), "{error}");
    let error = nested
        .object("inner")
        .unwrap()
        .usize("n")
        .unwrap_err()
        .to_string();
    assert!(error.contains("`nested.inner.n` is \"x\""), "{error}");
}

#[test]
fn python_literals_are_named() {
    for (text, wanted) in [
        ("{\"rms_norm_eps\": NaN}", "field `rms_norm_eps` is NaN"),
        (
            "{\"a\": 1,\n \"rope_theta\" :\n Infinity}",
            "field `rope_theta` is Infinity",
        ),
        ("{\"x\": -Infinity, \"b\": 2}", "field `x` is -Infinity"),
        ("{\"x\": [0.0, NaN]}", "line 1 has NaN"),
    ] {
        let error = open_error(&[("config.json", text)]);
        assert!(error.contains(wanted), "{error}");
        assert!(error.contains("not JSON"), "{error}");
    }
    let error = open_error(&[("config.json", "{\"a\": 1e999}")]);
    assert!(error.contains("out of range"), "{error}");
}

#[test]
fn damaged_configurations() {
    for text in ["", "{", "nothing", "{\"a\":}", "\u{0}"] {
        let error = open_error(&[("config.json", text)]);
        assert!(error.contains("config.json is not valid"), "{error}");
    }
    let error = open_error(&[("config.json", "[1]")]);
    assert!(error.contains("wanted an object"), "{error}");
    let error = open_error(&[]);
    assert!(error.contains("model configuration not found"), "{error}");
    let dir = folder(&[("config.json", "{")]);
    let config = std::fs::File::options()
        .write(true)
        .open(dir.path().join("config.json"));
    config.unwrap().set_len((16 << 20) + 1).unwrap();
    let error = HfDir::open(dir.path()).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}

#[test]
fn generation_defaults_are_checked() {
    for (text, field) in [
        (r#"{"temperature": -1}"#, "temperature"),
        (r#"{"temperature": NaN}"#, "temperature"),
        (r#"{"top_k": -2}"#, "top_k"),
        (r#"{"top_k": 1.5}"#, "top_k"),
        (r#"{"top_p": 1.01}"#, "top_p"),
        (r#"{"min_p": -0.1}"#, "min_p"),
        (r#"{"repetition_penalty": 0}"#, "repetition_penalty"),
        (r#"{"do_sample": "yes"}"#, "do_sample"),
        (r#"{"eos_token_id": "</s>"}"#, "eos_token_id"),
        (r#"{"eos_token_id": [1, -2]}"#, "eos_token_id"),
        (r#"{"eos_token_id": 4294967296}"#, "eos_token_id"),
    ] {
        let error = open_error(&[("config.json", "{}"), ("generation_config.json", text)]);
        assert!(error.contains(&format!("`{field}`")), "{error}");
        assert!(error.contains("generation_config.json"), "{error}");
    }
}

#[test]
fn customary_ways_to_say_none() {
    let text = r#"{"top_k": -1, "bos_token_id": -1, "pad_token_id": -1}"#;
    let dir = folder(&[("config.json", "{}"), ("generation_config.json", text)]);
    let found = HfDir::open(dir.path()).unwrap().generation;
    assert_eq!(found.top_k, Some(0));
    assert_eq!((found.bos_token_id, found.pad_token_id), (None, None));
}

#[test]
fn end_tokens_come_from_either_file() {
    let eos = |files: &[(&str, &str)]| {
        HfDir::open(folder(files).path())
            .unwrap()
            .generation
            .eos_token_ids
    };
    let config = ("config.json", r#"{"eos_token_id": 5}"#);
    assert_eq!(eos(&[config]), [5]);
    assert_eq!(
        eos(&[config, ("generation_config.json", r#"{"top_k": 1}"#)]),
        [5]
    );
    assert_eq!(
        eos(&[
            config,
            ("generation_config.json", r#"{"eos_token_id": [7, 8]}"#)
        ]),
        [7, 8]
    );
    assert_eq!(
        eos(&[(
            "config.json",
            r#"{"text_config": {"eos_token_id": [1, 2]}}"#
        )]),
        [1, 2]
    );
    assert_eq!(eos(&[("config.json", "{}")]), [] as [u32; 0]);
}

#[test]
fn paths_that_are_not_models() {
    let error = HfDir::open(Path::new("some-owner/some-model"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("some-owner/some-model") && error.contains("Hub"),
        "{error}"
    );
    let error = HfDir::open(Path::new("./no/such/folder"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no/such/folder") && !error.contains("Hub"),
        "{error}"
    );
    let dir = folder(&[("model.gguf", "GGUF")]);
    let error = HfDir::open(&dir.path().join("model.gguf"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("GGUF"), "{error}");
    let file = dir.path().join("model.safetensors");
    assert_eq!(resolve_model_dir(&file).unwrap(), dir.path());
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|v| json!(v)),
        any::<i64>().prop_map(|v| json!(v)),
        any::<u64>().prop_map(|v| json!(v)),
        any::<f64>().prop_map(|v| json!(v)),
        ".{0,20}".prop_map(|v| json!(v)),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(|v| json!(v)),
            proptest::collection::btree_map(".{0,4}", inner, 0..4).prop_map(|v| json!(v)),
        ]
    })
}

/// The same cases on every run; a regression is a case of its own, not a file.
fn fixed_seed() -> ProptestConfig {
    ProptestConfig {
        cases: 512,
        rng_seed: proptest::test_runner::RngSeed::Fixed(20),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(fixed_seed())]

    #[test]
    fn view_never_panics_and_keeps_its_promises(value in any_json(), outer in any_json()) {
        let file = Path::new("config.json");
        if let Err(e) = ConfigView::new(&outer, file) {
            prop_assert!(e.to_string().len() < 400);
        }
        let object = json!({ "x": value });
        let view = ConfigView::new(&object, file).unwrap();
        let outcomes = [
            view.usize("x").map(|n| assert!((1..=1 << 24).contains(&n))).err(),
            view.layers("x").map(|n| assert!((1..=4096).contains(&n))).err(),
            view.f64("x").map(|n| assert!(n.is_finite())).err(),
            view.positive_f64("x").map(|n| assert!(n.is_finite() && n > 0.0)).err(),
            view.bool("x").map(drop).err(),
            view.str("x").map(drop).err(),
            view.object("x").map(drop).err(),
            view.opt_strs("x").map(drop).err(),
            view.opt_f64s("x").map(drop).err(),
            view.opt_usizes_in("x", 0..=9).map(drop).err(),
        ];
        for error in outcomes.into_iter().flatten() {
            let text = error.to_string();
            prop_assert!(text.contains("`x`") && text.len() < 400, "{}", text);
        }
    }

    #[test]
    fn damaged_files_never_panic(
        at in any::<prop::sample::Index>(),
        with in "[NaInfty\\-\"{}\\[\\]:,0-9e.]{0,9}",
        cut in any::<prop::sample::Index>(),
    ) {
        let good = std::fs::read(fixture().join("config.json")).unwrap();
        let mut text = good.clone();
        let at = at.index(good.len());
        text.splice(at..(at + with.len()).min(good.len()), with.bytes());
        text.truncate(cut.index(text.len() * 4).max(1));
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("config.json"), &text).unwrap();
        if let Err(e) = formats::hf::read_config(dir.path()) {
            prop_assert!(e.to_string().contains("config.json"));
        }
    }
}
