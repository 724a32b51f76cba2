//! The evidence: one JSON file for a run, its gate inside. `benchmarks/schema.json`
//! says the same for other programs; the two are compared in a test.

use crate::ceilings::Ceilings;
use crate::gate::Correctness;
use crate::profile::Phase;
use crate::provenance::{Environment, Hardware, Software};
use crate::stat::Stat;
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Bumped when a field changes its meaning.
pub const SCHEMA: &str = "espalier-bench/2";

/// End-to-end rates that scatter more than this (stdev over median) say little.
pub const MAX_SPREAD: f64 = 0.05;

/// Fewer samples do not show how much they scatter.
pub const MIN_SAMPLES: usize = 5;

/// Names of metrics.
pub mod metric {
    use crate::stat::Unit;

    pub const PREFILL: &str = "prefill_tok_s";
    pub const DECODE: &str = "decode_tok_s";
    /// All sequences of the batch together.
    pub const BATCH_DECODE: &str = "batch_decode_tok_s";
    /// One sequence whose tokens are drawn by [`Workload::sampling`](super::Workload).
    pub const SAMPLED_DECODE: &str = "sampled_decode_tok_s";
    /// From a prompt that is known to its first token, the model being loaded.
    pub const TTFT: &str = "ttft_ms";
    pub const LOAD: &str = "load_s";
    /// Loading and then the first prompt of the process.
    pub const LOAD_TO_FIRST_TOKEN: &str = "load_to_first_token_s";
    /// A whole process that loads the model and reads a short prompt, from its start to
    /// its end.
    pub const PROCESS: &str = "process_s";

    pub fn unit(name: &str) -> Unit {
        match name {
            TTFT => Unit::Milliseconds,
            LOAD | LOAD_TO_FIRST_TOKEN | PROCESS => Unit::Seconds,
            _ => Unit::TokensPerSecond,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Accepted,
    RejectedCorrectness,
    RejectedVariance,
    /// It could not run: no kernel, no memory, no driver.
    Blocked,
    /// Measured without a gate.
    Diagnostic,
}

pub type Measurements = BTreeMap<String, Stat>;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Last part of the model's path, or shape and scheme of a synthetic one.
    pub model: String,
    /// SHA-256 over names, types and shapes of all tensors and parts of their bytes.
    pub fingerprint: Option<String>,
    /// `file` or `synthetic`.
    pub weights: String,
    pub architecture: String,
    pub layers: usize,
    pub parameters: u64,
    /// Bytes of the stored matrices by scheme.
    pub schemes: BTreeMap<String, u64>,
    pub bits_per_weight: f64,
    /// Resident weights, packed.
    pub weights_bytes: u64,
    pub kv: Option<String>,
    /// Activation formats of products and attention, by least rows of a step.
    pub activations: BTreeMap<String, Vec<String>>,
    pub fusion: bool,
    pub prompt_tokens: u32,
    pub gen_tokens: u32,
    pub depth: u32,
    pub batch: u32,
    pub warmup: u32,
    pub runs: u32,
    /// How tokens are drawn where that is timed as well: the steps that are on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryUse {
    /// Of the process, loading and measuring alone where the system can tell.
    pub peak_resident_bytes: Option<u64>,
    /// What the device's allocator handed out at most, and at the end.
    pub device_peak_bytes: u64,
    pub device_bytes: u64,
    pub weights_bytes: u64,
    pub kv_bytes: u64,
    pub recurrent_state_bytes: u64,
    pub activations_bytes: u64,
}

/// A peer that ran in turn with us.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    pub command: String,
    pub measurements: Measurements,
    /// What it says of itself: version, model size, backend.
    pub details: BTreeMap<String, String>,
}

/// Ours over the best peer's, medians: below 1 is the better where less is better.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    pub metric: String,
    pub ours: f64,
    pub theirs: f64,
    pub ratio: f64,
    /// The ratio turn by turn, each sample of ours over the peer's right after it:
    /// what other users of the machine cost both alike is not in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turns: Option<Turns>,
    /// Which of the baselines was the best, by index.
    pub baseline: usize,
}

