//! Ring 3: a backend's logits against the oracle's, token by token.
//!
//! The oracle is planned with the candidate's activation formats and KV scheme and
//! plays the same script, so that what is left are sums in another order and
//! mistakes.

use super::GateError;
use super::script::{Player, RowId, Script, StepRows, Trace};
use crate::stats::{Summary, Tally, compare_row};
use graph::{CacheKind, Graph};
use hal::Device;
use planner::{ActMap, Program};
use registry::{Act, Registry, Tuned};
use runtime::{LoadOptions, Opened, Runner};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The backend that everything is compared with.
pub const ORACLE: &str = "cpu_reference";

/// What a comparison must keep to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Nats per position.
    pub mean_kl: f64,
    pub max_kl: f64,
    /// Least share of rows, see [`Summary::top1`].
    pub top1: f64,
}

impl Default for Bounds {
    /// Same weights, same activation format.
    fn default() -> Self {
        Bounds {
            mean_kl: 3e-4,
            max_kl: 2e-2,
            top1: 0.99,
        }
    }
}

impl Bounds {
    /// What is to be expected of kernels that round nothing on the way: without
    /// activations that fall to one side or the other of a rounding step, far less
    /// noise is left than the default allows.
    pub fn of(acts: &ActMap) -> Self {
        if acts.values().all(|a| *a == Act::F32) {
            return Bounds {
                mean_kl: 1e-6,
                max_kl: 1e-4,
                ..Bounds::default()
            };
        }
        // Sums in another order differ in the last bit; here and there that turns the
        // rounding of an activation, and from the next layer on nearly every rounding
        // falls anew. Two runs are then as far apart as each is from no rounding at
        // all, so for int8, whose steps are large, the cap on that distance is what
        // can be asked. Plans that keep to f32 show what it would hide.
        Bounds {
            mean_kl: act_cost_bound(acts),
            ..Bounds::default()
        }
    }

    /// The same for a whole program: what its caches round counts, too.
    pub fn of_program(program: &Program) -> Self {
        let of = Bounds::of(&program.acts());
        if program.cache.scheme.scale_bytes() == 0 {
            return of;
        }
        // A last bit turns a scale or a code here and there, and then nearly all of
        // them, as in rounded activations. Where those are rounded as well, keys and
        // values differ by a good part of a step to begin with, and the steps are as
        // large as those of activations in int8.
        let acts = program.acts();
        let rounded = match acts.values().all(|a| *a == Act::F32) {
            true => Bounds::default().mean_kl,
            false => INT8_COST,
        };
        Bounds {
            mean_kl: of.mean_kl.max(rounded),
            max_kl: of.max_kl.max(Bounds::default().max_kl),
            top1: of.top1,
        }
    }

    /// For machines that nobody has seen: the default, or what caches that round need.
    pub fn anywhere(program: &Program) -> Self {
        match program.cache.scheme.scale_bytes() {
            0 => Bounds::default(),
            _ => Bounds::of_program(program),
        }
    }

    pub fn hold(&self, s: &Summary) -> bool {
        // Written so that NaN fails.
        s.mean_kl <= self.mean_kl && s.max_kl <= self.max_kl && s.top1 >= self.top1
    }
}

/// Mean KL that the activation formats of a default may add to f32 activations.
pub fn act_cost_bound(acts: &ActMap) -> f64 {
    let float = |a: &Act| matches!(a, Act::F32 | Act::Bf16 | Act::F16);
    if acts.values().all(float) {
        3e-4
    } else {
        INT8_COST
    }
}

/// Mean KL that int8 may add.
const INT8_COST: f64 = 2e-3;

/// f32 activations in every op of every bucket.
pub fn f32_acts(opened: &Opened) -> ActMap {
    acts_of(opened, Act::F32, Act::F32)
}

/// The same formats in every bucket: one for products with matrices, one for attention.
pub fn acts_of(opened: &Opened, products: Act, attention: Act) -> ActMap {
    let mut acts = ActMap::new();
    for bucket in planner::buckets(usize::MAX) {
        for (i, node) in opened.graph.nodes().iter().enumerate() {
            let kind = node.op.kind();
            if kind.has_act() {
                let act = if kind.multiplies() {
                    products
                } else {
                    attention
                };
                acts.insert((bucket.min, graph::NodeId(i as u32)), act);
            }
        }
    }
    acts
}

