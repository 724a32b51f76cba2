//! The house's invariants, read from its own sources, and for each a planted
//! violation that must be found.

mod rules;

use kernels as _;
use registry::patterns::{ADD_NORM, ALL};
use registry::{Pattern, Registry, SchemeDesc};
use rules::folders::{self, Registered};
use rules::naming;
use rules::peers::{self, Manifest};
use std::path::{Path, PathBuf};

/// Crates that may not name a backend or a quant; those not there yet are
/// skipped.
const NEUTRAL: &[&str] = &["models", "planner", "runtime", "sampling", "server"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn registered(registry: &Registry) -> Vec<Registered> {
    let entries = registry.entries();
    entries
        .map(|e| Registered {
            backend: e.key.backend.into(),
            folder: e.key.layer.folder(),
            file: e.file.into(),
        })
        .collect()
}

fn none(found: Vec<String>) {
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn keys_are_registered_once() {
    let registry = Registry::collect().expect("no duplicates");
    assert!(registry.entries().count() > 0, "the facade links no tree");
}

#[test]
fn a_duplicate_key_is_an_error_that_names_both_files() {
    use registry::Registration;
    let once: Vec<_> = registry::inventory::iter::<Registration>().collect();
    let again = Registration {
        kernel: once[0].kernel,
        file: "kernels/elsewhere/add/again.rs",
    };
    let error = match Registry::from_registrations(once.iter().copied().chain([&again])) {
        Ok(_) => panic!("the duplicate went unnoticed"),
        Err(e) => e.to_string(),
    };
    assert!(
        error.contains(again.file) && error.contains(once[0].file),
        "{error}"
    );
}

#[test]
fn registrations_lie_in_their_layers_folder() {
    let registry = Registry::collect().expect("no duplicates");
    none(folders::misplaced(&registered(&registry)));
}

#[test]
fn every_file_of_a_layer_folder_registers_a_kernel() {
    let registry = Registry::collect().expect("no duplicates");
    let kernels = root().join("kernels");
    assert!(kernels.is_dir(), "no trees at {}", kernels.display());
    none(folders::silent(&kernels, &registered(&registry)));
}

#[test]
fn misplaced_and_silent_files_are_found() {
    let of = |backend: &str, folder: &str, file: &str| Registered {
        backend: backend.into(),
        folder: folder.into(),
        file: file.into(),
    };
    let all = [
        of("one", "add", "kernels/one/add/plain.rs"),
        of("one", "add__rms_norm", "kernels/one/add__rms_norm/fused.rs"),
        of("one", "rope", "kernels/one/add/rope.rs"),
        of("one", "linear", "kernels/one/common/linear.rs"),
        of("two", "add", "kernels/one/add/other.rs"),
    ];
    let found = folders::misplaced(&all);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].contains("kernels/one/add/rope.rs"), "{found:?}");

    let dir = tempfile::tempdir().expect("a temporary folder");
    let kernels = dir.path().join("kernels");
    let write = |path: &str| {
        let path = kernels.join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, "").expect("a file");
    };
    write("one/Cargo.toml");
    write("one/lib.rs");
    write("one/common/helper.rs");
    write("one/add/plain.rs");
    write("one/add/forgotten.rs");
    write("one/add__rms_norm/fused.rs");
    write("one/misc/helper.rs");
    let found = folders::silent(&kernels, &all);
    assert_eq!(
        found,
        [
            "kernels/one/add/forgotten.rs: registered nothing",
            "kernels/one/misc: is named after no layer"
        ]
    );
}

/// Composites that the catalogue does not have, with the files that register them.
fn strays<'r>(all: impl IntoIterator<Item = (&'r str, &'r Pattern)>) -> Vec<String> {
    let known = |pattern: &Pattern| ALL.iter().any(|(_, entry)| *entry == pattern);
    all.into_iter()
        .filter(|(_, pattern)| pattern.is_composite() && !known(pattern))
        .map(|(file, pattern)| format!("{file}: {} is not in registry::patterns", pattern.layer()))
        .collect()
}

#[test]
fn composites_are_from_the_catalogue() {
    let registry = Registry::collect().expect("no duplicates");
    let entries = registry.entries();
    none(strays(entries.map(|e| (e.file, e.kernel.spec().pattern))));

    let leaky = Pattern {
        ops: ADD_NORM.ops,
        outputs: &[1],
    };
    let planted = [
        ("kernels/one/add/plain.rs", &Pattern::ADD),
        ("kernels/one/add__rms_norm/fused.rs", &ADD_NORM),
        ("kernels/two/add__rms_norm/fused.rs", &leaky),
    ];
    assert_eq!(
        strays(planted),
        ["kernels/two/add__rms_norm/fused.rs: add+rms_norm is not in registry::patterns"]
    );
}

#[test]
fn neutral_crates_name_no_backend_and_no_quant() {
    let registry = Registry::collect().expect("no duplicates");
    let backends: Vec<&str> = registry.backends().iter().map(|b| b.name).collect();
    let schemes = registry::inventory::iter::<SchemeDesc>().map(|d| d.name);
    let schemes: Vec<&str> = schemes.collect();
    let mut found = Vec::new();
    let mut read = 0;
    for name in NEUTRAL {
        let src = root().join("crates").join(name).join("src");
        for path in rules::files(&src, ".rs") {
            let inside = path.strip_prefix(&src).expect("below src");
            let tests = inside.iter().any(|p| p == "tests" || p == "tests.rs");
            if tests {
                continue;
            }
            let source = std::fs::read_to_string(&path).expect("a source file");
            let file = format!("crates/{name}/src/{}", inside.display());
            found.extend(naming::check(&file, &source, &backends, &schemes));
            read += 1;
        }
    }
    assert!(read > 10, "only {read} files were read");
    none(found);
}

