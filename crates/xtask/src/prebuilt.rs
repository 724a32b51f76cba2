//! Manifest of a tree's prebuilt kernels: source hashes, compiler, flags.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub compiler: String,
    pub flags: Vec<String>,
    /// By file name in `prebuilt/`.
    pub objects: BTreeMap<String, Object>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Object {
    pub source: String,
    /// SHA-256 of the source and everything it includes, by path in the tree.
    pub sources: BTreeMap<String, String>,
    pub sha256: String,
}

pub fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

/// A source with its includes written in, and the hash of each file.
pub struct Expanded {
    pub text: String,
    pub sources: BTreeMap<String, String>,
}

/// Writes `#include "file"` lines in, each file once. Paths are relative to the
/// including file; line directives keep the compiler's messages right. Files of the
/// tree alone, or of a parent beside it.
pub fn expand(tree: &Path, source: &str) -> Result<Expanded> {
    let mut out = Expanded {
        text: String::new(),
        sources: BTreeMap::new(),
    };
    include(tree, Path::new(source), &mut out, 0)?;
    Ok(out)
}

fn include(tree: &Path, path: &Path, out: &mut Expanded, depth: usize) -> Result<()> {
    let name = normal(path)?;
    if depth > 16 {
        bail!("{name}: includes nest deeper than 16");
    }
    if out.sources.contains_key(&name) {
        return Ok(());
    }
    let text = std::fs::read_to_string(tree.join(&name))
        .with_context(|| format!("cannot read the kernel source {name}"))?;
    out.sources.insert(name, sha256(text.as_bytes()));
    for (i, line) in text.lines().enumerate() {
        let wanted = line.strip_prefix("#include \"");
        match wanted.and_then(|rest| rest.strip_suffix('"')) {
            Some(file) => {
                let at = path.parent().unwrap_or(Path::new("")).join(file);
                out.text.push_str("#line 1\n");
                include(tree, &at, out, depth + 1)?;
                out.text.push_str(&format!("#line {}\n", i + 2));
            }
            None => {
                out.text.push_str(line);
                out.text.push('\n');
            }
        }
    }
    Ok(())
}

/// Trees that others name as their parent: what their sources share may be included.
const PARENTS: &[&str] = &["cuda_sm86"];

/// `a/../b` as `b`, with forward slashes. `../<parent>/…` alone leads out of the tree.
fn normal(path: &Path) -> Result<String> {
    let leaves = || format!("{} leaves the kernel tree", path.display());
    let mut parts: Vec<&str> = Vec::new();
    for c in path.components() {
        match c {
            Component::ParentDir if parts.is_empty() => parts.push(".."),
            Component::ParentDir if parts != [".."] => drop(parts.pop()),
            Component::CurDir => {}
            Component::Normal(s) => parts.push(s.to_str().context("a path is not UTF-8")?),
            _ => bail!(leaves()),
        }
    }
    let outside = parts.first() == Some(&"..");
    if outside && !parts.get(1).is_some_and(|tree| PARENTS.contains(tree)) {
        bail!(leaves());
    }
    Ok(parts.join("/"))
}

pub fn read_manifest(tree: &Path) -> Result<Manifest> {
    let path = tree.join("prebuilt/manifest.json");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not a manifest", path.display()))
}

/// Kernel sources of a tree: files with that extension in its layer folders.
pub fn sources(tree: &Path, extension: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for layer in folders(tree)? {
        for entry in std::fs::read_dir(tree.join(&layer))? {
            let path = PathBuf::from(&layer).join(entry?.file_name());
            if path.extension().is_some_and(|e| e == extension) {
                found.push(normal(&path)?);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn folders(tree: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in
        std::fs::read_dir(tree).with_context(|| format!("cannot list {}", tree.display()))?
    {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(PathBuf::from(entry.file_name()));
        }
    }
    Ok(found)
}

/// What is out of date, in words; needs no compiler. Compares the hashes of all
/// sources and objects with the manifest.
pub fn stale(tree: &Path, extension: &str, object_name: fn(&str) -> String) -> Result<Vec<String>> {
    let manifest = read_manifest(tree)?;
    let mut wrong = Vec::new();
    let mut expected = BTreeMap::new();
    for source in sources(tree, extension)? {
        expected.insert(object_name(&source), source);
    }
    for (name, source) in &expected {
        let Some(object) = manifest.objects.get(name) else {
            wrong.push(format!("{name}: not in the manifest"));
            continue;
        };
        let now = expand(tree, source)?.sources;
        let changed: Vec<_> = now
            .iter()
            .filter(|(file, hash)| object.sources.get(*file) != Some(hash))
            .map(|(file, _)| file.as_str())
            .chain(
                object
                    .sources
                    .keys()
                    .filter(|f| !now.contains_key(*f))
                    .map(String::as_str),
            )
            .collect();
        if !changed.is_empty() {
            wrong.push(format!(
                "{name}: built before {} changed",
                changed.join(", ")
            ));
        }
        match std::fs::read(tree.join("prebuilt").join(name)) {
            Ok(bytes) if sha256(&bytes) == object.sha256 => {}
            Ok(_) => wrong.push(format!("{name}: not the object of the manifest")),
            Err(e) => wrong.push(format!("{name}: {e}")),
        }
    }
    for name in manifest.objects.keys() {
        if !expected.contains_key(name) {
            wrong.push(format!("{name}: its source is gone"));
        }
    }
    Ok(wrong)
}

/// How a tree's kernels are compiled.
pub struct Recipe {
    pub compiler: &'static str,
    pub flags: &'static [&'static str],
    /// Of the sources.
    pub extension: &'static str,
    pub object_name: fn(&str) -> String,
}

/// Compiles every source of a tree; `compile` is given its name and its text with
/// all includes written in. Returns what was written, or with `check`, when nothing
/// is written, the names of the objects whose bytes differ.
pub fn rebuild(
    tree: &Path,
    recipe: &Recipe,
    check: bool,
    compile: impl Fn(&str, &str) -> Result<Vec<u8>>,
) -> Result<Vec<String>> {
    let mut manifest = Manifest {
        compiler: recipe.compiler.into(),
        flags: recipe.flags.iter().map(|f| (*f).into()).collect(),
        objects: BTreeMap::new(),
    };
    let mut changed = Vec::new();
    let folder = tree.join("prebuilt");
    if !check {
        std::fs::create_dir_all(&folder)?;
    }
    let mut put = |name: &str, bytes: &[u8]| -> Result<()> {
        let path = folder.join(name);
        if std::fs::read(&path).is_ok_and(|old| old == bytes) {
            return Ok(());
        }
        changed.push(name.to_string());
        if !check {
            std::fs::write(&path, bytes)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    };
    for source in sources(tree, recipe.extension)? {
        let expanded = expand(tree, &source)?;
        let bytes = compile(&source, &expanded.text)
            .with_context(|| format!("{}/{source} does not compile", tree.display()))?;
        let name = (recipe.object_name)(&source);
        put(&name, &bytes)?;
        let object = Object {
            source,
            sources: expanded.sources,
            sha256: sha256(&bytes),
        };
        manifest.objects.insert(name, object);
    }
    let mut text = serde_json::to_string_pretty(&manifest)?;
    text.push('\n');
    put("manifest.json", text.as_bytes())?;
    Ok(changed)
}