/// Ratios of single turns.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turns {
    pub lowest: f64,
    pub highest: f64,
}

impl Turns {
    /// `None` if the samples do not belong together.
    fn of(ours: &Stat, theirs: &Stat) -> Option<Self> {
        if ours.samples.is_empty() || ours.samples.len() != theirs.samples.len() {
            return None;
        }
        let pairs = ours.samples.iter().zip(&theirs.samples);
        let none = Turns {
            lowest: f64::INFINITY,
            highest: f64::NEG_INFINITY,
        };
        Some(pairs.map(|(a, b)| a / b).fold(none, |t, r| Turns {
            lowest: t.lowest.min(r),
            highest: t.highest.max(r),
        }))
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    pub accepted: bool,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    pub schema: String,
    pub status: Status,
    /// UTC, RFC 3339.
    pub timestamp: String,
    pub summary: String,
    pub hardware: Option<Hardware>,
    pub software: Software,
    pub workload: Workload,
    /// Arguments of this program; of paths only the last part.
    pub command: Vec<String>,
    pub environment: Environment,
    pub correctness: Option<Correctness>,
    pub measurements: Measurements,
    pub memory: Option<MemoryUse>,
    /// What the device was measured to do at most, in the same run.
    pub ceilings: Option<Ceilings>,
    pub profile: Vec<Phase>,
    pub baselines: Vec<Baseline>,
    pub comparison: Vec<Comparison>,
    pub decision: Decision,
    pub notes: Vec<String>,
}

impl Artifact {
    /// Status, decision, comparison and summary, from everything else.
    pub fn settle(&mut self) {
        self.comparison = compare(&self.measurements, &self.baselines);
        let (status, reason) = self.judge();
        self.status = status;
        self.decision = Decision {
            accepted: status == Status::Accepted,
            reason,
        };
        self.summary = self.summarise();
    }

    fn judge(&self) -> (Status, String) {
        match &self.correctness {
            None => {
                let reason = "measured without a gate: a diagnostic, not a claim";
                return (Status::Diagnostic, reason.into());
            }
            Some(c) if !c.passed => {
                return (Status::RejectedCorrectness, c.failures.join("; "));
            }
            Some(_) => {}
        }
        let own = self.measurements.iter().map(|(name, s)| ("", name, s));
        let peers = self.baselines.iter();
        let peers = peers.flat_map(|b| b.measurements.iter().map(|(n, s)| ("the peer's ", n, s)));
        // Whole processes beside a peer's are a claim as well; other times are beside
        // the rates that claim.
        let process = metric::PROCESS;
        let raced = (self.baselines.iter()).any(|b| b.measurements.contains_key(process));
        let rates: Vec<_> = (own.chain(peers))
            .filter(|(_, name, s)| s.higher_is_better || (raced && *name == process))
            .collect();
        // What scatters little over too few samples has not been seen to be steady.
        if let Some((whose, name, s)) = rates.iter().find(|(_, _, s)| s.samples.len() < MIN_SAMPLES)
        {
            let flag = match *name == process {
                true => "--processes",
                false => "--runs",
            };
            let reason = format!(
                "{whose}{name} has {} samples, an accepted row at least {MIN_SAMPLES}: use {flag} {MIN_SAMPLES}",
                s.samples.len()
            );
            return (Status::RejectedVariance, reason);
        }
        let noisy: Vec<String> = rates
            .into_iter()
            .filter(|(_, _, s)| !s.steady(MAX_SPREAD))
            .map(|(whose, name, s)| format!("{whose}{name} by {:.1} %", s.spread() * 100.0))
            .collect();
        if !noisy.is_empty() {
            let reason = format!(
                "samples scatter more than {:.0} % of their median: {}",
                MAX_SPREAD * 100.0,
                noisy.join(", ")
            );
            return (Status::RejectedVariance, reason);
        }
        (
            Status::Accepted,
            "every gate held and the samples agree".into(),
        )
    }

