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

/// How many weights one element of a stored tensor stands for: two nibbles of mxfp4 share a byte,
/// eight of a ParoQuant matrix a word, and what goes with them are no weights.
fn weights_in(name: &str) -> usize {
    const BESIDE: [&str; 5] = ["scales", "qzeros", "theta", "pairs", "channel_scales"];
    let last = |end: &&str| {
        let before = name.strip_suffix(*end);
        before.is_some_and(|b| b.ends_with(['.', '_']))
    };
    match name {
        _ if name.ends_with("_blocks") => 2,
        _ if name.ends_with(".qweight") => 8,
        _ if BESIDE.iter().any(last) => 0,
        _ => 1,
    }
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
        let used = files
            .tensors
            .stored()
            .filter(|t| !report.unused.contains(&t.info.name));
        let stored: usize = used
            .map(|t| t.info.elements() * weights_in(&t.info.name))
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
