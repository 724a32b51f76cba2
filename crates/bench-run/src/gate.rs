//! The gate that a published figure carries: every kernel of the timed plans at the
//! model's own sizes (ring 2), then the whole model. Where the oracle can run it,
//! that is ring 3; where it is too large, or its weights are random, the plan is
//! held against its plain chain.

mod chain;
mod ring2;
mod slice;

pub use slice::{Slice, first_layers, slice};

use anyhow::{Context as _, Result};
use parity::model_gate::{
    Bounds, EvalOptions, Evaluation, ORACLE, Reference, Script, VERIFY_TEXT, act_cost_bound,
    compare, evaluate, f32_acts, fit, forgets, load_candidate, load_oracle, matrix, text_ids,
};
use parity::stats::{Summary, Tally};
use planner::Program;
use registry::Registry;
use runtime::{LoadOptions, Opened, Runner};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

/// Tokens compared where the oracle is quick: enough for every row bucket, chunked,
/// whole and batched.
const IDS: usize = 280;
/// Below so many the scripts say too little.
const FEWEST_IDS: usize = 48;
/// Positions that the scripts make of each token, about, and oracles that run them.
const RUNS_PER_ID: f64 = 6.0;
/// Multiply-adds that the oracle does in a second, at least.
const ORACLE_RATE: f64 = 4e8;
/// A step through every row bucket.
const CHUNKS: &[usize] = &[1, 2, 17, 1, 70];

/// What the gate found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Correctness {
    pub passed: bool,
    /// What did not hold, in words.
    pub failures: Vec<String>,
    /// The tree that kernels are compared with.
    pub oracle: String,
    /// Uses of kernels in the timed plans that were compared with the oracle's chain.
    pub kernels: usize,
    /// Those among them whose matrices were cut to some output rows.
    pub kernels_sampled: usize,
    /// Largest error over tolerance among them.
    pub kernels_worst: f64,
    pub kernels_failed: Vec<String>,
    /// Uses that the oracle had no time for; each of their keys was compared at
    /// another size.
    pub kernels_left_out: usize,
    /// What the whole model was compared with: the oracle, or a chain of primitives.
    pub chain: String,
    pub positions: usize,
    /// KL(chain‖candidate) in nats, same weights, KV scheme and activation format;
    /// none is claimed of random weights.
    pub kl_mean: Option<f64>,
    pub kl_p99: Option<f64>,
    pub kl_max: Option<f64>,
    pub top1: Option<f64>,
    /// Mean KL against f32 activations: what the activation format costs.
    pub act_kl_mean: Option<f64>,
    /// Root mean square of a row's error over the spread of its logits, the worst.
    pub logit_error: Option<f64>,
    /// The same error between the plain chain in the plan's activation formats and in
    /// f32, where it was asked for: what rounding activations does. Products whose
    /// format no primitive of the backend has are in f32 in both (`chain` counts them),
    /// so it says less than all roundings of the plan do. Of the row bucket that
    /// decides: the one where the plan's is the largest beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act_logit_error: Option<f64>,
    /// That of the plan in the same bucket, against the plain chain in f32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own_act_logit_error: Option<f64>,
    /// The first layers against the oracle, where it could not run the whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slice: Option<Slice>,
    pub quality: Option<Quality>,
}

/// How well the model reads a text, and how far from an unquantised one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quality {
    pub text: String,
    pub positions: usize,
    pub perplexity: f64,
    pub against: Option<String>,
    pub reference_perplexity: Option<f64>,
    pub kl_mean: Option<f64>,
    pub kl_p99: Option<f64>,
    pub kl_max: Option<f64>,
    /// Share of positions with the same best token.
    pub top1: Option<f64>,
}

impl Quality {
    pub fn of(text: String, against: Option<String>, e: &Evaluation) -> Self {
        let s = e.against.as_ref();
        Quality {
            text,
            positions: e.positions,
            perplexity: e.perplexity,
            against,
            reference_perplexity: e.reference_perplexity,
            kl_mean: s.map(|s| s.mean_kl),
            kl_p99: s.map(|s| s.p99_kl),
            kl_max: s.map(|s| s.max_kl),
            top1: s.map(|s| s.top1_raw),
        }
    }
}