    fn summarise(&self) -> String {
        let figures: Vec<String> = (self.measurements.iter())
            .filter(|(_, s)| s.higher_is_better)
            .map(|(name, s)| {
                let ratio = self.comparison.iter().find(|c| c.metric == *name);
                let ratio = ratio.map_or(String::new(), |c| format!(" ({:.2}x)", c.ratio));
                format!("{name} {:.1}{ratio}", s.median)
            })
            .collect();
        let place = self.hardware.as_ref();
        let place = place.map_or("no device".into(), |h| {
            format!("{} on {}", h.backend, h.device)
        });
        let what = match figures.is_empty() {
            true => self.decision.reason.clone(),
            false => figures.join(", "),
        };
        format!("{}, {place}: {what}", self.workload.model)
    }

    pub fn table(&self) -> String {
        let h = self.hardware.as_ref();
        let place = h.map_or("no device".into(), |h| {
            format!("{} ({} threads), {}", h.backend, h.threads, h.device)
        });
        let mut out = format!("{} on {place}: {:?}\n", self.workload.model, self.status);
        for (name, s) in &self.measurements {
            out += &format!(
                "  {name:22} {:>12.3} {:5} ±{:.1} %",
                s.median,
                s.unit,
                s.spread() * 100.0
            );
            if let Some(c) = self.comparison.iter().find(|c| c.metric == *name) {
                out += &format!("   peer {:>12.3}   {:.2}x", c.theirs, c.ratio);
                if let Some(t) = c.turns {
                    out += &format!("  (turns {:.2} to {:.2})", t.lowest, t.highest);
                }
                if !s.higher_is_better {
                    out += ", less is better";
                }
            }
            out.push('\n');
        }
        if let Some(c) = &self.correctness {
            out += &c.table();
        }
        if let Some(m) = &self.memory {
            let mib = |b: u64| b as f64 / f64::from(1 << 20);
            let peak = m.peak_resident_bytes.map_or(0.0, mib);
            out += &format!(
                "  memory   {peak:.0} MiB resident at most, {:.0} MiB of the device, weights {:.0}, KV {:.0}, states {:.1}\n",
                mib(m.device_peak_bytes),
                mib(m.weights_bytes),
                mib(m.kv_bytes),
                mib(m.recurrent_state_bytes)
            );
        }
        if let Some(c) = &self.ceilings {
            out += &c.table();
        }
        for phase in &self.profile {
            out += &phase.table();
        }
        out += &format!("  {}\n", self.decision.reason);
        for note in &self.notes {
            out += &format!("  note: {note}\n");
        }
        out
    }

    /// Writes the file whole or not at all.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        write_whole(path, &text)
    }

    /// Reads an artifact, whatever its status.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let value: serde_json::Value = serde_json::from_str(&text)
            .with_context(|| format!("{} is not JSON", path.display()))?;
        let found = value["schema"].as_str().unwrap_or("none");
        anyhow::ensure!(
            found == SCHEMA,
            "{}: its schema is {found}, this program reads {SCHEMA}: measure it anew",
            path.display()
        );
        serde_json::from_value(value)
            .with_context(|| format!("{} is no artifact of this schema", path.display()))
    }
}

/// Puts a text beside the file and then in its place.
pub fn write_whole(path: &Path, text: &str) -> Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    std::fs::write(&part, text)
        .and_then(|()| std::fs::rename(&part, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn compare(ours: &Measurements, baselines: &[Baseline]) -> Vec<Comparison> {
    let mut all = Vec::new();
    for (name, own) in ours {
        let theirs = baselines.iter().enumerate();
        let theirs = theirs.filter_map(|(i, b)| Some((i, b.measurements.get(name)?)));
        let better = |a: &(usize, &Stat), b: &(usize, &Stat)| match own.higher_is_better {
            true => a.1.median.total_cmp(&b.1.median),
            false => b.1.median.total_cmp(&a.1.median),
        };
        if let Some((baseline, theirs)) = theirs.max_by(better) {
            all.push(Comparison {
                metric: name.clone(),
                ours: own.median,
                theirs: theirs.median,
                ratio: own.median / theirs.median,
                turns: Turns::of(own, theirs),
                baseline,
            });
        }
    }
    all
}
