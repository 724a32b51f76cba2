//! Peer trees do not depend on each other, and only the facade knows them all. A tree
//! may use what its declared parent shares.

/// A tree's manifest: its folder and its text.
pub struct Manifest {
    pub tree: String,
    pub toml: String,
    /// The tree's declared parent.
    pub parent: Option<String>,
}

/// Dependencies between trees. In their tests trees may link the facade, to be
/// gated against the oracle, but no peer by name.
pub fn check(trees: &[Manifest]) -> Vec<String> {
    let mut found = Vec::new();
    for m in trees {
        let toml: toml::Table = match m.toml.parse() {
            Ok(table) => table,
            Err(e) => {
                found.push(format!("kernels/{}/Cargo.toml: {e}", m.tree));
                continue;
            }
        };
        for (section, name) in dependencies(&toml) {
            let peer = trees.iter().any(|t| t.tree == name && t.tree != m.tree);
            let peer = peer && m.parent.as_ref() != Some(&name);
            let facade = name == "kernels" && section != "dev-dependencies";
            if peer || facade {
                found.push(format!(
                    "kernels/{}/Cargo.toml: [{section}] names {name}",
                    m.tree
                ));
            }
        }
    }
    found
}

/// Dependencies of lower crates on trees or on the facade: what runs is decided by
/// what a binary links, so only binaries and the gates may name them.
pub fn check_lower(lower: &[Manifest], trees: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for m in lower {
        match m.toml.parse::<toml::Table>() {
            Err(e) => found.push(format!("{}/Cargo.toml: {e}", m.tree)),
            Ok(toml) => found.extend(
                dependencies(&toml)
                    .into_iter()
                    .filter(|(_, name)| name == "kernels" || trees.contains(&name.as_str()))
                    .map(|(section, name)| {
                        format!("{}/Cargo.toml: [{section}] names {name}", m.tree)
                    }),
            ),
        }
    }
    found
}

/// Section and package of every dependency, those of targets included.
fn dependencies(toml: &toml::Table) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        if let Some(table) = toml.get(section).and_then(|t| t.as_table()) {
            for (name, value) in table {
                let package = value.get("package").and_then(|p| p.as_str());
                found.push((section, package.unwrap_or(name).to_string()));
            }
        }
    }
    let targets = toml.get("target").and_then(|t| t.as_table());
    for target in targets.into_iter().flat_map(|t| t.values()) {
        found.extend(target.as_table().map(dependencies).unwrap_or_default());
    }
    found
}