impl Correctness {
    pub fn table(&self) -> String {
        let mut out = format!(
            "  gate     {} kernel uses (worst {:.2} of tolerance), {} positions against {}:",
            self.kernels, self.kernels_worst, self.positions, self.chain
        );
        let figures = [
            ("KL mean", self.kl_mean),
            ("max", self.kl_max),
            ("activations cost", self.act_kl_mean),
            ("relative logit error", self.logit_error),
            ("of rounded activations", self.act_logit_error),
            ("its own", self.own_act_logit_error),
        ];
        for (name, x) in figures {
            out += &x.map_or(String::new(), |x| format!(" {name} {x:.1e},"));
        }
        let top1 = self.top1.map(|t| format!(" top-1 {:.2} %,", t * 100.0));
        out += &top1.unwrap_or_default();
        let mut out = out.trim_end_matches([',', ':']).to_string() + "\n";
        if let Some(s) = &self.slice {
            out += &format!(
                "  gate     first {} layers, {} positions against {}: KL mean {:.1e}, max {:.1e}, top-1 {:.2} %, {} keys not met\n",
                s.layers,
                s.positions,
                self.oracle,
                s.kl_mean,
                s.kl_max,
                s.top1 * 100.0,
                s.keys_left_out.len()
            );
        }
        for failure in &self.failures {
            out += &format!("  FAILED   {failure}\n");
        }
        if let Some(q) = &self.quality {
            out += &format!("  quality  perplexity {:.3} on {}", q.perplexity, q.text);
            if let (Some(kl), Some(top1), Some(base)) = (q.kl_mean, q.top1, &q.against) {
                out += &format!(
                    ", KL {kl:.4} and top-1 {:.1} % against {base}",
                    top1 * 100.0
                );
            }
            out.push('\n');
        }
        out
    }

    fn take(&mut self, s: &Summary) {
        self.positions = s.positions;
        self.kl_mean = Some(s.mean_kl);
        self.kl_p99 = Some(s.p99_kl);
        self.kl_max = Some(s.max_kl);
        self.top1 = Some(s.top1);
    }

    fn fail(&mut self, what: impl Into<String>) {
        self.failures.push(what.into());
    }
}

/// What is to be gated.
pub struct Gated<'a> {
    pub opened: &'a Opened,
    pub registry: &'a Registry,
    pub options: &'a LoadOptions,
    /// The plans that will be timed.
    pub timed: &'a Program,
    /// Whose weights are random: no KL is claimed.
    pub synthetic: bool,
    /// About how long the oracle may take.
    pub limit: Duration,
}

/// Climbs the rings for the timed plans. A gate that does not hold is in the
/// result; an error means that it could not run.
pub fn climb(gated: &Gated<'_>) -> Result<Correctness> {
    let mut c = Correctness {
        oracle: ORACLE.into(),
        ..Correctness::default()
    };
    let positions = affordable(gated);
    match (gated.synthetic, positions >= FEWEST_IDS) {
        (false, true) => ring3(gated, positions, &mut c)?,
        _ => chain::chain(gated, &mut c)?,
    }
    if c.chain != ORACLE {
        slice(gated, &mut c)?;
    }
    ring2::ring2(gated, &mut c)?;
    c.passed = c.failures.is_empty();
    Ok(c)
}

/// Tokens that the oracle can read in half of the time.
fn affordable(gated: &Gated<'_>) -> usize {
    let per_id = gated.opened.model.parameters as f64 * RUNS_PER_ID / ORACLE_RATE;
    let ids = gated.limit.as_secs_f64() / 2.0 / per_id.max(1e-9);
    (ids as usize).min(IDS)
}

/// The model against the oracle.
fn ring3(gated: &Gated<'_>, ids: usize, c: &mut Correctness) -> Result<()> {
    let (opened, registry) = (gated.opened, gated.registry);
    let mut ids_of = text_ids(opened, VERIFY_TEXT);
    ids_of.truncate(ids);
    let scripts = matrix(&ids_of, forgets(&opened.graph));
    // The scripts need other limits than the timed plans; the kernels are the same
    // or the comparison says nothing.
    let mut candidate = load_like(gated, scripts.iter())?;
    let program = candidate.program().clone();
    let mut same = load_oracle(opened, registry, &program, program.acts())?;
    let mut tally = Tally::default();
    for script in &scripts {
        tally.extend(&compare(&mut same, &mut candidate, script)?);
    }
    drop(same);
    // Row buckets may round in formats of their own: each way to cut the batch is
    // another mix of them, and the dearest counts.
    let nothing = "the gate compared no positions";
    let mut plain = load_oracle(opened, registry, &program, f32_acts(opened))?;
    let mut cost = 0.0;
    for script in &scripts {
        let one = compare(&mut plain, &mut candidate, script)?;
        cost = worse(cost, one.summary().context(nothing)?.mean_kl);
    }
    let summary = tally.summary().context(nothing)?;
    let acts = program.acts();
    c.chain = ORACLE.into();
    c.take(&summary);
    c.act_kl_mean = Some(cost);
    if !Bounds::of_program(&program).hold(&summary) {
        c.fail(format!("the model and {ORACLE} differ: {summary}"));
    }
    // Written so that NaN fails.
    let cheap = cost <= act_cost_bound(&acts);
    if !cheap {
        c.fail(format!(
            "the activation formats cost a mean KL of {:.1e}, more than {:.0e}",
            cost,
            act_cost_bound(&acts)
        ));
    }
    Ok(())
}

