//! The gate that a published figure carries: every kernel of the timed plans at the
//! model's own sizes (ring 2), then the whole model. Where the oracle can run it,
//! that is ring 3; where it is too large, or its weights are random, the plan is
//! held against its plain chain.

mod slice;

pub use slice::{Slice, first_layers, slice};

use anyhow::{Context as _, Result};
use graph::{Op, OpKind};
use parity::kernel_gate::{ChainOracle, GateError, gate_problem};
use parity::model_gate::{
    Bounds, EvalOptions, Evaluation, ORACLE, Reference, Script, VERIFY_TEXT, act_cost_bound,
    compare, evaluate, f32_acts, fit, forgets, load_candidate, load_on, load_oracle, matrix, play,
    text_ids,
};
use parity::stats::{Summary, Tally, sigma};
use planner::Program;
use registry::{Kernel, OperandRole, OperandSrc, Problem, Registry, Tuned};
use runtime::{LoadOptions, Opened, Runner};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Tokens compared where the oracle is quick: enough for every row bucket, chunked,
/// whole and batched.
const IDS: usize = 280;
/// Below so many the scripts say too little.
const FEWEST_IDS: usize = 48;
/// Positions that the scripts make of each token, about, and oracles that run them.
const RUNS_PER_ID: f64 = 6.0;
/// Multiply-adds that the oracle does in a second, at least.
const ORACLE_RATE: f64 = 4e8;
/// Bound of the error of random weights' logits, relative to their spread.
const MAX_LOGIT_ERROR: f64 = 1e-2;
/// Output rows of a sampled matrix, and as many more as it has beyond multiples.
const SAMPLED_ROWS: usize = 256;
/// Experts that it is given, at least as many as a row takes.
const SAMPLED_EXPERTS: usize = 16;
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
        _ => chain(gated, &mut c)?,
    }
    if c.chain != ORACLE {
        slice(gated, &mut c)?;
    }
    ring2(gated, &mut c)?;
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
    let mut candidate = load_candidate(opened, registry, gated.options, scripts.iter())?;
    let program = candidate.program().clone();
    same_kernels(gated.timed, &program)?;
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
        let one = one.summary().context(nothing)?.mean_kl;
        // NaN is the dearest of all.
        cost = if one <= cost { cost } else { one };
    }
    let summary = tally.summary().context(nothing)?;
    let acts = program.acts();
    c.chain = ORACLE.into();
    c.take(&summary);
    c.act_kl_mean = Some(cost);
    if !Bounds::of(&acts).hold(&summary) {
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

/// The model against its plain chain: the oracle in the same activation formats if
/// it is quick enough, else primitives of the same backend.
fn chain(gated: &Gated<'_>, c: &mut Correctness) -> Result<()> {
    let (opened, registry) = (gated.opened, gated.registry);
    let mut ids = text_ids(opened, VERIFY_TEXT);
    let total: usize = CHUNKS.iter().sum();
    ids.truncate(total.min(opened.model.context_length));
    let script = Script::chunked(&[ids], CHUNKS);
    let scripts = std::iter::once(&script);
    let mut candidate = load_candidate(opened, registry, gated.options, scripts.clone())?;
    let program = candidate.program().clone();
    same_kernels(gated.timed, &program)?;
    let wanted = opened.model.parameters as f64 * total as f64 / ORACLE_RATE;
    let mut plain = match wanted < gated.limit.as_secs_f64() / 2.0 {
        true => {
            c.chain = ORACLE.into();
            load_oracle(opened, registry, &program, program.acts())?
        }
        false => {
            c.chain = format!("unfused {}", program.backend.name);
            let mut options = gated.options.clone();
            options.backend = program.backend.name.into();
            options.fusion = false;
            options.tuned = Some(Tuned::default());
            options.acts = Some(program.acts());
            load_on(
                opened,
                registry,
                candidate.device().clone(),
                &options,
                scripts,
            )?
        }
    };
    let vocab = plain.vocab();
    let mut want: Vec<f32> = Vec::new();
    play(&mut plain, &script, &mut |_, rows| {
        want.extend_from_slice(rows)
    })?;
    drop(plain);
    let (mut tally, mut worst, mut at) = (Tally::default(), 0f64, 0);
    play(&mut candidate, &script, &mut |_, rows| {
        for have in rows.chunks_exact(vocab) {
            let want = &want[at..at + vocab];
            at += vocab;
            // NaN is the worst of all.
            let error = logit_error(want, have);
            worst = if error <= worst { worst } else { error };
            tally.push(parity::stats::compare_row(want, have));
        }
    })?;
    let summary = tally.summary().context("the gate compared no positions")?;
    c.positions = summary.positions;
    c.logit_error = Some(worst);
    let near = worst <= MAX_LOGIT_ERROR;
    if !near {
        c.fail(format!(
            "logits differ from those of {} by {worst:.1e} of their spread, more than {MAX_LOGIT_ERROR:.0e}",
            c.chain
        ));
    }
    if !gated.synthetic {
        c.take(&summary);
        if !Bounds::of(&program.acts()).hold(&summary) {
            c.fail(format!("the model and {} differ: {summary}", c.chain));
        }
    }
    Ok(())
}

/// Root mean square of the error over the spread of the row.
fn logit_error(want: &[f32], have: &[f32]) -> f64 {
    let pairs = want.iter().zip(have);
    let squares: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (squares / want.len().max(1) as f64).sqrt() / sigma(want)
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

struct Use<'a> {
    key: String,
    kernel: &'static dyn Kernel,
    problem: &'a Problem,
    /// Of the program's targets, the one that it runs on.
    target: usize,
    cost: f64,
}

/// What a comparison with the oracle costs, in operations.
fn cost(problem: &Problem) -> f64 {
    let sizes = problem.inputs.iter();
    let stored: usize = sizes.map(|o| o.shape.iter().product::<usize>()).sum();
    // Weights are made and packed too.
    problem.flops(problem.rows.max) as f64 + 20.0 * stored as f64
}

/// Every distinct use of a kernel in the timed plans, the cheapest first, as far as
/// time goes.
fn ring2(gated: &Gated<'_>, c: &mut Correctness) -> Result<()> {
    let oracle = ChainOracle::open(gated.registry)?;
    let mut seen = BTreeSet::new();
    let mut uses = Vec::new();
    for step in gated.timed.plans.iter().flat_map(|p| &p.steps) {
        let problem = &step.problem;
        let (ops, ins) = (&problem.ops, &problem.inputs);
        let key = step.key.to_string();
        if seen.insert(format!("{key} {:?} {ops:?} {ins:?}", problem.rows)) {
            uses.push(Use {
                key,
                kernel: step.kernel,
                problem,
                target: step.target,
                cost: cost(problem),
            });
        }
    }
    uses.sort_by(|a, b| a.cost.total_cmp(&b.cost));
    let devices = gated_devices(gated)?;
    let start = Instant::now();
    let mut compared: BTreeMap<&str, bool> = BTreeMap::new();
    let mut pace = 0.0;
    for u in &uses {
        let known = compared.entry(&u.key).or_default();
        let left = gated.limit.saturating_sub(start.elapsed()).as_secs_f64();
        // What is too dear as a whole is compared at fewer output rows.
        let share = gated.limit.as_secs_f64() / 2.0 / uses.len() as f64;
        let dear = pace * u.cost > f64::max(share, left / 4.0);
        let sampled = sampled(u.problem, dear);
        let problem = sampled.as_ref().unwrap_or(u.problem);
        if *known && pace * cost(problem) > left {
            c.kernels_left_out += 1;
            continue;
        }
        let begun = Instant::now();
        let report = match gate_problem(u.kernel, problem, &*devices[u.target], &oracle, 1) {
            Ok(report) => report,
            Err(GateError::Case(reason)) => {
                c.kernels_failed.push(format!("{}: {reason}", u.key));
                continue;
            }
            Err(e) => return Err(e.into()),
        };
        pace = f64::max(pace, begun.elapsed().as_secs_f64() / cost(problem).max(1e6));
        *known = true;
        c.kernels += 1;
        c.kernels_sampled += usize::from(sampled.is_some());
        c.kernels_worst = c.kernels_worst.max(report.worst);
        if !report.passed() || report.cases == 0 {
            c.kernels_failed.push(report.to_string());
        }
    }
    if let Some(first) = c.kernels_failed.first() {
        let first = first.clone();
        c.fail(format!(
            "{} kernel uses differ from {ORACLE}, such as {first}",
            c.kernels_failed.len()
        ));
    }
    Ok(())
}

fn gated_devices(gated: &Gated<'_>) -> Result<Vec<std::sync::Arc<dyn hal::Device>>> {
    let open = &gated.options.open;
    let first = gated.timed.backend.open_device(open)?;
    Ok(runtime::device::with_second(first, gated.timed, open)?)
}

/// The same problem with fewer output rows or experts, where a matrix is so large,
/// or the whole so dear, that only a sample can be checked: the kernel keeps its K and
/// its layout.
fn sampled(problem: &Problem, dear: bool) -> Option<Problem> {
    let large = |o: &registry::Operand| {
        let elements: usize = o.shape.iter().product();
        o.role == OperandRole::Matrix && (dear || elements >= 1 << 26)
    };
    problem.inputs.iter().any(large).then_some(())?;
    fewer_experts(problem).or_else(|| fewer_rows(problem))
}

/// Each matrix that feeds an output, a sum or a product with so many fewer rows.
fn fewer_rows(problem: &Problem) -> Option<Problem> {
    let mut small = problem.clone();
    // What each op's rows become.
    let mut cut: Vec<Option<usize>> = vec![None; problem.ops.len()];
    let mut any = false;
    let first = |i: usize| problem.input(i, 0).map(|(at, _)| at);
    let read: Vec<usize> = (0..problem.ops.len())
        .take_while(|i| matches!(problem.ops[*i].op.kind(), OpKind::Linear | OpKind::RmsNorm))
        .filter_map(first)
        .collect();
    for (i, op) in problem.ops.iter().enumerate() {
        match op.op.kind() {
            OpKind::Linear => {
                let (at, matrix) = problem.input(i, 1)?;
                let n = matrix.shape[0];
                // As far from whole panels as it was.
                let few = SAMPLED_ROWS + n % SAMPLED_ROWS;
                any |= few < n;
                let few = few.min(n);
                small.inputs[at].shape[0] = few;
                if let Some((bias, _)) = problem.input(i, 2) {
                    small.inputs[bias].shape[0] = few;
                }
                small.ops[i].op = Op::Linear { out: vec![few] };
                small.ops[i].shape = vec![op.shape[0], few];
                cut[i] = Some(few);
            }
            OpKind::Add | OpKind::GatedMul(_) => {
                let mut few = None;
                for src in &op.inputs {
                    if let OperandSrc::Op(j) = src {
                        few = few.or(cut[*j]);
                    }
                }
                let few = few?;
                for slot in 0..op.inputs.len() {
                    if let Some((at, operand)) = problem.input(i, slot) {
                        // What the matrices read as well keeps its length.
                        if read.contains(&at) {
                            return None;
                        }
                        small.inputs[at].shape = vec![operand.shape[0], few];
                    }
                }
                small.ops[i].shape = vec![op.shape[0], few];
                cut[i] = Some(few);
            }
            // A norm of x comes before the matrices.
            _ if cut.iter().all(Option::is_none) => {}
            _ => return None,
        }
    }
    for (op, few) in problem.ops.iter().zip(cut) {
        if let (Some(output), Some(few)) = (op.output, few) {
            let rows = problem.outputs[output].shape[0];
            small.outputs[output].shape = vec![rows, few];
        }
    }
    any.then_some(small)
}

fn fewer_experts(problem: &Problem) -> Option<Problem> {
    let mut small = problem.clone();
    let mut cut = BTreeSet::new();
    for (i, op) in problem.ops.iter().enumerate() {
        let Op::ExpertLinear { experts } = op.op else {
            continue;
        };
        let few = SAMPLED_EXPERTS.max(op.shape.get(1).copied().unwrap_or(1));
        if few >= experts {
            return None;
        }
        small.ops[i].op = Op::ExpertLinear { experts: few };
        for slot in [1, 3] {
            if let Some((at, operand)) = problem.input(i, slot)
                && cut.insert(at)
            {
                small.inputs[at].shape[0] = operand.shape[0] / experts * few;
            }
        }
    }
    (!cut.is_empty()).then_some(small)
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

    #[test]
    fn logit_errors_are_relative_and_nan_is_the_worst() {
        let want = [1.0, -1.0, 1.0, -1.0];
        assert_eq!(logit_error(&want, &want), 0.0);
        let off = want.map(|x| x + 0.02);
        assert!((logit_error(&want, &off) - 0.02).abs() < 1e-6);
        assert!(logit_error(&want, &[f32::NAN; 4]).is_nan());
    }
}
