//! Ring 3 on the user's machine, with the user's model, within a time limit.

use super::GateError;
use super::ring3::{
    Bounds, ORACLE, act_cost_bound, compare_traces, fit, load_oracle, repeat, tally_rows,
};
use super::script::{Player, Script, Trace, text_ids};
use super::undecided::{PLAYS, decided, few_undecided, has_routers, undecided};
use crate::stats::Tally;
use registry::{Act, Registry};
use runtime::{LoadOptions, Opened, Runner};
use std::time::{Duration, Instant};

/// What models read here: prose, a list, numbers, code, a dialogue.
pub const VERIFY_TEXT: &str = "\
A gardener who trains a pear tree against a south wall does two things at once. The wall keeps \
the warmth of the day, so that fruit ripens which would fail in the open, and the tree, held flat \
on wires, gives every leaf its share of light. It takes seven or eight winters to finish the \
shape. Each one begins with the same question: which of last year's shoots belong to the plan, \
and which are merely vigorous?

The tools are few:
1. a pair of secateurs, sharp and clean;
2. soft twine, about 40 metres of it;
3. a ladder that stands by itself.

fn prune(shoots: &mut Vec<Shoot>, wires: &[f64]) {
    shoots.retain(|s| wires.iter().any(|w| (s.height - w).abs() < 0.05));
}

\"How much did it bear this year?\" asked the neighbour.
\"Eleven kilograms, where the free-standing one gave 6.5, and it is only half as old.\"
The neighbour counted the tiers, 1, 2, 3, 4, and shook her head. In 1998 there had been nothing \
here but nettles and a heap of broken tiles. Since then the wall had been pointed twice, the path \
moved, and the well, which nobody had used since the water main came, covered with an iron grate. \
Les poires mûrissent en septembre; die Äpfel erst im Oktober. Water boils at 100 °C at sea level \
and at about 93 °C two thousand metres higher, which is why jam made in the mountains takes \
longer to set than the recipe says.
";

/// Prompt tokens of one chunk: enough for the largest row bucket.
const CHUNK: usize = 72;

/// Positions that are compared whatever the limit: those of the first script before
/// its long step.
const LEAST: usize = 24;

/// Runs of the first script that must give the same bits, as far as this share of the
/// limit reaches.
const REPEATS: usize = 20;
const REPEATS_SHARE: f64 = 0.1;

/// The comparisons' share of the limit; the rest is for the checks behind them.
const COMPARISONS_SHARE: f64 = 0.8;

/// How [`verify`] runs.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// About how long it may take, loading included.
    pub limit: Duration,
    /// Most positions to compare.
    pub positions: usize,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        VerifyOptions {
            limit: Duration::from_secs(120),
            positions: 1024,
        }
    }
}

