//! The gate that a published figure carries.

use anyhow::{Context as _, Result};
use parity::model_gate::{
    Bounds, VERIFY_TEXT, act_cost_bound, compare, f32_acts, load_candidate, load_oracle, matrix,
    text_ids,
};
use parity::stats::Tally;
use registry::Registry;
use runtime::{LoadOptions, Opened};
use serde::Serialize;

/// Tokens compared: enough for every row bucket, chunked, whole and batched.
const IDS: usize = 280;

#[derive(Debug, Serialize)]
pub struct Correctness {
    pub oracle: &'static str,
    /// KL(oracle‖candidate) in nats, same weights, KV scheme and activation format.
    pub positions: usize,
    pub kl_mean: f64,
    pub kl_max: f64,
    pub top1: f64,
    /// Mean KL against f32 activations: what the activation format costs.
    pub act_kl_mean: f64,
    pub passed: bool,
}

pub fn climb(opened: &Opened, registry: &Registry, options: &LoadOptions) -> Result<Correctness> {
    let mut ids = text_ids(opened, VERIFY_TEXT);
    ids.truncate(IDS);
    let scripts = matrix(&ids, None);
    let mut candidate = load_candidate(opened, registry, options, scripts.iter())?;
    let program = candidate.program().clone();
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
    Ok(Correctness {
        oracle: parity::model_gate::ORACLE,
        positions: summary.positions,
        kl_mean: summary.mean_kl,
        kl_max: summary.max_kl,
        top1: summary.top1,
        act_kl_mean: cost.mean_kl,
        passed: Bounds::default().hold(&summary) && cost.mean_kl <= act_cost_bound(&program.acts()),
    })
}
