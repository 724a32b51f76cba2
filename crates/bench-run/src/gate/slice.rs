//! Ring 3 on the first layers of a model that the oracle cannot run whole: its own
//! matrices, cache, norm and head, at their own sizes.

use super::{CHUNKS, Correctness, Gated, ORACLE_RATE, keys};
use anyhow::{Context as _, Result};
use graph::Op;
use parity::model_gate::{
    Bounds, ORACLE, Script, VERIFY_TEXT, compare, load_candidate, load_oracle, text_ids,
};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// More layers say little more: the kernels are the same.
const MOST_LAYERS: usize = 4;
/// Read first, to see how quick the oracle is.
const PROBE: usize = 2;

/// What the first layers gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slice {
    pub layers: usize,
    pub positions: usize,
    /// KL(oracle‖candidate) in nats, same weights, KV scheme and activation format.
    pub kl_mean: f64,
    pub kl_max: f64,
    pub top1: f64,
    /// Keys of the timed plans that these layers do not use.
    pub keys_left_out: Vec<String>,
}

/// Holds the model's first layers to the oracle; nothing, if the oracle would take
/// longer than the limit, or if random routers would choose by the last bit.
pub fn slice(gated: &Gated<'_>, c: &mut Correctness) -> Result<()> {
    let routed = |n: &graph::Node| matches!(n.op, Op::Route(_));
    if gated.synthetic && gated.opened.graph.nodes().iter().any(routed) {
        return Ok(());
    }
    first_layers(gated, affordable(gated)?, c)
}

/// [`slice`] with so many layers.
pub fn first_layers(gated: &Gated<'_>, layers: usize, c: &mut Correctness) -> Result<()> {
    let registry = gated.registry;
    let positions: usize = CHUNKS.iter().sum();
    let limit = gated.limit.as_secs_f64();
    let opened = gated.opened.first_layers(layers)?;
    let mut ids = text_ids(&opened, VERIFY_TEXT);
    ids.truncate(positions.min(opened.model.context_length));
    let probe = Script::whole(&[ids[..PROBE.min(ids.len())].to_vec()]);
    let script = Script::chunked(&[ids], CHUNKS);
    let all = [&script, &probe].into_iter();
    // A divided model is divided here as well, with at most half of the layers on the
    // first device.
    let mut options = gated.options.clone();
    let on_first = options
        .placement
        .as_mut()
        .and_then(|p| p.gpu_layers.as_mut());
    if let Some(n) = on_first.filter(|n| **n <= gated.opened.model.layers) {
        *n = (*n).min((layers / 2).max(1));
    }
    let mut candidate = load_candidate(&opened, registry, &options, all)?;
    let program = candidate.program().clone();
    let mut oracle = load_oracle(&opened, registry, &program, program.acts())?;
    let start = Instant::now();
    compare(&mut oracle, &mut candidate, &probe)?;
    let each = start.elapsed().as_secs_f64() / PROBE as f64;
    if each * positions as f64 > limit {
        return Ok(());
    }
    let tally = compare(&mut oracle, &mut candidate, &script)?;
    let s = tally.summary().context("the gate compared no positions")?;
    if !Bounds::of_program(&program).hold(&s) {
        c.fail(format!(
            "the first {} layers and {ORACLE} differ: {s}",
            opened.model.layers
        ));
    }
    let (timed, here) = (keys(gated.timed), keys(&program));
    c.slice = Some(Slice {
        layers: opened.model.layers,
        positions: s.positions,
        kl_mean: s.mean_kl,
        kl_max: s.max_kl,
        top1: s.top1,
        keys_left_out: timed.difference(&here).cloned().collect(),
    });
    Ok(())
}

/// Layers that the oracle can do in half of the time, one at least.
fn affordable(gated: &Gated<'_>) -> Result<usize> {
    let positions: usize = CHUNKS.iter().sum();
    let parameters = |n| -> Result<f64> {
        let model = gated.opened.model.first_layers(n)?;
        Ok(model.parameters as f64)
    };
    let whole = gated.opened.model.layers;
    let budget = gated.limit.as_secs_f64() / 2.0 * ORACLE_RATE / positions as f64;
    let mut layers = 1;
    while layers < MOST_LAYERS.min(whole) && parameters(layers + 1)? <= budget {
        layers += 1;
    }
    Ok(layers)
}