/// Compares the model, loaded as `options` say, with the oracle on this machine and
/// reports line by line. True if every gate held.
///
/// The model reads a built-in text (pseudo-random ids if it has no tokenizer), in
/// rounds that go through every row bucket, chunked and whole, alone and in a ragged
/// batch, on a fresh cache and on a forked one; rounds are added until the time is
/// used up. What is left out is said. The first steps run however long they take.
pub fn verify(
    opened: &Opened,
    registry: &Registry,
    options: &LoadOptions,
    how: &VerifyOptions,
    out: &mut dyn FnMut(&str),
) -> Result<bool, GateError> {
    let start = Instant::now();
    let mut ids = text_ids(opened, VERIFY_TEXT);
    let own = opened.model.context_length.max(1);
    let rounds = rounds(&mut ids, own, how.positions);
    let scripts = || rounds.iter();
    let mut options = options.clone();
    fit(&mut options, scripts());
    let (chosen, program) = opened.place(registry, &options)?;
    for note in &chosen.notes {
        out(note);
    }
    if chosen.backend.name == ORACLE {
        out(&format!(
            "{ORACLE} is what the others are compared with: name another backend"
        ));
        return Ok(false);
    }
    let program = std::sync::Arc::new(program);
    let (acts, device) = (program.acts(), chosen.device.info().name.clone());
    let mut candidate = Runner::load_on(
        chosen.devices(),
        program.clone(),
        &opened.files.tensors,
        &mut |_, _| {},
    )?;
    let loading = Instant::now();
    let mut oracle = load_oracle(opened, registry, &program, acts.clone())?;
    let loading = loading.elapsed();
    out(&format!(
        "{} on {device} against {ORACLE}, activations {}, KV {}, loaded in {:.1} s",
        chosen.backend.name,
        act_names(acts.values().copied()),
        program.cache.scheme,
        start.elapsed().as_secs_f64()
    ));

    let clock = Clock {
        start,
        limit: how.limit,
        loading,
    };
    let mut passed = true;
    let mut failed: Option<Failed<'_>> = None;
    let fused = program_is_fused(&program);
    let mut total = Tally::default();
    let (mut compared, mut open_positions) = (0, 0);
    let mut pace = Pace::default();
    let mut left_out = 0;
    for (i, script) in rounds.iter().enumerate() {
        // The first round always begins.
        let replay = failed.as_ref().filter(|_| fused);
        let replay = replay.map_or(Duration::ZERO, |f| clock.replay(&pace, f.script));
        let budget = clock.left(COMPARISONS_SHARE);
        let budget = budget.min(clock.left(1.0 - REPEATS_SHARE).saturating_sub(replay));
        if i > 0 && pace.estimate(script) > budget {
            left_out += 1;
            continue;
        }
        let (tally, cut) = paced(&mut oracle, &mut candidate, script, &mut pace, budget)?;
        compared += tally.rows().len();
        let played = Played {
            script,
            name: &script.name,
            tally,
            cut,
            ask: Some(COMPARISONS_SHARE),
        };
        let judged = judge(opened, &program, &mut oracle, played, (&clock, &pace), out)?;
        if !judged.ok {
            passed = false;
            failed.get_or_insert(Failed {
                script,
                asked: judged.asked,
                after: start.elapsed(),
            });
        }
        open_positions += judged.open;
        total.extend(&judged.tally);
    }
    let Some(summary) = total.summary() else {
        return Err(GateError::Empty("the model was fed nothing".into()));
    };
    let ok = Bounds::anywhere(&program).hold(&summary) && few_undecided(open_positions, compared);
    passed &= ok;
    out(&format!("{:24} {summary}  {}", "all", verdict(ok)));
    if left_out > 0 {
        out(&format!(
            "{left_out} of {} scripts were left out to keep to {:.0} s: the oracle needs {:.3} s \
             for a token",
            rounds.len(),
            how.limit.as_secs_f64(),
            pace.seconds_per_token()
        ));
    }

    let within = how.limit.mul_f64(REPEATS_SHARE);
    let repeated = repeat(&mut candidate, &rounds[0], REPEATS, within)?;
    passed &= repeated.found.is_none();
    let what = "repeated, recorded anew";
    out(&match repeated.found {
        None => format!("{what:24} the same bits in {} runs  pass", repeated.runs),
        Some((row, run)) => format!(
            "{what:24} position {} of sequence {} differs when {run}  FAIL",
            row.position, row.slot
        ),
    });
    // What does not fail with fused kernels says nothing of them.
    if let Some(failed) = failed.filter(|_| fused) {
        drop((candidate, oracle));
        without_fusion(opened, registry, &options, &failed, (&clock, &pace), out)?;
    } else if acts.values().any(|a| *a != Act::F32)
        && pace.estimate(&rounds[0]) * 2 + loading < clock.left(1.0)
    {
        drop(candidate);
        cost(opened, registry, &program, &mut oracle, &rounds[0], out)?;
    }
    out(&format!(
        "{} after {:.1} s",
        if passed { "verified" } else { "NOT verified" },
        start.elapsed().as_secs_f64()
    ));
    Ok(passed)
}

fn verdict(ok: bool) -> &'static str {
    if ok { "pass" } else { "FAIL" }
}

fn act_names(acts: impl Iterator<Item = Act>) -> String {
    let mut names: Vec<&str> = acts.map(Act::name).collect();
    names.sort_unstable();
    names.dedup();
    names.join(" and ")
}

/// What the activation formats themselves cost, oracle against oracle. A figure,
/// not a verdict: it belongs to the formats and the model, not to this machine.
fn cost(
    opened: &Opened,
    registry: &Registry,
    program: &planner::Program,
    same: &mut Runner,
    script: &Script,
    out: &mut dyn FnMut(&str),
) -> Result<(), GateError> {
    let acts = program.acts();
    let mut plain = load_oracle(opened, registry, program, super::f32_acts(opened))?;
    let (with, without) = (
        Trace::record(same, script)?,
        Trace::record(&mut plain, script)?,
    );
    if let Some(s) = compare_traces(&without, &with).summary() {
        out(&format!(
            "{:24} {s}  (a default may add {:.0e})",
            "cost of the activations",
            act_cost_bound(&acts)
        ));
    }
    Ok(())
}

fn program_is_fused(program: &planner::Program) -> bool {
    let steps = program.plans.iter().flat_map(|p| &p.steps);
    steps.into_iter().any(|s| s.nodes.len() > 1)
}

