//! What is committed as prebuilt was built from what is committed as source.

use std::fs;
use std::path::Path;
use xtask::{cuda, prebuilt, vulkan};

#[test]
fn vulkan_objects_match_their_sources() {
    let stale = vulkan::stale(&vulkan::tree()).expect("a manifest");
    assert!(
        stale.is_empty(),
        "stale: {stale:#?}; rebuild with `cargo xtask prebuild vulkan`"
    );
}

#[test]
fn cuda_objects_match_their_sources() {
    for tree in cuda::trees() {
        let stale = cuda::stale(&tree.folder).expect("a manifest");
        assert!(
            stale.is_empty(),
            "stale: {stale:#?}; rebuild with `cargo xtask prebuild cuda`"
        );
    }
}

/// Drivers from 530 on read this version; a newer compiler would shut them out.
#[test]
fn cuda_objects_are_for_the_least_driver() {
    for (tree, target) in cuda::trees().iter().zip(["sm_86", "sm_90a"]) {
        let manifest = prebuilt::read_manifest(&tree.folder).expect("a manifest");
        assert!(!manifest.objects.is_empty());
        for name in manifest.objects.keys() {
            let path = tree.folder.join("prebuilt").join(name);
            let text = fs::read_to_string(path).expect("PTX");
            assert!(text.contains("\n.version 8.1\n"), "{name}");
            assert!(text.contains(&format!("\n.target {target}\n")), "{name}");
        }
    }
}

/// A tree of two shaders, one of which includes a file, with its manifest.
fn small_tree(at: &Path) {
    for folder in ["add", "common", "prebuilt"] {
        fs::create_dir_all(at.join(folder)).expect("a folder");
    }
    let put = |file: &str, text: &str| fs::write(at.join(file), text).expect("a file");
    put("common/base.glsl", "const uint N = 1;\n");
    put(
        "add/plain.comp",
        "#version 460\n#include \"../common/base.glsl\"\nvoid main() {}\n",
    );
    put("add/other.comp", "#version 460\nvoid main() {}\n");
    put("prebuilt/add.plain.spv", "object 1");
    put("prebuilt/add.other.spv", "object 2");
    let mut manifest = prebuilt::Manifest {
        compiler: "none".into(),
        flags: Vec::new(),
        objects: Default::default(),
    };
    for source in prebuilt::sources(at, "comp").expect("sources") {
        let name = vulkan::object_name(&source);
        let object = prebuilt::Object {
            sources: prebuilt::expand(at, &source).expect("text").sources,
            sha256: prebuilt::sha256(&fs::read(at.join("prebuilt").join(&name)).expect("bytes")),
            source,
        };
        manifest.objects.insert(name, object);
    }
    put(
        "prebuilt/manifest.json",
        &serde_json::to_string(&manifest).expect("json"),
    );
}

#[test]
fn every_way_to_be_stale_is_named() {
    let folder = std::env::temp_dir().join(format!("xtask-prebuilt-{}", std::process::id()));
    let stale = || vulkan::stale(&folder).expect("a manifest");
    type Change = fn(&Path);
    let cases: [(&[&str], Change); 5] = [
        (&[], |_| ()),
        (&["add.plain.spv", "common/base.glsl"], |t| {
            fs::write(t.join("common/base.glsl"), "const uint N = 2;\n").expect("a file");
        }),
        (&["add.other.spv", "not the object"], |t| {
            fs::write(t.join("prebuilt/add.other.spv"), "object 3").expect("a file");
        }),
        (&["add.third.spv", "not in the manifest"], |t| {
            fs::write(t.join("add/third.comp"), "#version 460\n").expect("a file");
        }),
        (&["add.other.spv", "source is gone"], |t| {
            fs::remove_file(t.join("add/other.comp")).expect("a file");
        }),
    ];
    for (want, change) in cases {
        let _ = fs::remove_dir_all(&folder);
        small_tree(&folder);
        change(&folder);
        let found = stale().join("; ");
        assert_eq!(found.is_empty(), want.is_empty(), "{found}");
        for w in want {
            assert!(found.contains(w), "{w} is not in: {found}");
        }
    }
    let _ = fs::remove_dir_all(&folder);
}

#[test]
fn includes_are_written_in_once_and_stay_in_the_tree() {
    let folder = std::env::temp_dir().join(format!("xtask-include-{}", std::process::id()));
    small_tree(&folder);
    let text = prebuilt::expand(&folder, "add/plain.comp")
        .expect("text")
        .text;
    assert!(text.starts_with("#version 460\n#line 1\nconst uint N = 1;\n#line 3\nvoid main"));
    fs::write(folder.join("add/plain.comp"), "#include \"../../x\"\n").expect("a file");
    let refused = prebuilt::expand(&folder, "add/plain.comp")
        .err()
        .expect("an error");
    assert!(
        refused.to_string().contains("leaves the kernel tree"),
        "{refused}"
    );
    // A parent's sources may be included; this one has none there.
    let parent = "#include \"../../cuda_sm86/no-such-folder/x.cuh\"\n";
    fs::write(folder.join("add/plain.comp"), parent).expect("a file");
    let missing = prebuilt::expand(&folder, "add/plain.comp")
        .err()
        .expect("an error")
        .to_string();
    assert!(
        missing.contains("cannot read the kernel source ../cuda_sm86/no-such-folder/x.cuh"),
        "{missing}"
    );
    let _ = fs::remove_dir_all(&folder);
}