/// A short name of a program's numbers: two programs of one model with the same
/// name have the same oracle.
pub fn acts_key(program: &Program) -> String {
    let acts = program.acts();
    let mut pairs: Vec<_> = acts.iter().map(|((rows, n), a)| (*rows, n.0, *a)).collect();
    pairs.sort();
    let mut key = program.cache.scheme.0.to_string();
    let mut last = None;
    for (rows, node, act) in pairs {
        if last != Some((rows, act)) {
            key.push_str(&format!(" {rows}:{node}={act}"));
            last = Some((rows, act));
        }
    }
    key
}

/// Sets the limits that let any of the scripts run.
pub fn fit<'s>(options: &mut LoadOptions, scripts: impl Iterator<Item = &'s Script> + Clone) {
    let most = |f: fn(&Script) -> usize| scripts.clone().map(f).max().unwrap_or(1).max(1);
    options.all_logits = true;
    let rows = most(Script::max_rows);
    options.rows = Some(rows);
    options.sequences = most(Script::sequences);
    options.context = Some(most(Script::context).max(rows));
}

/// A candidate that any of the scripts fits, planned as the options say.
pub fn load_candidate<'s>(
    opened: &Opened,
    registry: &Registry,
    options: &LoadOptions,
    scripts: impl Iterator<Item = &'s Script> + Clone,
) -> Result<Runner, GateError> {
    let mut options = options.clone();
    fit(&mut options, scripts);
    Ok(opened.load(registry, &options, &mut |_, _| {})?.runner)
}

/// As [`load_candidate`], on a device that is open already.
pub fn load_on<'s>(
    opened: &Opened,
    registry: &Registry,
    device: Arc<dyn Device>,
    options: &LoadOptions,
    scripts: impl Iterator<Item = &'s Script> + Clone,
) -> Result<Runner, GateError> {
    let mut options = options.clone();
    fit(&mut options, scripts);
    let program = opened.plan(registry, &options.backend, device.info(), &options)?;
    let tensors = &opened.files.tensors;
    let devices = runtime::device::with_second(device, &program, &options.open)?;
    Ok(Runner::load_on(
        devices,
        Arc::new(program),
        tensors,
        &mut |_, _| {},
    )?)
}

/// The oracle with the limits and the KV scheme of a candidate's program, in the
/// activation formats given: the candidate's own ([`Program::acts`]) to judge its
/// kernels, [`f32_acts`] to see what the formats cost.
pub fn load_oracle(
    opened: &Opened,
    registry: &Registry,
    candidate: &Program,
    acts: ActMap,
) -> Result<Runner, GateError> {
    let limits = &candidate.limits;
    let mut options = LoadOptions::new(ORACLE);
    options.context = Some(limits.context);
    options.rows = Some(limits.rows);
    options.sequences = limits.sequences;
    options.all_logits = limits.all_logits;
    options.kv = Some(candidate.cache.scheme.0.into());
    options.acts = Some(acts);
    options.tuned = Some(Tuned::default());
    options.fusion = false;
    Ok(opened.load(registry, &options, &mut |_, _| {})?.runner)
}

/// Plays the script on both, action by action, and compares every row.
pub fn compare(
    oracle: &mut Runner,
    candidate: &mut Runner,
    script: &Script,
) -> Result<Tally, GateError> {
    let mut tally = Tally::default();
    let (mut a, mut b) = (Player::new(script), Player::new(script));
    let played = loop {
        let want = match a.step(oracle) {
            Ok(Some(rows)) => rows,
            Ok(None) => break Ok(()),
            Err(e) => break Err(e),
        };
        match b.step(candidate) {
            Ok(Some(have)) => tally_rows(&mut tally, want, have),
            Ok(None) => break Ok(()),
            Err(e) => break Err(e),
        }
    };
    a.finish(oracle)?;
    b.finish(candidate)?;
    played.map(|()| tally)
}

