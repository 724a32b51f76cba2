//! Ring 1 for models anywhere: a folder holds `golden.safetensors` beside the
//! model, as `fixtures/generate.py --random` writes them; NAME.gguf has
//! NAME.golden.safetensors beside it.
//!
//! ```text
//! cargo run -p parity --example ring1_dir -- MODEL... [--backend NAME]
//! ```

use kernels as _;
use parity::model_gate::{Feed, ORACLE, ring1};
use registry::Registry;
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    let mut backend = ORACLE.to_string();
    let mut dirs: Vec<PathBuf> = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--backend" => {
                backend = args
                    .next()
                    .ok_or_else(|| anyhow::anyhow!("--backend needs a name"))?;
            }
            _ => dirs.push(arg.into()),
        }
    }
    anyhow::ensure!(
        !dirs.is_empty(),
        "name model folders that hold golden.safetensors, or GGUF files with golden logits beside them"
    );
    let registry = Registry::collect()?;
    let feeds = [
        Feed::Whole,
        Feed::Chunks(64),
        Feed::OneByOne,
        Feed::Together(23),
    ];
    let mut failed = 0;
    for dir in &dirs {
        let golden = match dir.is_dir() {
            true => dir.join("golden.safetensors"),
            false => dir.with_extension("golden.safetensors"),
        };
        match ring1(dir, &golden, &registry, &backend, &feeds) {
            Ok(report) => {
                let verdict = if report.passed() { "pass" } else { "FAIL" };
                let worst = report.worst();
                println!("{verdict} {worst:8.4} of the tolerance  {}", dir.display());
                for p in report.prompts.iter().filter(|p| !p.passed()) {
                    println!("     {p:?}");
                }
                failed += usize::from(!report.passed());
            }
            Err(e) => {
                println!("FAIL {}: {e}", dir.display());
                failed += 1;
            }
        }
    }
    println!("{} of {} passed", dirs.len() - failed, dirs.len());
    Ok(match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}
