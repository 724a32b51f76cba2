//! The evidence: one JSON file for a run, its gate inside.

use crate::Args;
use crate::gate::Correctness;
use anyhow::{Context as _, Result};
use runtime::Runner;
use serde::Serialize;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// Bumped when a field changes its meaning.
const SCHEMA: &str = "espalier-bench/1";

/// End-to-end rates that scatter more than this (stdev over median) say little.
const MAX_SPREAD: f64 = 0.05;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Accepted,
    RejectedCorrectness,
    RejectedVariance,
    /// Measured without a gate.
    Diagnostic,
}

#[derive(Debug, Serialize)]
pub struct Stat {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub p95: f64,
    pub stdev: f64,
    pub samples: Vec<f64>,
}

impl Stat {
    pub fn of(samples: Vec<f64>) -> Self {
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let mean = sorted.iter().sum::<f64>() / n as f64;
        let square = sorted.iter().map(|s| (s - mean).powi(2)).sum::<f64>();
        Stat {
            median: (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0,
            min: sorted[0],
            max: sorted[n - 1],
            p95: sorted[((n as f64 * 0.95).ceil() as usize).clamp(1, n) - 1],
            stdev: (square / (n.max(2) - 1) as f64).sqrt(),
            samples,
        }
    }

    fn spread(&self) -> f64 {
        self.stdev / self.median
    }
}

#[derive(Debug, Serialize)]
pub struct Measurements {
    pub prefill_tok_s: Stat,
    pub decode_tok_s: Stat,
}

#[derive(Debug, Serialize)]
struct Baseline {
    command: String,
    measurements: Measurements,
    /// Ours over the peer's, medians.
    prefill_ratio: f64,
    decode_ratio: f64,
}

#[derive(Debug, Serialize)]
struct Hardware {
    backend: String,
    device: String,
    driver: String,
    threads: usize,
}

#[derive(Debug, Serialize)]
struct Software {
    version: &'static str,
    commit: Option<String>,
    dirty: Option<bool>,
}

#[derive(Debug, Serialize)]
struct Workload {
    /// Last part of the model's path, and the bytes of its tensors.
    model: String,
    weights_bytes: u64,
    kv: &'static str,
    prompt_tokens: u32,
    gen_tokens: u32,
    depth: u32,
    batch: u32,
    warmup: u32,
    runs: u32,
}

#[derive(Debug, Serialize)]
struct MemoryUse {
    device_peak_bytes: u64,
    kv_bytes: u64,
    peak_resident_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
pub struct Artifact {
    schema: &'static str,
    pub status: Status,
    unix_time: u64,
    hardware: Hardware,
    software: Software,
    workload: Workload,
    arguments: Vec<String>,
    correctness: Option<Correctness>,
    measurements: Measurements,
    load_s: f64,
    memory: MemoryUse,
    baseline: Option<Baseline>,
}

impl Artifact {
    pub fn new(
        args: &Args,
        runner: &Runner,
        load_s: f64,
        correctness: Option<Correctness>,
        measurements: Measurements,
        baseline: Option<(&String, Measurements)>,
    ) -> Self {
        let program = runner.program();
        let info = runner.device().info();
        let steady = measurements.prefill_tok_s.spread() <= MAX_SPREAD
            && measurements.decode_tok_s.spread() <= MAX_SPREAD;
        let status = match &correctness {
            None => Status::Diagnostic,
            Some(c) if !c.passed => Status::RejectedCorrectness,
            Some(_) if !steady => Status::RejectedVariance,
            Some(_) => Status::Accepted,
        };
        let over = |a: &Stat, b: &Stat| a.median / b.median;
        let baseline = baseline.map(|(command, m)| Baseline {
            command: base_name_of_each(command),
            prefill_ratio: over(&measurements.prefill_tok_s, &m.prefill_tok_s),
            decode_ratio: over(&measurements.decode_tok_s, &m.decode_tok_s),
            measurements: m,
        });
        let path = args.model.canonicalize();
        let path = path.as_deref().unwrap_or(&args.model);
        let name = path.file_name().unwrap_or(path.as_os_str());
        Artifact {
            schema: SCHEMA,
            status,
            unix_time: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |d| d.as_secs()),
            hardware: Hardware {
                backend: program.backend.name.into(),
                device: info.name.clone(),
                driver: info.driver.clone(),
                threads: info.threads,
            },
            software: Software {
                version: env!("CARGO_PKG_VERSION"),
                commit: git(&["rev-parse", "HEAD"]),
                dirty: git(&["status", "--porcelain"]).map(|s| !s.is_empty()),
            },
            workload: Workload {
                model: name.to_string_lossy().into_owned(),
                weights_bytes: program.memory().weights,
                kv: program.cache.scheme.0,
                prompt_tokens: args.prompt_tokens,
                gen_tokens: args.gen_tokens,
                depth: args.depth,
                batch: args.batch,
                warmup: args.warmup,
                runs: args.runs,
            },
            arguments: std::env::args()
                .skip(1)
                .map(|a| base_name_of_each(&a))
                .collect(),
            correctness,
            measurements,
            load_s,
            memory: MemoryUse {
                device_peak_bytes: runner.device().allocated().1,
                kv_bytes: program.cache.pool_bytes(),
                peak_resident_bytes: hal::cpu::peak_resident_memory(),
            },
            baseline,
        }
    }

