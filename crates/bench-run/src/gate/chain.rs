//! The whole model against its plain chain, where the oracle cannot run it or its
//! weights are random.

use super::{CHUNKS, Correctness, Gated, ORACLE_RATE, load_like, worse};
use anyhow::{Context as _, Result};
use parity::model_gate::{
    Bounds, GateError, ORACLE, Script, VERIFY_TEXT, f32_acts, fit, load_on, load_oracle, play,
    text_ids,
};
use parity::stats::{Tally, compare_row, sigma};
use planner::{ActMap, PlanError, Program};
use registry::{Act, RegistryError, Request, Tuned};
use runtime::{LoadOptions, Runner, RuntimeError};
use std::collections::BTreeMap;

/// Bound of the error of random weights' logits, relative to their spread. Two ways
/// to sum round activations of a coarse format to other neighbours here and there,
/// and layer by layer that grows until all roundings fall anew. The two then differ
/// by up to √2 of what the rounding itself does. So in row buckets where they differ
/// by more than this, both are compared with activations in f32: the plan may be off
/// by as much as its plain chain, bucket by bucket. Each bucket has a plan of its own,
/// and what one of them rounds excuses no other.
const MAX_LOGIT_ERROR: f64 = 1e-2;
/// How much farther from f32 activations a bucket may be than its plain chain: single
/// rows of two that round alike scatter by about four percent (1024 wide, eight layers).
const ACT_ERROR_SLACK: f64 = 1.1;

/// The model against its plain chain: the oracle in the same activation formats if
/// it is quick enough, else primitives of the same backend.
pub fn chain(gated: &Gated<'_>, c: &mut Correctness) -> Result<()> {
    let (opened, registry) = (gated.opened, gated.registry);
    let mut ids = text_ids(opened, VERIFY_TEXT);
    let total: usize = CHUNKS.iter().sum();
    ids.truncate(total.min(opened.model.context_length));
    let script = Script::chunked(&[ids], CHUNKS);
    let scripts = std::iter::once(&script);
    let mut candidate = load_like(gated, scripts.clone())?;
    let program = candidate.program().clone();
    let wanted = opened.model.parameters as f64 * total as f64 / ORACLE_RATE;
    let by_oracle = wanted < gated.limit.as_secs_f64() / 2.0;
    c.chain = match by_oracle {
        true => ORACLE.into(),
        false => format!("unfused {}", program.backend.name),
    };
    let device = candidate.device().clone();
    let mut acts = program.acts();
    if !by_oracle {
        let fewer = without_own_formats(gated, &program, &script, &mut acts)?;
        if fewer > 0 {
            c.chain += &format!(", {fewer} products of its plans in f32");
        }
    }
    let plain = |acts: ActMap| match by_oracle {
        true => load_oracle(opened, registry, &program, acts),
        false => {
            let mut options = plain_options(gated, &program);
            options.acts = Some(acts);
            load_on(opened, registry, device.clone(), &options, scripts.clone())
        }
    };
    let mut first = plain(acts)?;
    let vocab = first.vocab();
    let want = logits(&mut first, &script)?;
    drop(first);
    let have = logits(&mut candidate, &script)?;
    let mut tally = Tally::default();
    for (want, have) in want.chunks_exact(vocab).zip(have.chunks_exact(vocab)) {
        tally.push(compare_row(want, have));
    }
    let summary = tally.summary().context("the gate compared no positions")?;
    c.positions = summary.positions;
    let buckets = buckets_of(&program, &script);
    let errors = worst_logit_errors(&buckets, &want, &have, vocab);
    let worst = errors.values().copied().fold(0.0, worse);
    c.logit_error = Some(worst);
    let mut far = far(&errors);
    let mut why = format!("more than {MAX_LOGIT_ERROR:.0e}");
    let rounded = program.acts().values().any(|a| *a != Act::F32);
    let exact = match !far.is_empty() && rounded {
        true => match plain(f32_acts(opened)) {
            Err(e) if no_kernel(&e) => {
                why += &format!(", and there are no f32 activations to measure both by: {e:#}");
                None
            }
            exact => Some(exact?),
        },
        false => None,
    };
    if let Some(mut exact) = exact {
        let exact = logits(&mut exact, &script)?;
        let [cost, own] =
            [&want, &have].map(|rows| worst_logit_errors(&buckets, &exact, rows, vocab));
        if let Some((rows, cost, own)) = farthest(&far, &cost, &own) {
            // What is no number is no JSON either; the failure says it.
            let figure = |e: f64| Some(e).filter(|e| e.is_finite());
            (c.act_logit_error, c.own_act_logit_error) = (figure(cost), figure(own));
            why = format!(
                "and in steps of {rows} rows and more from those of f32 activations by {own:.1e} where the chain does by {cost:.1e}"
            );
        }
        far.retain(|rows| !excused(cost[rows], own[rows]));
    }
    if !far.is_empty() {
        c.fail(format!(
            "logits differ from those of {} by {worst:.1e} of their spread, {why}",
            c.chain
        ));
    }
    if !gated.synthetic {
        c.take(&summary);
        if !Bounds::of_program(&program).hold(&summary) {
            c.fail(format!("the model and {} differ: {summary}", c.chain));
        }
    }
    Ok(())
}