/// The time that there is.
struct Clock {
    start: Instant,
    limit: Duration,
    /// What loading an oracle took.
    loading: Duration,
}

impl Clock {
    /// What replaying a script without fusion takes: a candidate loads in about as long as
    /// an oracle, and plays in less.
    fn replay(&self, pace: &Pace, script: &Script) -> Duration {
        self.loading * 2 + pace.estimate(script)
    }

    /// Of the first `share` of the limit.
    fn left(&self, share: f64) -> Duration {
        let end = self.limit.mul_f64(share);
        end.saturating_sub(self.start.elapsed())
    }
}

/// A script that candidate and oracle have played, under the name that its lines have.
struct Played<'a> {
    script: &'a Script,
    name: &'a str,
    tally: Tally,
    /// The step that it ended before.
    cut: Option<usize>,
    /// Until which share of the limit there is time to ask which positions are
    /// undecided; `None`: they are not asked for.
    ask: Option<f64>,
}

/// The first script that failed.
struct Failed<'a> {
    script: &'a Script,
    /// Whether it was asked which positions are undecided.
    asked: bool,
    /// From the start.
    after: Duration,
}

/// A verdict on what was played.
struct Judged {
    /// Of the positions that are decided.
    tally: Tally,
    /// How many are not.
    open: usize,
    /// Whether there was time to ask which.
    asked: bool,
    ok: bool,
}

/// Whether the bounds hold, positions aside that rounding alone decides, where there is
/// time to ask which they are.
fn judge(
    opened: &Opened,
    program: &planner::Program,
    oracle: &mut Runner,
    played: Played<'_>,
    (clock, pace): (&Clock, &Pace),
    out: &mut dyn FnMut(&str),
) -> Result<Judged, GateError> {
    let bounds = Bounds::anywhere(program);
    let Played {
        script,
        name,
        mut tally,
        cut,
        ask,
    } = played;
    let (mut open, mut ok) = (0, true);
    if let Some(rows) = cut {
        out(&format!(
            "{name:24} ends before its step of {rows} tokens, for which the time is too short"
        ));
    }
    let telling = (pace.estimate(script) + clock.loading) * PLAYS;
    let fails = tally.summary().is_some_and(|s| !bounds.hold(&s));
    let share = ask.unwrap_or(1.0);
    let no_time = cut.is_some() || telling >= clock.left(share);
    let routers = has_routers(&opened.graph);
    let asked = !(routers && (no_time || ask.is_none()));
    if fails && !asked && ask.is_some() {
        let rest = match cut {
            Some(_) => pace.estimate(script),
            None => Duration::ZERO,
        };
        let total = (clock.start.elapsed() + rest + telling).div_f64(share);
        let total = total.max(clock.limit).as_secs_f64().ceil();
        out(&format!(
            "{name:24} whether its positions are undecided was not asked: a time limit of some \
             {total:.0} s has room for that"
        ));
    } else if fails && asked {
        let rows = tally.rows();
        let found = undecided(opened, program, oracle, script, rows, &bounds)?;
        open = found.iter().filter(|u| **u).count();
        if open > 0 {
            ok = few_undecided(open, rows.len());
            out(&format!(
                "{name:24} {open} of {} positions are undecided: there the oracle itself, with \
                 noise of this size, chooses other experts  {}",
                rows.len(),
                verdict(ok)
            ));
            tally = decided(rows, &found);
        }
    }
    if let Some(s) = tally.summary() {
        let holds = bounds.hold(&s);
        ok &= holds;
        out(&format!("{name:24} {s}  {}", verdict(holds)));
    }
    Ok(Judged {
        tally,
        open,
        asked,
        ok,
    })
}

/// After a failure: whether the composites are to blame, and what to do if so.
fn without_fusion(
    opened: &Opened,
    registry: &Registry,
    options: &LoadOptions,
    failed: &Failed<'_>,
    (clock, pace): (&Clock, &Pace),
    out: &mut dyn FnMut(&str),
) -> Result<(), GateError> {
    let script = failed.script;
    let name = format!("{}, unfused", script.name);
    let wanted = clock.replay(pace, script);
    if wanted > clock.left(1.0) {
        let limit = (failed.after + wanted).div_f64(1.0 - REPEATS_SHARE);
        out(&format!(
            "{name:24} left out, for which the time is too short: a time limit of some {:.0} s \
             would tell whether a fused kernel is at fault",
            limit.max(clock.limit).as_secs_f64().ceil()
        ));
        return Ok(());
    }
    let mut options = options.clone();
    options.fusion = false;
    let mut candidate = opened.load(registry, &options, &mut |_, _| {})?.runner;
    let program = candidate.program().clone();
    let mut oracle = load_oracle(opened, registry, &program, program.acts())?;
    let played = Played {
        script,
        name: &name,
        tally: super::compare(&mut oracle, &mut candidate, script)?,
        cut: None,
        // Both are forgiven the same, or nothing.
        ask: failed.asked.then_some(1.0),
    };
    drop(candidate);
    let judged = judge(opened, &program, &mut oracle, played, (clock, pace), out)?;
    if judged.ok {
        out("a fused kernel is at fault: use --no-fusion on this device");
    }
    Ok(())
}