    pub fn table(&self) -> String {
        let m = &self.measurements;
        let mut out = format!(
            "{} on {} ({} threads), {}: {:?}\n",
            self.workload.model,
            self.hardware.backend,
            self.hardware.threads,
            self.hardware.device,
            self.status
        );
        let rows = [
            ("prefill", &m.prefill_tok_s, self.workload.prompt_tokens),
            ("decode", &m.decode_tok_s, self.workload.gen_tokens),
        ];
        for (i, (what, ours, n)) in rows.into_iter().enumerate() {
            out += &format!(
                "  {what:8} {n:>5} tokens  {:>10.1} tok/s  ±{:.1} %",
                ours.median,
                ours.spread() * 100.0
            );
            if let Some(b) = &self.baseline {
                let (theirs, ratio) = match i {
                    0 => (&b.measurements.prefill_tok_s, b.prefill_ratio),
                    _ => (&b.measurements.decode_tok_s, b.decode_ratio),
                };
                out += &format!("   peer {:>10.1} tok/s   {ratio:.2}×", theirs.median);
            }
            out.push('\n');
        }
        if let Some(c) = &self.correctness {
            out += &format!(
                "  gate     {} kernel uses, {} positions: KL mean {:.1e}, max {:.1e}, top-1 {:.2} %, activation format costs {:.1e}\n",
                c.kernels,
                c.positions,
                c.kl_mean,
                c.kl_max,
                c.top1 * 100.0,
                c.act_kl_mean
            );
        }
        out
    }

    /// Writes the file whole or not at all.
    pub fn write(&self, path: &Path) -> Result<()> {
        let part = path.with_extension("json.part");
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(&part, text)
            .and_then(|()| std::fs::rename(&part, path))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Artifacts travel: they keep the names of files, not where they were.
fn base_name_of_each(text: &str) -> String {
    let words = text.split_whitespace();
    let short = words.map(|w| match w.rsplit_once('/') {
        Some((_, name)) if !name.is_empty() => name,
        _ => w,
    });
    short.collect::<Vec<_>>().join(" ")
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_known_samples() {
        let s = Stat::of(vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!((s.median, s.min, s.max, s.p95), (2.5, 1.0, 4.0, 4.0));
        assert!((s.stdev - (5.0f64 / 3.0).sqrt()).abs() < 1e-12);
        let one = Stat::of(vec![7.0]);
        assert_eq!((one.median, one.stdev), (7.0, 0.0));
    }

    #[test]
    fn paths_are_cut_to_names() {
        assert_eq!(
            base_name_of_each("/a/b/llama-bench -m /c/x.gguf -t 2"),
            "llama-bench -m x.gguf -t 2"
        );
    }
}
