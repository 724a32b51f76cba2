//! Where the fixture models lie.

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::path::{Path, PathBuf};

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

pub fn ferris() -> PathBuf {
    fixtures().join("models/ferris-9m")
}

pub fn model(name: &str) -> PathBuf {
    fixtures().join("models").join(name)
}

/// The random models: every folder that holds golden logits, in name order.
pub fn random_models() -> Vec<PathBuf> {
    let dir = fixtures().join("models");
    let mut found: Vec<PathBuf> = std::fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.join("golden.safetensors").exists())
        .collect();
    found.sort();
    found
}

/// Those of the families whose names start so.
pub fn random_models_of(families: &[&str]) -> Vec<PathBuf> {
    let mut found = random_models();
    found.retain(|dir| {
        families
            .iter()
            .any(|f| name(dir).starts_with(&format!("{f}-")))
    });
    found
}

pub fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