/// How long the oracle takes, from what it took.
#[derive(Default)]
struct Pace {
    /// Steps of few rows cost about as much as one row.
    steps: f64,
    rows: f64,
    seconds: f64,
}

impl Pace {
    /// Rows below this decode the weights as often as one row does.
    const FLOOR: usize = 4;

    fn add(&mut self, rows: usize, seconds: f64) {
        self.steps += 1.0;
        self.rows += rows.max(Self::FLOOR) as f64;
        self.seconds += seconds;
    }

    fn seconds_per_token(&self) -> f64 {
        self.seconds / self.rows.max(1.0)
    }

    fn estimate(&self, script: &Script) -> Duration {
        self.estimate_rows(script.steps().map(|n| n.max(Self::FLOOR)).sum())
    }

    fn estimate_rows(&self, rows: usize) -> Duration {
        Duration::from_secs_f64((rows as f64 * self.seconds_per_token()).min(1e9))
    }
}

/// As [`super::compare`], with a clock on every step. Beyond the first
/// [`LEAST`] positions, ends before a step that the budget has no time for, and
/// says how large it would have been.
fn paced(
    oracle: &mut Runner,
    candidate: &mut Runner,
    script: &Script,
    pace: &mut Pace,
    budget: Duration,
) -> Result<(Tally, Option<usize>), GateError> {
    let start = Instant::now();
    let mut tally = Tally::default();
    let mut cut = None;
    let (mut a, mut b) = (Player::new(script), Player::new(script));
    while let Some(rows) = a.next_rows() {
        let begun = Instant::now();
        let left = budget.saturating_sub(start.elapsed());
        if rows > 0 && tally.rows().len() >= LEAST && pace.estimate_rows(rows) > left {
            cut = Some(rows);
            break;
        }
        let Some(want) = a.step(oracle)? else { break };
        let Some(have) = b.step(candidate)? else {
            break;
        };
        if rows > 0 {
            pace.add(rows, begun.elapsed().as_secs_f64());
        }
        tally_rows(&mut tally, want, have);
    }
    a.finish(oracle)?;
    b.finish(candidate)?;
    Ok((tally, cut))
}

/// Scripts in the order of what they tell: first one that goes through every row
/// bucket with few tokens, then batches and prefix hits, then longer reading.
fn rounds(ids: &mut Vec<u32>, context: usize, positions: usize) -> Vec<Script> {
    let take = |ids: &mut Vec<u32>, n: usize| -> Vec<u32> {
        let n = n.min(context);
        let out: Vec<u32> = ids.iter().cycle().take(n).copied().collect();
        let shift = n % ids.len().max(1);
        ids.rotate_left(shift);
        out
    };
    let first = Script::chunked(&[take(ids, LEAST + CHUNK)], &[1, 2, 20, 1, CHUNK]);
    let streams = [take(ids, 40), take(ids, 9), take(ids, 25)];
    let batch = Script::batched(&streams, &[17, 1, 5]);
    let eight: Vec<Vec<u32>> = (0..8).map(|_| take(ids, 5)).collect();
    let eight = Script::batched(&eight, &[1]);
    let stream = take(ids, 48);
    let at = (stream.len() / 2).max(1);
    let prefix = Script::prefix_hit(&stream, at, &take(ids, 8), usize::MAX);
    let mut all = vec![first, batch, prefix, eight];
    let mut sum: usize = all.iter().map(Script::positions).sum();
    for i in 0.. {
        let n = (3 * CHUNK).min(positions.saturating_sub(sum)).min(context);
        if n < 16 {
            break;
        }
        let mut more = Script::chunked(&[take(ids, n)], &[CHUNK, CHUNK, CHUNK - 8, 1, 1, 6]);
        more.name = format!("reading {}", i + 1);
        sum += more.positions();
        all.push(more);
    }
    all[0].name = "every row bucket".into();
    all[1].name = "ragged batch of 3".into();
    all[2].name = "forked and cut back".into();
    all[3].name = "eight sequences".into();
    all
}
