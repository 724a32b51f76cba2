//! The invariants of the house as functions from sources to violations, so that
//! each can be shown a planted one.

pub mod folders;
pub mod naming;
pub mod peers;
pub mod tokens;

use std::path::{Path, PathBuf};

/// Every file below `dir` whose name ends so, in name order.
pub fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(dir) else {
        return found;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}
