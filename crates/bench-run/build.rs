//! Hands the compiler and its settings to the program: artifacts name them.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    let compiler = Command::new(var("RUSTC")).arg("-V").output();
    let compiler = compiler.ok().filter(|o| o.status.success());
    let compiler = compiler.and_then(|o| String::from_utf8(o.stdout).ok());
    let commit = commit().unwrap_or_default();
    let flags = var("CARGO_ENCODED_RUSTFLAGS").replace('\u{1f}', " ");
    for (name, value) in [
        ("COMPILER", compiler.unwrap_or_else(|| "unknown".into())),
        ("COMMIT", commit),
        ("TARGET", var("TARGET")),
        ("PROFILE", var("PROFILE")),
        ("OPT_LEVEL", var("OPT_LEVEL")),
        ("RUSTFLAGS", flags),
    ] {
        println!("cargo::rustc-env=BENCH_{name}={}", value.trim());
    }
}

/// The commit that is built: `ESPALIER_COMMIT`, or what git says of this folder. A
/// machine that measures may have no repository.
fn commit() -> Option<String> {
    println!("cargo::rerun-if-env-changed=ESPALIER_COMMIT");
    if let Ok(commit) = std::env::var("ESPALIER_COMMIT") {
        return Some(commit);
    }
    let git = |args: &[&str]| {
        let out = Command::new("git").args(args).output().ok()?;
        let text = String::from_utf8(out.stdout).ok()?;
        out.status.success().then(|| text.trim().to_string())
    };
    // A commit of another repository would be worse than none.
    let top = git(&["rev-parse", "--show-toplevel"])?;
    if !Path::new(&top).join("crates/bench-run/build.rs").exists() {
        return None;
    }
    // Every commit and every switch of branches is a line there.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo::rerun-if-changed={log}");
    }
    git(&["rev-parse", "HEAD"])
}