pub(crate) fn tally_rows(tally: &mut Tally, want: StepRows<'_, '_>, have: StepRows<'_, '_>) {
    let rows = want.0.len();
    if rows == 0 {
        return;
    }
    let vocab = want.1.len() / rows;
    let pairs = want.1.chunks_exact(vocab).zip(have.1.chunks_exact(vocab));
    for (o, c) in pairs {
        tally.push(compare_row(o, c));
    }
}

/// Compares two recordings of one script.
///
/// # Panics
/// When they are of different scripts.
pub fn compare_traces(oracle: &Trace, candidate: &Trace) -> Tally {
    assert_eq!(oracle.ids, candidate.ids, "traces of one script");
    let mut tally = Tally::default();
    tally_rows(
        &mut tally,
        (&oracle.ids, &oracle.logits),
        (&candidate.ids, &candidate.logits),
    );
    tally
}

/// The scripts that every backend is held to: whole and chunked prefill through
/// every row bucket, alone and in ragged batches, cold and on prefixes that the
/// cache holds.
///
/// `ids` are cut into four streams of about a quarter each. `forgets` says that
/// sequences can be cut back by their last step only: see [`forgets`].
pub fn matrix(ids: &[u32], forgets: bool) -> Vec<Script> {
    let n = ids.len();
    let at = |part: usize| part * n / 8;
    // Lengths that differ and are no multiples of a block.
    let streams: Vec<Vec<u32>> = [0..at(3), at(3)..at(5), at(5)..at(7), at(7)..n]
        .into_iter()
        .map(|r| ids[r].to_vec())
        .filter(|s| !s.is_empty())
        .collect();
    let first = &streams[0];
    // One step after the cut, so that a window still holds what the cut needs.
    let cut = first.len() / 2;
    let turn = if forgets { usize::MAX } else { 5 };
    let other = streams.last().unwrap_or(first);
    // Short, since it adds no length of chunk or cache that the others lack.
    let eight: Vec<Vec<u32>> = (0..8)
        .map(|i| ids[i * n / 8..][..n.div_ceil(8).min(6)].to_vec())
        .collect();
    vec![
        Script::whole(&streams),
        Script::chunked(&streams, &[66, 1, 18, 1, 2, 1, 15, 64, 1]),
        // Decoding beside prefill, in every bucket.
        Script::batched(&streams, &[1, 1, 1, 1]),
        Script::batched(&streams, &[1, 3, 40, 33]),
        Script::batched(&eight, &[1]),
        Script::prefix_hit(first, cut, other, turn),
    ]
}

/// Whether a model's sequences can be cut back by their last step only: windows
/// free what they no longer see, and recurrent states are replaced.
pub fn forgets(graph: &Graph) -> bool {
    graph.caches().any(|(_, c)| c.kind != CacheKind::Full)
}

/// What [`repeat`] found.
pub struct Repeated {
    /// Runs of the script with recorded steps, the first one included.
    pub runs: usize,
    /// The first row that differs, and in which run.
    pub found: Option<(RowId, String)>,
}

/// Whether a runner gives the same bits when a script runs again and again, `runs` times
/// in all unless `within` is over sooner (twice at least), and when every step is
/// recorded anew.
///
/// # Errors
/// Those of running it.
pub fn repeat(
    runner: &mut Runner,
    script: &Script,
    runs: usize,
    within: Duration,
) -> Result<Repeated, GateError> {
    let start = Instant::now();
    let first = Trace::record(runner, script)?;
    let mut done = 1;
    while done < runs.max(2) && (done == 1 || start.elapsed() < within) {
        done += 1;
        let again = Trace::record(runner, script)?;
        if let Some(row) = first.first_difference(&again) {
            let found = Some((row, format!("repeated, run {done}")));
            return Ok(Repeated { runs: done, found });
        }
    }
    runner.set_eager(true);
    let eager = Trace::record(runner, script);
    runner.set_eager(false);
    let found = first.first_difference(&eager?);
    Ok(Repeated {
        runs: done,
        found: found.map(|row| (row, "recorded anew".into())),
    })
}

/// The first row that [`repeat`] finds in two runs, and in which.
///
/// # Errors
/// Those of [`repeat`].
pub fn first_unrepeatable(
    runner: &mut Runner,
    script: &Script,
) -> Result<Option<(RowId, String)>, GateError> {
    Ok(repeat(runner, script, 2, Duration::MAX)?.found)
}
