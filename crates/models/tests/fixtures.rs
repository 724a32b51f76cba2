//! The models in fixtures/: each configuration loads and its weights are the ones it names.

mod common;

use formats::{Description, ModelFiles};
use std::collections::BTreeMap;
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

#[test]
fn every_fixture_loads_and_has_its_tensors() {
    let mut families: BTreeMap<&str, usize> = BTreeMap::new();
    for folder in folders() {
        let name = folder.display();
        let mut files = ModelFiles::open(&folder).unwrap();
        assert!(matches!(files.description, Description::Config { .. }));
        let model = models::read(&mut files).unwrap_or_else(|e| panic!("{name}: {e}"));
        *families.entry(model.family).or_default() += 1;
        let report = model.check_tensors(&files.tensors).unwrap();
        // Old files carry frequencies that are computed from the configuration instead.
        assert!(
            report
                .unused
                .iter()
                .all(|n| n.ends_with("rotary_emb.inv_freq")),
            "{name}: {:?}",
            report.unused
        );
        // Two bytes of mxfp4 nibbles stand for four elements, and a scale for none.
        let stored: usize = files
            .tensors
            .stored()
            .filter(|t| !report.unused.contains(&t.info.name))
            .map(|t| match t.info.name.as_str() {
                blocks if blocks.ends_with("_blocks") => 2 * t.info.elements(),
                scales if scales.ends_with("_scales") => 0,
                _ => t.info.elements(),
            })
            .sum();
        assert_eq!(model.parameters, stored as u64, "{name}");
    }
    for family in common::FAMILIES {
        assert!(families.get(family).is_some_and(|n| *n >= 3), "{family}");
    }
    for family in common::ALL {
        assert!(families.contains_key(family), "{family}");
    }
}
