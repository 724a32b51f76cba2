//! Tokenizer files on which the library panics: each is an error here.

use formats::Tokenizer;
use serde_json::{Value, json};
use std::path::Path;

fn with(part: &str, value: Value) -> Result<Vec<u32>, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/ferris-9m");
    let text = std::fs::read_to_string(source.join("tokenizer.json")).unwrap();
    let mut file: Value = serde_json::from_str(&text).unwrap();
    file[part] = value;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), file.to_string()).unwrap();
    let tokenizer = Tokenizer::from_dir(dir.path()).map_err(|e| e.to_string())?;
    let ids = tokenizer.encode("let x = 1;", true);
    ids.map_err(|e| e.to_string())
}

#[test]
fn the_unchanged_file_works() {
    assert!(!with("truncation", Value::Null).unwrap().is_empty());
}

#[test]
fn panics_of_the_library_are_errors() {
    let cases = [
        (
            "normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        ),
        (
            "normalizer",
            json!({"type": "Replace", "pattern": {"String": ""}, "content": "x"}),
        ),
        ("pre_tokenizer", json!({"type": "FixedLength", "length": 0})),
        (
            "post_processor",
            json!({
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "[X]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {}
            }),
        ),
    ];
    for (part, value) in cases {
        let error = with(part, value.clone()).expect_err(&format!("{value} was accepted"));
        assert!(error.contains("tokenizer.json"), "{error}");
        assert!(error.lines().count() <= 3, "{error}");
    }
}
