//! The gate that a published figure carries: every kernel of the timed plans at the
//! model's own sizes (ring 2), then the model against the oracle (ring 3).

use anyhow::{Context as _, Result};
use parity::kernel_gate::{ChainOracle, gate_problem};
use parity::model_gate::{
    Bounds, VERIFY_TEXT, act_cost_bound, compare, f32_acts, forgets, load_candidate, load_oracle,
    matrix, text_ids,
};
use parity::stats::Tally;
use planner::Program;
use registry::Registry;
use runtime::{LoadOptions, Opened, Runner};
use serde::Serialize;
use std::collections::BTreeSet;

/// Tokens compared: enough for every row bucket, chunked, whole and batched.
const IDS: usize = 280;

#[derive(Debug, Serialize)]
pub struct Correctness {
    pub oracle: &'static str,
    /// Uses of kernels in the timed plans, each compared with the oracle's chain.
    pub kernels: usize,
    /// Largest error over tolerance among them.
    pub kernels_worst: f64,
    pub kernels_failed: Vec<String>,
    /// KL(oracle‖candidate) in nats, same weights, KV scheme and activation format.
    pub positions: usize,
    pub kl_mean: f64,
    pub kl_max: f64,
    pub top1: f64,
    /// Mean KL against f32 activations: what the activation format costs.
    pub act_kl_mean: f64,
    pub passed: bool,
}

pub fn climb(
    opened: &Opened,
    registry: &Registry,
    options: &LoadOptions,
    timed: &Runner,
) -> Result<Correctness> {
    let (kernels, kernels_worst, kernels_failed) = ring2(registry, timed)?;
    let mut ids = text_ids(opened, VERIFY_TEXT);
    ids.truncate(IDS);
    let scripts = matrix(&ids, forgets(&opened.graph));
    // The scripts need other limits than the timed plans; the kernels are the same
    // or the comparison says nothing.
    let mut candidate = load_candidate(opened, registry, options, scripts.iter())?;
    let program = candidate.program().clone();
    let (timed_keys, gated) = (keys(timed.program()), keys(&program));
    if let Some(stray) = timed_keys.difference(&gated).next() {
        anyhow::bail!("the timed plans use {stray}, which the gate's plans do not");
    }
    let mut same = load_oracle(opened, registry, &program, program.acts())?;
    let mut plain = load_oracle(opened, registry, &program, f32_acts(opened))?;
    let mut tally = Tally::default();
    for script in &scripts {
        tally.extend(&compare(&mut same, &mut candidate, script)?);
    }
    // What rounding costs does not depend on how the batch was cut.
    let cost = compare(&mut plain, &mut candidate, &scripts[0])?;
    let nothing = "the gate compared no positions";
    let summary = tally.summary().context(nothing)?;
    let cost = cost.summary().context(nothing)?;
    let acts = program.acts();
    Ok(Correctness {
        oracle: parity::model_gate::ORACLE,
        kernels,
        kernels_worst,
        passed: kernels_failed.is_empty()
            && Bounds::of(&acts).hold(&summary)
            && cost.mean_kl <= act_cost_bound(&acts),
        kernels_failed,
        positions: summary.positions,
        kl_mean: summary.mean_kl,
        kl_max: summary.max_kl,
        top1: summary.top1,
        act_kl_mean: cost.mean_kl,
    })
}

fn keys(program: &Program) -> BTreeSet<String> {
    let steps = program.plans.iter().flat_map(|p| &p.steps);
    steps.map(|s| s.key.to_string()).collect()
}

/// Every distinct use of a kernel in the timed plans.
fn ring2(registry: &Registry, timed: &Runner) -> Result<(usize, f64, Vec<String>)> {
    let oracle = ChainOracle::open(registry)?;
    let mut seen = BTreeSet::new();
    let mut worst = 0f64;
    let mut failed = Vec::new();
    for step in timed.program().plans.iter().flat_map(|p| &p.steps) {
        let problem = &step.problem;
        let (ops, ins) = (&problem.ops, &problem.inputs);
        if !seen.insert(format!("{} {:?} {ops:?} {ins:?}", step.key, problem.rows)) {
            continue;
        }
        let report = gate_problem(step.kernel, problem, &**timed.device(), &oracle, 1)?;
        worst = worst.max(report.worst);
        if !report.passed() || report.cases == 0 {
            failed.push(report.to_string());
        }
    }
    Ok((seen.len(), worst, failed))
}