/// Puts f32 where the primitives of a step's backend lack an activation format, which
/// a fused kernel may have to itself. Returns how many there were.
fn without_own_formats(
    gated: &Gated<'_>,
    program: &Program,
    script: &Script,
    acts: &mut ActMap,
) -> Result<usize> {
    let mut options = plain_options(gated, program);
    fit(&mut options, std::iter::once(script));
    let (chosen, plain) = gated.opened.place(gated.registry, &options)?;
    drop(chosen);
    let targets = plain.targets();
    let tuned = Tuned::default();
    let mut changed = 0;
    for ((rows, node), act) in acts.iter_mut() {
        let plans = plain.plans.iter().filter(|p| p.rows.min == *rows);
        let mut steps = plans.flat_map(|p| &p.steps);
        let Some(step) = steps.find(|s| s.nodes.contains(node)) else {
            continue;
        };
        let request = Request {
            backend: targets[step.target].backend.name,
            problem: &step.problem,
            tuned: &tuned,
            act: Some(*act),
            variant: None,
        };
        let found = gated.registry.candidates(&request);
        let known = found.is_ok_and(|(found, _)| !found.is_empty());
        if !known {
            *act = Act::F32;
            changed += 1;
        }
    }
    Ok(changed)
}

/// The timed plans' options without what is fused or picked.
fn plain_options(gated: &Gated<'_>, program: &Program) -> LoadOptions {
    let mut options = gated.options.clone();
    options.backend = program.backend.name.into();
    options.fusion = false;
    options.tuned = Some(Tuned::default());
    options
}

/// Logits of all positions of a script, row after row.
fn logits(runner: &mut Runner, script: &Script) -> Result<Vec<f32>> {
    let mut all = Vec::new();
    play(runner, script, &mut |_, rows| all.extend_from_slice(rows))?;
    Ok(all)
}

/// The row bucket of the step of each of a script's rows, by its least rows.
fn buckets_of(program: &Program, script: &Script) -> Vec<usize> {
    let bucket = |rows| program.plan_for(rows).map_or(rows, |p| p.rows.min);
    let steps = script.steps();
    steps
        .flat_map(|rows| std::iter::repeat_n(bucket(rows), rows))
        .collect()
}

/// The largest [`logit_error`] of each bucket's rows, or NaN if one is.
fn worst_logit_errors(
    buckets: &[usize],
    want: &[f32],
    have: &[f32],
    vocab: usize,
) -> BTreeMap<usize, f64> {
    let mut worst = BTreeMap::new();
    let rows = want.chunks_exact(vocab).zip(have.chunks_exact(vocab));
    for (bucket, (want, have)) in buckets.iter().zip(rows) {
        let most = worst.entry(*bucket).or_insert(0.0);
        *most = worse(*most, logit_error(want, have));
    }
    worst
}

/// Buckets that differ by more than any may.
fn far(errors: &BTreeMap<usize, f64>) -> Vec<usize> {
    // Written so that NaN is far.
    let near = |e: f64| e <= MAX_LOGIT_ERROR;
    let far = errors.iter().filter(|(_, e)| !near(**e));
    far.map(|(bucket, _)| *bucket).collect()
}

/// Whether a plan failed for want of a kernel: not every backend has one for every scheme
/// in f32 activations. All else, memory too, is no verdict.
fn no_kernel(e: &GateError) -> bool {
    let GateError::Runtime(e) = e else {
        return false;
    };
    let RuntimeError::Plan(e) = &**e else {
        return false;
    };
    matches!(&**e, PlanError::Kernel { source, .. } if matches!(**source, RegistryError::NoKernel { .. }))
}

/// Whether what the chain's activations cost excuses a bucket that far from f32 ones.
/// Logits that are none excuse nothing, on either side.
fn excused(cost: f64, own: f64) -> bool {
    cost.is_finite() && own.is_finite() && own <= cost * ACT_ERROR_SLACK
}

