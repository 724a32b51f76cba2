//! Where the time of a step goes: every plan step's key, time, bytes and
//! operations, against what the device was measured to do at most.

use crate::ceilings::Ceilings;
use crate::measure::{Bench, Shape};
use crate::stat::median;
use anyhow::Result;
use registry::{OperandRole, Problem, StepSize};
use runtime::{Profile, Want};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Timed repetitions of each step.
const REPEATS: usize = 15;

/// One kind of step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// `prefill`, `decode` or `batch_decode`.
    pub name: String,
    pub rows: usize,
    pub sequences: usize,
    /// Tokens cached before the step.
    pub depth: usize,
    /// Seconds of all kernels, one after the other.
    pub kernels_s: f64,
    /// Seconds of what the runner puts around them.
    pub around_s: f64,
    pub kernels: Vec<KernelTime>,
}

/// All uses of one kernel at one size in a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelTime {
    pub key: String,
    /// Of its matrices, `[n,k]`; empty for kernels without.
    pub matrices: Vec<String>,
    pub activations: String,
    /// Seconds of each use, in the order of the plan; medians over the repeats.
    pub uses_s: Vec<f64>,
    /// Of all uses.
    pub seconds: f64,
    pub bytes: u64,
    pub flops: u64,
    /// 10⁹ per second.
    pub gbytes_s: f64,
    pub gflops_s: f64,
    /// Of the measured ceilings.
    pub of_bandwidth: Option<f64>,
    pub of_compute: Option<f64>,
}

/// Profiles a prefill step, a decode step, and a decode step of the whole batch.
/// Nothing where the device has no clock.
pub fn profile(
    bench: &mut Bench<'_>,
    shape: &Shape,
    ceilings: Option<&Ceilings>,
) -> Result<Vec<Phase>> {
    let limit = bench.runner.program().limits.rows;
    let mut phases = Vec::new();
    let mut wanted = vec![("prefill", shape.prompt.min(limit), 1), ("decode", 1, 1)];
    if shape.batch > 1 {
        wanted.push(("batch_decode", shape.batch, shape.batch));
    }
    for (name, rows, sequences) in wanted {
        let mut repeats: Vec<Profile> = Vec::new();
        bench.step(rows, sequences, |runner| {
            for _ in 0..REPEATS {
                repeats.extend(runner.profile(rows, Want::Argmax)?);
            }
            Ok(())
        })?;
        let size = StepSize {
            rows,
            logits: sequences,
            spans: sequences,
            depth: shape.depth,
        };
        let Some(first) = repeats.first() else {
            continue;
        };
        let program = bench.runner.program();
        let plan = &program.plans[first.plan];
        let mut kernels: BTreeMap<(String, Vec<String>), KernelTime> = BTreeMap::new();
        for (i, step) in plan.steps.iter().enumerate() {
            let all: Option<Vec<f64>> = repeats.iter().map(|p| p.steps[i]).collect();
            let Some(seconds) = all.map(median) else {
                continue;
            };
            let work = step.problem.work(&size);
            let (key, matrices) = (step.key.to_string(), matrices(&step.problem));
            let entry = kernels
                .entry((key.clone(), matrices.clone()))
                .or_insert_with(|| KernelTime {
                    key,
                    matrices,
                    activations: step.kernel.spec().act.name().into(),
                    uses_s: Vec::new(),
                    seconds: 0.0,
                    bytes: 0,
                    flops: 0,
                    gbytes_s: 0.0,
                    gflops_s: 0.0,
                    of_bandwidth: None,
                    of_compute: None,
                });
            entry.uses_s.push(seconds);
            entry.seconds += seconds;
            entry.bytes += work.bytes;
            entry.flops += work.flops;
        }
        let mut kernels: Vec<KernelTime> = kernels.into_values().collect();
        for k in &mut kernels {
            k.gbytes_s = rate(k.bytes, k.seconds);
            k.gflops_s = rate(k.flops, k.seconds);
            let share = |x: f64, of: Option<f64>| of.filter(|c| *c > 0.0).map(|c| x / c);
            k.of_bandwidth = share(k.gbytes_s, ceilings.and_then(Ceilings::bandwidth));
            let compute = ceilings.and_then(|c| c.compute(&k.activations));
            k.of_compute = share(k.gflops_s, compute).filter(|_| k.flops > 0);
        }
        kernels.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        phases.push(Phase {
            name: name.into(),
            rows,
            sequences,
            depth: shape.depth,
            kernels_s: kernels.iter().map(|k| k.seconds).sum(),
            around_s: median(repeats.iter().map(|p| p.around).collect()),
            kernels,
        });
    }
    Ok(phases)
}

fn rate(amount: u64, seconds: f64) -> f64 {
    match seconds > 0.0 {
        true => amount as f64 / seconds / 1e9,
        false => 0.0,
    }
}

fn matrices(problem: &Problem) -> Vec<String> {
    let matrices = problem.inputs.iter();
    matrices
        .filter(|o| o.role == OperandRole::Matrix)
        .map(|o| format!("{}[{},{}] {}", o.scheme, o.shape[0], o.shape[1], o.layout))
        .collect()
}

impl Phase {
    pub fn table(&self) -> String {
        let mut out = format!(
            "  {} of {} rows at depth {}: kernels {:.1} µs, around them {:.1} µs\n",
            self.name,
            self.rows,
            self.depth,
            self.kernels_s * 1e6,
            self.around_s * 1e6
        );
        let percent =
            |x: Option<f64>| x.map_or(String::new(), |x| format!(" ({:.0} %)", x * 100.0));
        for k in &self.kernels {
            out += &format!(
                "  {:>10.1} µs {:>4} × {} {}  {:.1} GB/s{}",
                k.seconds * 1e6,
                k.uses_s.len(),
                k.key,
                k.matrices.join(" "),
                k.gbytes_s,
                percent(k.of_bandwidth)
            );
            if k.flops > 0 {
                out += &format!("  {:.1} GFLOP/s{}", k.gflops_s, percent(k.of_compute));
            }
            out.push('\n');
        }
        out
    }
}