/// A candidate that any of the scripts fits. Which kernel is the best may depend on how
/// many rows a plan is for (whether most experts have some, for one): where that tells,
/// the plans are for as many as the timed ones.
fn load_like<'s>(
    gated: &Gated<'_>,
    scripts: impl Iterator<Item = &'s Script> + Clone,
) -> Result<Runner> {
    let (opened, registry) = (gated.opened, gated.registry);
    let candidate = load_candidate(opened, registry, gated.options, scripts.clone())?;
    if same_kernels(gated.timed, candidate.program()).is_ok() {
        return Ok(candidate);
    }
    drop(candidate);
    let mut options = gated.options.clone();
    fit(&mut options, scripts);
    options.rows = options.rows.max(Some(gated.timed.limits.rows));
    options.context = options.context.max(options.rows);
    let candidate = opened.load(registry, &options, &mut |_, _| {})?.runner;
    same_kernels(gated.timed, candidate.program())?;
    Ok(candidate)
}

/// The larger; NaN is the worst of all.
fn worse(a: f64, b: f64) -> f64 {
    if a.is_nan() || b <= a { a } else { b }
}

fn keys(program: &Program) -> BTreeSet<String> {
    let steps = program.plans.iter().flat_map(|p| &p.steps);
    steps.map(|s| s.key.to_string()).collect()
}

fn same_kernels(timed: &Program, gated: &Program) -> Result<()> {
    let (timed, gated) = (keys(timed), keys(gated));
    match timed.difference(&gated).next() {
        Some(stray) => anyhow::bail!(
            "the timed plans use {stray}, which the gate's plans do not: this is a defect of bench-run"
        ),
        None => Ok(()),
    }
}

/// Perplexity on a text, and KL against another model that is loaded beside it.
pub fn quality(
    opened: &Opened,
    registry: &Registry,
    options: &LoadOptions,
    text: (&str, &str),
    against: Option<(&str, &Opened)>,
) -> Result<Quality> {
    let (name, text) = text;
    let how = EvalOptions {
        chunk: 512.min(opened.model.context_length),
        first: 256.min(opened.model.context_length / 2),
        ..EvalOptions::default()
    };
    let ids = text_ids(opened, text);
    let script = Script::whole(&[ids[..how.chunk.min(ids.len())].to_vec()]);
    let load = |opened: &Opened, options: &LoadOptions| -> Result<Runner> {
        let mut options = options.clone();
        fit(&mut options, std::iter::once(&script));
        Ok(opened.load(registry, &options, &mut |_, _| {})?.runner)
    };
    let mut own = load(opened, options)?;
    let mut reference = match against {
        None => None,
        Some((name, base)) => {
            anyhow::ensure!(
                base.model.vocab_size == opened.model.vocab_size,
                "{name} has another vocabulary: it cannot be compared with"
            );
            // The unquantised model in its own best form: f32 activations.
            let mut options = options.clone();
            options.acts = Some(f32_acts(base));
            Some(load(base, &options)?)
        }
    };
    let e = evaluate(
        &mut own,
        reference.as_mut().map(Reference::Runner),
        None,
        &ids,
        &how,
        &mut |_, _| {},
    )?;
    Ok(Quality::of(name.into(), against.map(|(n, _)| n.into()), &e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// Scripts that are too short for every row bucket of the timed plans are played on
    /// plans for as many rows as those.
    #[test]
    fn few_tokens_are_compared_on_the_timed_kernels() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models");
        let opened = Opened::open(&fixtures.join("ferris-moe-2.7m")).unwrap();
        let registry = Registry::collect().unwrap();
        let mut options = LoadOptions::new("cpu_simd");
        options.context = Some(512);
        let (_, timed) = opened.place(&registry, &options).unwrap();
        let gated = Gated {
            opened: &opened,
            registry: &registry,
            options: &options,
            timed: &timed,
            synthetic: false,
            limit: Duration::ZERO,
        };
        let ids = text_ids(&opened, VERIFY_TEXT);
        let scripts = matrix(&ids[..FEWEST_IDS], forgets(&opened.graph));
        let short = load_candidate(&opened, &registry, &options, scripts.iter()).unwrap();
        assert!(same_kernels(&timed, short.program()).is_err());
        let mut c = Correctness::default();
        ring3(&gated, FEWEST_IDS, &mut c).unwrap();
        assert_eq!(c.failures, Vec::<String>::new());
        assert_eq!(c.chain, ORACLE);
    }
}