/// Of some buckets the one that is the farthest from f32 activations beside its chain,
/// with the chain's distance and its own.
fn farthest(
    of: &[usize],
    cost: &BTreeMap<usize, f64>,
    own: &BTreeMap<usize, f64>,
) -> Option<(usize, f64, f64)> {
    let all = of.iter().map(|b| (*b, cost[b], own[b]));
    // What is no number is the farthest, whatever its sign.
    let beside = |(_, cost, own): &(usize, f64, f64)| match own / cost {
        share if share.is_finite() && cost.is_finite() => share,
        _ => f64::INFINITY,
    };
    all.max_by(|a, b| beside(a).total_cmp(&beside(b)))
}

/// Root mean square of the error over the spread of the row.
fn logit_error(want: &[f32], have: &[f32]) -> f64 {
    let pairs = want.iter().zip(have);
    let squares: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (squares / want.len().max(1) as f64).sqrt() / sigma(want)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Source;
    use registry::Registry;
    use runtime::Placement;
    use std::time::Duration;

    #[test]
    fn logit_errors_are_relative_and_nan_is_the_worst() {
        let want = [1.0, -1.0, 1.0, -1.0];
        assert_eq!(logit_error(&want, &want), 0.0);
        let off = want.map(|x| x + 0.02);
        assert!((logit_error(&want, &off) - 0.02).abs() < 1e-6);
        assert!(logit_error(&want, &[f32::NAN; 4]).is_nan());
        let (two, mut have) = ([want, want].concat(), [want, off].concat());
        let worst = |buckets: &[usize], have: &[f32]| worst_logit_errors(buckets, &two, have, 4);
        assert!((worst(&[1, 1], &have)[&1] - 0.02).abs() < 1e-6);
        let apart = worst(&[1, 2], &have);
        assert_eq!((apart[&1], far(&apart)), (0.0, vec![2]));
        have[0] = f32::NAN;
        assert!(worst(&[1, 1], &have)[&1].is_nan());
        assert_eq!(far(&worst(&[1, 2], &have)), [1, 2]);
    }

    /// One bucket's bad row excuses no other bucket, and no number excuses nothing.
    #[test]
    fn each_bucket_is_excused_by_its_own_chain() {
        assert!(excused(0.03, 0.03) && !excused(0.03, 0.04));
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        for (cost, own) in [(inf, inf), (inf, 0.1), (0.1, inf), (nan, 0.1), (0.1, nan)] {
            assert!(!excused(cost, own), "{cost} {own}");
        }
        let cost = BTreeMap::from([(1, 0.02), (2, 0.9), (17, inf)]);
        let own = BTreeMap::from([(1, 0.2), (2, 0.9), (17, inf)]);
        assert_eq!(farthest(&[1, 2], &cost, &own), Some((1, 0.02, 0.2)));
        assert_eq!(farthest(&[1, 2, 17], &cost, &own).map(|f| f.0), Some(17));
        assert_eq!(farthest(&[], &cost, &own), None);
    }

    /// A step of the second target is looked up among that target's primitives.
    #[test]
    fn formats_are_those_of_the_backend_that_a_step_runs_on() {
        let source = Source::Synthetic {
            what: "tiny:q4_k".into(),
            layers: None,
        };
        let opened = crate::run::open(&source).unwrap();
        let registry = Registry::collect().unwrap();
        let mut options = LoadOptions::new("cpu_simd");
        options.placement = Some(Placement {
            gpu_layers: Some(1),
            ..Placement::new(ORACLE)
        });
        let (_, program) = opened.place(&registry, &options).unwrap();
        let gated = Gated {
            opened: &opened,
            registry: &registry,
            options: &options,
            timed: &program,
            synthetic: true,
            limit: Duration::ZERO,
        };
        let script = Script::whole(&[vec![1, 2, 3]]);
        // The first has no primitives of this format for every scheme, the oracle has.
        let mut acts = program.acts();
        acts.retain(|(_, n), _| program.graph.node(*n).op.kind().multiplies());
        acts.values_mut().for_each(|act| *act = Act::Bf16);
        let changed = without_own_formats(&gated, &program, &script, &mut acts).unwrap();
        let steps = program.plans.iter().flat_map(|p| {
            let steps = p.steps.iter();
            steps.flat_map(|s| s.nodes.iter().map(|n| (s.target, (p.rows.min, *n))))
        });
        let second = steps.filter(|(target, _)| *target == 1);
        let seconds: Vec<_> = second.filter_map(|(_, at)| acts.get(&at)).collect();
        assert!(!seconds.is_empty() && seconds.iter().all(|act| **act == Act::Bf16));
        assert!(changed > 0);
    }
}