#[test]
fn named_backends_and_quants_are_found() {
    let source = r##"
//! Speaks of cpu_simd and bf16, which comments may.
/* cpu_simd /* nested */ "bf16" */
fn bad(s: Scheme, name: &str) -> bool {
    if name == "cpu_simd" { return true; }      // 5
    let text = r#"use the "vulkan" tree"#;      // 6
    match name { "bf16" => true, _ => false };  // 7
    if s == Scheme::BF16 { return true; }       // 8
    match s {
        Scheme::F16 | Scheme::BF16 => 1,        // 10, twice
        registry::Scheme::F32 if deep => 2,     // 11
        _ => 3,
    };
    matches!(s, Scheme::F16);                   // 14
    if let Some(Scheme::F16) = other {}         // 15
    cpu_simd::open();                           // 16
    let 'c' = '"'; let fine = "a bf16 weight and a cpu_simdx";
    let allowed = Operand { scheme: Scheme::F32, shape };
    f(Scheme::F32, |x| x);
}
#[cfg(test)]
mod tests {
    fn t() { assert_eq!(name, "cpu_simd"); }
}
fn after() { "vulkan" }                         // 25
"##;
    let found = naming::check(
        "x.rs",
        source,
        &["cpu_simd", "vulkan"],
        &["bf16", "f16", "f32"],
    );
    let lines: Vec<&str> = found
        .iter()
        .map(|f| f.split(':').nth(1).expect("a line"))
        .collect();
    let expected = ["5", "6", "7", "8", "10", "10", "11", "14", "15", "16", "25"];
    assert_eq!(lines, expected, "{found:#?}");
}

fn manifest(tree: &str, toml: &str) -> Manifest {
    Manifest {
        tree: tree.into(),
        toml: toml.into(),
        parent: None,
    }
}

/// Crates that may link the trees.
const LINKERS: &[&str] = &["bench-run", "engine", "parity"];

#[test]
fn only_binaries_and_gates_link_the_trees() {
    let folder = |name: &str| {
        let entries = std::fs::read_dir(root().join(name)).expect("a folder");
        let mut found: Vec<Manifest> = entries
            .flatten()
            .filter_map(|e| {
                let toml = std::fs::read_to_string(e.path().join("Cargo.toml")).ok()?;
                Some(manifest(&e.file_name().to_string_lossy(), &toml))
            })
            .collect();
        found.sort_by(|a, b| a.tree.cmp(&b.tree));
        found
    };
    let trees: Vec<String> = folder("kernels").into_iter().map(|m| m.tree).collect();
    let trees: Vec<&str> = trees.iter().map(String::as_str).collect();
    let mut lower = folder("crates");
    let all = lower.len();
    lower.retain(|m| !LINKERS.contains(&m.tree.as_str()));
    assert_eq!(all - lower.len(), LINKERS.len(), "a linker is gone");
    let registry = std::fs::read_to_string(root().join("registry/Cargo.toml"));
    lower.push(manifest("registry", &registry.expect("the registry")));
    none(peers::check_lower(&lower, &trees));

    let planted = [
        manifest("runtime", "[dependencies]\nkernels.workspace = true\n"),
        manifest("models", "[dev-dependencies]\nvulkan.workspace = true\n"),
        manifest("graph", "[dependencies]\nhal.workspace = true\n"),
    ];
    assert_eq!(peers::check_lower(&planted, &trees).len(), 2);
}

#[test]
fn peer_trees_do_not_depend_on_each_other() {
    let registry = Registry::collect().expect("no duplicates");
    let entries = std::fs::read_dir(root().join("kernels")).expect("the trees");
    let mut trees = Vec::new();
    for path in entries.flatten().map(|e| e.path()) {
        if let Ok(toml) = std::fs::read_to_string(path.join("Cargo.toml")) {
            let tree = path.file_name().expect("a name").to_string_lossy();
            let backend = registry.backends().iter().find(|b| b.name == tree);
            trees.push(Manifest {
                parent: backend.and_then(|b| b.parent).map(String::from),
                ..manifest(&tree, &toml)
            });
        }
    }
    assert!(trees.len() > 1, "found only {} trees", trees.len());
    none(peers::check(&trees));
}

#[test]
fn dependencies_between_trees_are_found() {
    let trees = [
        manifest("one", "[dependencies]\nhal.workspace = true\n"),
        manifest("two", "[dependencies]\none.workspace = true\n"),
        manifest(
            "three",
            "[dependencies]\nalias = { package = \"one\", path = \"../one\" }\n",
        ),
        manifest(
            "four",
            "[target.'cfg(unix)'.dev-dependencies]\ntwo = { path = \"../two\" }\n",
        ),
        manifest("five", "[build-dependencies]\nkernels.workspace = true\n"),
        manifest("six", "[dev-dependencies]\nkernels.workspace = true\n"),
        Manifest {
            parent: Some("one".into()),
            ..manifest("seven", "[dependencies]\none.workspace = true\n")
        },
    ];
    let found = peers::check(&trees);
    let culprits: Vec<bool> = (["two", "three", "four", "five"].iter().zip(&found))
        .map(|(tree, line)| line.starts_with(&format!("kernels/{tree}/")))
        .collect();
    assert_eq!(culprits, [true; 4], "{found:?}");
    assert_eq!(found.len(), 4, "{found:?}");
}
