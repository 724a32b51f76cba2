//! A kernel's path says its layer: `kernels/<backend>/<layer folder>/<name>.rs`.

use graph::OpKind;
use std::collections::BTreeSet;
use std::path::Path;

/// One registration: backend, layer folder, and the file it stands in.
pub struct Registered {
    pub backend: String,
    pub folder: String,
    pub file: String,
}

/// Folders of a tree that hold no layer.
const OTHER: &[&str] = &["common", "tests", "benches", "examples", "prebuilt"];

/// The last four parts of a path, with forward slashes.
fn tail(file: &str) -> String {
    let file = file.replace('\\', "/");
    let parts: Vec<&str> = file.split('/').collect();
    parts[parts.len().saturating_sub(4)..].join("/")
}

/// Registrations outside of their layer's folder.
pub fn misplaced(all: &[Registered]) -> Vec<String> {
    all.iter()
        .filter(|r| {
            let file = tail(&r.file);
            let folder = file.rsplit_once('/').map(|(folder, _)| folder);
            folder != Some(format!("kernels/{}/{}", r.backend, r.folder).as_str())
        })
        .map(|r| {
            format!(
                "{}: registers a kernel that belongs in kernels/{}/{}/",
                r.file, r.backend, r.folder
            )
        })
        .collect()
}

/// Source files of layer folders that registered nothing, and folders that are
/// named after no layer. `kernels` is the folder that holds the trees.
pub fn silent(kernels: &Path, all: &[Registered]) -> Vec<String> {
    let heard: BTreeSet<String> = all.iter().map(|r| tail(&r.file)).collect();
    let is_layer = |folder: &str| {
        folder
            .split("__")
            .all(|op| OpKind::ALL.iter().any(|k| k.name() == op))
    };
    let mut found = Vec::new();
    for tree in folders(kernels) {
        let path = kernels.join(&tree);
        if !path.join("Cargo.toml").exists() {
            continue;
        }
        for folder in folders(&path) {
            if OTHER.contains(&folder.as_str()) {
                continue;
            }
            if !is_layer(&folder) {
                found.push(format!("kernels/{tree}/{folder}: is named after no layer"));
                continue;
            }
            for file in super::files(&path.join(&folder), ".rs") {
                let file = tail(&file.to_string_lossy());
                if !heard.contains(&file) {
                    found.push(format!("{file}: registered nothing"));
                }
            }
        }
    }
    found
}

fn folders(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|e| e.path().is_dir())
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
