//! Running llama-bench between our own runs.

use crate::measure::{Shape, Speeds};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::process::Command;

/// llama-bench averages over these.
const REPEATS: &str = "5";

/// Runs the command once for the prompt and the generation of `shape`.
pub fn run(command: &str, shape: &Shape) -> Result<Speeds> {
    if shape.batch != 1 {
        bail!("llama-bench decodes one sequence: use --batch 1 with --peer");
    }
    let mut words = command.split_whitespace();
    let program = words.next().context("--peer is empty")?;
    let output = Command::new(program)
        .args(words)
        .args(["-o", "jsonl", "-r", REPEATS])
        .args(["-p", &shape.prompt.to_string()])
        .args(["-n", &shape.generated.to_string()])
        .args(["-d", &shape.depth.to_string()])
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        let why = why
            .lines()
            .last()
            .unwrap_or("nothing on its standard error");
        bail!("{program} ended with {}: {why}", output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let (mut prefill, mut decode) = (None, None);
    for line in text.lines().filter(|l| l.starts_with('{')) {
        let row: Value = serde_json::from_str(line).context("its output is not JSON lines")?;
        let rate = row["avg_ts"].as_f64();
        match (row["n_prompt"].as_u64(), row["n_gen"].as_u64()) {
            (Some(p), Some(0)) if p > 0 => prefill = rate,
            (Some(0), Some(g)) if g > 0 => decode = rate,
            _ => {}
        }
    }
    match (prefill, decode) {
        (Some(prefill), Some(decode)) => Ok(Speeds { prefill, decode }),
        _ => bail!("{program} printed no rates for prompt and generation"),
    }
}
