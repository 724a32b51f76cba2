//! The models in fixtures/: each configuration loads and its weights are the ones it names.

mod common;

use formats::HfDir;
use models::Model;
use std::path::{Path, PathBuf};

fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models");
    let mut found: Vec<_> = std::fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("config.json").exists())
        .collect();
    found.sort();
    found
}

fn open(folder: &Path) -> (Model, HfDir) {
    let dir = HfDir::open(folder).unwrap();
    let model =
        models::load(&dir.view().unwrap()).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    (model, dir)
}

#[test]
fn every_fixture_loads_and_has_its_tensors() {
    let folders = folders();
    assert!(folders.len() >= 13, "{folders:?}");
    for family in common::FAMILIES {
        let of_family = |p: &&PathBuf| p.file_name().unwrap().to_string_lossy().starts_with(family);
        assert!(folders.iter().filter(of_family).count() >= 3, "{family}");
    }
    for folder in folders {
        let (model, dir) = open(&folder);
        let report = model
            .check_tensors(&dir.tensors)
            .unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        // Old files carry frequencies that are computed from the configuration instead.
        assert!(
            report
                .unused
                .iter()
                .all(|n| n.ends_with("rotary_emb.inv_freq")),
            "{}: {:?}",
            folder.display(),
            report.unused
        );
        let stored: usize = dir
            .tensors
            .iter()
            .filter(|t| !report.unused.contains(&t.info.name))
            .map(|t| t.info.elements())
            .sum();
        assert_eq!(model.parameters, stored as u64, "{}", folder.display());
    }
}
