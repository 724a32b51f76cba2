//! Hands the compiler and its settings to the program: artifacts name them.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    let compiler = Command::new(var("RUSTC")).arg("-V").output();
    let compiler = compiler.ok().filter(|o| o.status.success());
    let compiler = compiler.and_then(|o| String::from_utf8(o.stdout).ok());
    let flags = var("CARGO_ENCODED_RUSTFLAGS").replace('\u{1f}', " ");
    for (name, value) in [
        ("COMPILER", compiler.unwrap_or_else(|| "unknown".into())),
        ("TARGET", var("TARGET")),
        ("PROFILE", var("PROFILE")),
        ("OPT_LEVEL", var("OPT_LEVEL")),
        ("RUSTFLAGS", flags),
    ] {
        println!("cargo::rustc-env=BENCH_{name}={}", value.trim());
    }
}
