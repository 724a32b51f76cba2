//! Which variant of a kernel is the fastest on a device, at the sizes of a model.
//!
//! Whole plans are timed, not kernels alone, so that weights come from memory as
//! they do in use. In each round every kind of step runs its next alternative (for
//! a composite that includes its unfused chain); what covers the same nodes of the
//! graph is compared. The matrices that steps share decide one layout for all of
//! them. Picks that win, and whose kernels and whose plan pass the gate, are written
//! down.

use crate::args::{Source, TuneArgs};
use crate::gate::{self, Gated};
use crate::measure::{Bench, Shape};
use crate::provenance::timestamp;
use crate::run::open;
use crate::stat::median;
use anyhow::{Context as _, Result};
use graph::NodeId;
use planner::{Plan, PlanStep};
use registry::{Layer, OperandRole, Pick, Problem, ROW_MAJOR, Registry, Request, Tuned};
use runtime::{LoadOptions, Opened, Want};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// A variant's name that keeps a composite from being used.
const NONE: &str = "none";

/// Rows that stand for a bucket: few, some, a chunk.
const ROWS: &[usize] = &[1, 8, 48, usize::MAX];

/// What a pick names: all uses that are alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Class {
    layer: String,
    quant: String,
    /// Least rows of the bucket.
    rows: usize,
    /// `(n, k)` of the first matrix.
    matrix: Option<(usize, usize)>,
}

impl Class {
    fn of(problem: &Problem) -> Self {
        let kinds = problem.ops.iter().map(|o| o.op.kind()).collect();
        Class {
            layer: Layer(kinds).to_string(),
            quant: problem.quant(),
            rows: problem.rows.min,
            matrix: matrices(problem).next().map(|o| (o.shape[0], o.shape[1])),
        }
    }

    fn pick(&self, variant: &str) -> Pick {
        Pick {
            layer: self.layer.clone(),
            quant: Some(self.quant.clone()),
            rows: Some(self.rows),
            n: self.matrix.map(|m| m.0),
            k: self.matrix.map(|m| m.1),
            variant: variant.into(),
        }
    }
}

fn matrices(problem: &Problem) -> impl Iterator<Item = &registry::Operand> {
    let inputs = problem.inputs.iter();
    inputs.filter(|o| o.role == OperandRole::Matrix)
}

/// Of its matrices, if it has any.
fn layout(problem: &Problem) -> Option<&'static str> {
    matrices(problem).next().map(|o| o.layout)
}

/// One step of a plan, timed.
struct TimedStep {
    nodes: Vec<NodeId>,
    class: Class,
    variant: String,
    layout: Option<&'static str>,
    seconds: f64,
}

/// One plan of a round, timed with so many tokens in the cache.
struct Timed {
    depth: usize,
    steps: Vec<TimedStep>,
}

impl Timed {
    fn of(plan: &Plan, depth: usize, seconds: Vec<f64>) -> Self {
        let one = |(s, seconds): (&PlanStep, f64)| TimedStep {
            nodes: s.nodes.clone(),
            class: Class::of(&s.problem),
            variant: s.key.variant.to_string(),
            layout: layout(&s.problem),
            seconds,
        };
        Timed {
            depth,
            steps: plan.steps.iter().zip(seconds).map(one).collect(),
        }
    }

    /// Seconds of the steps that cover exactly these nodes, if some do, and the
    /// layouts of their matrices.
    fn cover(&self, nodes: &[NodeId]) -> Option<(f64, Layouts)> {
        let (mut seconds, mut covered, mut layouts) = (0.0, 0, Layouts::new());
        for step in &self.steps {
            let inside = step.nodes.iter().filter(|n| nodes.contains(n)).count();
            if inside == 0 {
                continue;
            }
            if inside < step.nodes.len() {
                return None;
            }
            covered += inside;
            seconds += step.seconds;
            layouts.extend(step.layout);
        }
        (covered == nodes.len()).then_some((seconds, layouts))
    }
}

type Layouts = BTreeSet<&'static str>;

/// Measures and gates: where the picks belong and their text; `None` if the gate
/// did not hold.
pub fn tune(
    registry: &Registry,
    args: &TuneArgs,
    say: &mut dyn FnMut(&str),
) -> Result<Option<(PathBuf, String)>> {
    let source = Source::of(&args.model, &args.synthetic, args.layers)?;
    let opened = open(&source)?;
    let mut options = LoadOptions::new(&args.device.backend);
    options.open = args.device.open_options();
    let prompt = match args.prompt_tokens {
        Some(tokens) => tokens as usize,
        None => {
            let (chosen, _) = opened.place(registry, &options)?;
            options.backend = chosen.backend.name.into();
            let most = opened.model.context_length / 2;
            chosen.backend.rows.min(most).max(1)
        }
    };
    let room = opened.model.context_length.saturating_sub(prompt.max(2));
    let depth = room.min(args.depth as usize);
    if depth < args.depth as usize {
        say(&format!(
            "a depth of {depth} tokens is all that the model's context has room for"
        ));
    }
    let shape = Shape {
        prompt,
        generated: 1,
        depth,
        batch: 1,
    };
    options.context = Some(shape.context());
    options.rows = Some(prompt);
    options.tuned = Some(Tuned::default());
    let (chosen, program) = opened.place(registry, &options)?;
    options.backend = chosen.backend.name.into();
    let info = chosen.device.info().clone();
    let alternatives = alternatives(registry, &options.backend, &program.plans)?;
    drop((chosen, program));
    let picked = |pick| Tuned {
        backend: options.backend.clone(),
        device: info.name.clone(),
        pick,
    };

    let rounds = alternatives.values().map(Vec::len).max().unwrap_or(1);
    let mut timed = Vec::new();
    for round in 0..rounds {
        let pick = alternatives.iter().filter_map(|(class, names)| {
            let name = names.get(round).filter(|_| round > 0)?;
            Some(class.pick(name))
        });
        let tuned = picked(pick.collect());
        say(&format!("round {} of {rounds}", round + 1));
        timed.push(time(
            registry,
            &opened,
            &options,
            tuned,
            &shape,
            args.repeats,
        )?);
    }
    let picks = choose(&timed, args.margin, say);
    let tuned = picked(picks);
    let file = format!("{}-{}.toml", options.backend, slug(&info.name));
    options.tuned = Some(tuned.clone());
    let (chosen, program) = opened.place(registry, &options)?;
    drop(chosen);
    say("the gate of the picks");
    let gate = gate::climb(&Gated {
        opened: &opened,
        registry,
        options: &options,
        timed: &program,
        synthetic: args.synthetic.is_some(),
        limit: Duration::from_secs(args.gate_limit),
    })?;
    if !gate.passed {
        say(&gate.table());
        say("nothing is written: the gate of these picks failed");
        return Ok(None);
    }
    let path = args.out.clone();
    let path = path.unwrap_or_else(|| PathBuf::from("registry/tuned").join(file));
    let model = args.synthetic.clone().unwrap_or_else(|| {
        let model = args.model.as_deref();
        model.map_or(String::new(), crate::run::name_of)
    });
    // Picks of other models on the same device stay.
    let old = match std::fs::read_to_string(&path) {
        Ok(text) => Tuned::parse(&text).context("the file that is there")?,
        Err(_) => Tuned::default(),
    };
    let text = text(&merged(old, tuned), &model);
    Tuned::parse(&text).context("the picks as they were written")?;
    Ok(Some((path, text)))
}

/// For each kind of step with a choice, its variants, that of the plan first; `none`
/// for composites.
fn alternatives(
    registry: &Registry,
    backend: &str,
    plans: &[Plan],
) -> Result<BTreeMap<Class, Vec<String>>> {
    let tuned = Tuned::default();
    let mut all: BTreeMap<Class, Vec<String>> = BTreeMap::new();
    for step in plans.iter().flat_map(|p| &p.steps) {
        let class = Class::of(&step.problem);
        if all.contains_key(&class) {
            continue;
        }
        let request = Request {
            backend,
            problem: &step.problem,
            tuned: &tuned,
            // Another format computes other numbers: that is for ranks to decide,
            // by what it costs.
            act: Some(step.kernel.spec().act),
            variant: None,
        };
        let mut names = vec![step.key.variant.to_string()];
        for found in registry.candidates(&request)?.0 {
            let name = found.entry.key.variant.to_string();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        if step.nodes.len() > 1 {
            names.push(NONE.into());
        }
        if names.len() > 1 {
            all.insert(class, names);
        }
    }
    // Composites that run only where they are picked, of formats that are in use.
    let steps = plans.iter().flat_map(|p| &p.steps);
    let acts: BTreeSet<_> = steps.map(|s| s.kernel.spec().act).collect();
    let composites = registry.composites(backend)?;
    let idle = composites.iter().filter(|e| {
        let spec = e.kernel.spec();
        spec.rank < 0 && acts.contains(&spec.act)
    });
    for e in idle {
        for rows in planner::buckets(usize::MAX) {
            let class = Class {
                layer: e.key.layer.to_string(),
                quant: e.key.quant.clone(),
                rows: rows.min,
                matrix: None,
            };
            let names = all.entry(class).or_insert_with(|| vec![NONE.into()]);
            names.push(e.key.variant.to_string());
        }
    }
    Ok(all)
}

/// Loads the model with these picks and times one step of every bucket, with an empty
/// cache and at the depth.
fn time(
    registry: &Registry,
    opened: &Opened,
    options: &LoadOptions,
    tuned: Tuned,
    shape: &Shape,
    repeats: u32,
) -> Result<Vec<Timed>> {
    let mut options = options.clone();
    options.tuned = Some(tuned);
    let mut model = opened.load(registry, &options, &mut |_, _| {})?;
    let mut all = Vec::new();
    for depth in BTreeSet::from([0, shape.depth]) {
        let shape = Shape { depth, ..*shape };
        let mut bench = Bench::alone(&mut model.runner, shape);
        let program = bench.runner.program().clone();
        for plan in &program.plans {
            let within = |rows: &&usize| (plan.rows.min..=plan.rows.max).contains(*rows);
            let rows = ROWS.iter().find(within).copied();
            let rows = rows.unwrap_or(plan.rows.max);
            let mut profiles = Vec::new();
            bench.step(rows, 1, |runner| {
                for _ in 0..repeats {
                    profiles.extend(runner.profile(rows, Want::Argmax)?);
                }
                Ok(())
            })?;
            anyhow::ensure!(!profiles.is_empty(), "this device has no clock to tune by");
            let seconds = (0..plan.steps.len())
                .map(|i| median(profiles.iter().filter_map(|p| p.steps[i]).collect()))
                .collect();
            all.push(Timed::of(plan, depth, seconds));
        }
    }
    Ok(all)
}

/// A variant of a class as it was measured.
#[derive(Clone, Debug, Default)]
struct Measured {
    /// Seconds over those of the first round, for each use, by the cache's depth.
    ratios: BTreeMap<usize, Vec<f64>>,
    layouts: Layouts,
}

impl Measured {
    /// At the depth where it does worst: a pick holds for all.
    fn ratio(&self) -> f64 {
        // A step too brief for the clock has no ratio, and wins nothing.
        let known = |r: f64| if r.is_nan() { f64::INFINITY } else { r };
        let each = self.ratios.values().map(|r| known(median(r.clone())));
        each.fold(0.0, f64::max)
    }
}

/// The picks that win by the margin.
fn choose(rounds: &[Vec<Timed>], margin: f64, say: &mut dyn FnMut(&str)) -> Vec<Pick> {
    let Some((first, others)) = rounds.split_first() else {
        return Vec::new();
    };
    // What was measured of each class.
    let mut options: BTreeMap<Class, BTreeMap<String, Measured>> = BTreeMap::new();
    let mut put = |class: &Class, name: &str, depth: usize, ratio: f64, layouts: Layouts| {
        let entry = options.entry(class.clone()).or_default();
        let option = entry.entry(name.to_string()).or_default();
        option.ratios.entry(depth).or_default().push(ratio);
        option.layouts.extend(layouts);
    };
    let mut defaults: BTreeMap<Class, String> = BTreeMap::new();
    for plan in first {
        for s in &plan.steps {
            let layouts = Layouts::from_iter(s.layout);
            put(&s.class, &s.variant, plan.depth, 1.0, layouts);
            defaults.insert(s.class.clone(), s.variant.clone());
        }
    }
    for (base, plan) in others.iter().flat_map(|round| first.iter().zip(round)) {
        for s in &plan.steps {
            if let Some((was, _)) = base.cover(&s.nodes) {
                let layouts = Layouts::from_iter(s.layout);
                put(&s.class, &s.variant, plan.depth, s.seconds / was, layouts);
            }
        }
        for s in base.steps.iter().filter(|s| s.nodes.len() > 1) {
            let whole = plan.steps.iter().any(|t| t.nodes == s.nodes);
            if let (false, Some((seconds, layouts))) = (whole, plan.cover(&s.nodes)) {
                put(&s.class, NONE, plan.depth, seconds / s.seconds, layouts);
            }
        }
    }
    let mut picks = Vec::new();
    for group in groups(options.keys()) {
        let mut layouts: BTreeSet<&str> = group
            .iter()
            .flat_map(|c| options[*c].values().flat_map(|o| &o.layouts).copied())
            .collect();
        if layouts.is_empty() {
            // No matrices: what is compared fits any.
            layouts.insert(ROW_MAJOR);
        }
        // The layout in which all of them together are the fastest.
        let best_in = |class: &Class, layout: &str| {
            let fits = |o: &&Measured| o.layouts.iter().all(|l| *l == layout);
            let all = options[class].iter().filter(|(_, o)| fits(o));
            all.map(|(name, o)| (o.ratio(), name.clone()))
                .min_by(|a, b| a.0.total_cmp(&b.0))
        };
        let cost = |layout: &str| -> Option<f64> {
            let each = group.iter().map(|c| best_in(c, layout).map(|b| b.0));
            each.sum()
        };
        let costs = layouts.iter().filter_map(|l| Some((cost(l)?, *l)));
        let Some((_, layout)) = costs.min_by(|a, b| a.0.total_cmp(&b.0)) else {
            continue;
        };
        for class in group {
            let Some((ratio, name)) = best_in(class, layout) else {
                continue;
            };
            let was = defaults.get(class);
            // Without its own pick the planner might choose another layout again.
            let moved = was.is_some_and(|was| {
                let o = &options[class][was];
                o.layouts.iter().any(|l| *l != layout)
            });
            if was != Some(&name) && (ratio < 1.0 - margin || moved) {
                say(&format!(
                    "{} {} rows {}+ {:?}: {name} instead of {}, {:.3} of its time",
                    class.layer,
                    class.quant,
                    class.rows,
                    class.matrix,
                    was.map_or(NONE, |w| w),
                    ratio
                ));
                picks.push(class.pick(&name));
            }
        }
    }
    picks
}

/// Classes that share a matrix of one size, which must agree on its layout.
fn groups<'c>(classes: impl Iterator<Item = &'c Class>) -> Vec<Vec<&'c Class>> {
    let mut shared: BTreeMap<(usize, usize, &str), Vec<&Class>> = BTreeMap::new();
    let mut alone = Vec::new();
    for class in classes {
        match class.matrix {
            Some((n, k)) => shared.entry((n, k, &class.quant)).or_default().push(class),
            None => alone.push(vec![class]),
        }
    }
    alone.extend(shared.into_values());
    alone
}

/// New picks replace old ones of the same use.
fn merged(old: Tuned, new: Tuned) -> Tuned {
    let key = |p: &Pick| (p.layer.clone(), p.quant.clone(), p.rows, p.k, p.n);
    let replaced: BTreeSet<_> = new.pick.iter().map(key).collect();
    let mut pick: Vec<Pick> = match (&old.backend, &old.device) == (&new.backend, &new.device) {
        true => old.pick,
        false => Vec::new(),
    };
    pick.retain(|p| !replaced.contains(&key(p)));
    pick.extend(new.pick);
    pick.sort_by_key(key);
    Tuned {
        backend: new.backend,
        device: new.device,
        pick,
    }
}

fn text(tuned: &Tuned, model: &str) -> String {
    let quoted = |s: &str| format!("{s:?}");
    let mut out = format!(
        "# Written by `bench-run tune`, last for {model} on {}.\nbackend = {}\ndevice = {}\n",
        &timestamp()[..10],
        quoted(&tuned.backend),
        quoted(&tuned.device)
    );
    for p in &tuned.pick {
        // Writing to a string does not fail.
        let _ = write!(out, "\n[[pick]]\nlayer = {}\n", quoted(&p.layer));
        if let Some(quant) = &p.quant {
            let _ = writeln!(out, "quant = {}", quoted(quant));
        }
        for (name, value) in [("rows", p.rows), ("k", p.k), ("n", p.n)] {
            if let Some(value) = value {
                let _ = writeln!(out, "{name} = {value}");
            }
        }
        let _ = writeln!(out, "variant = {}", quoted(&p.variant));
    }
    out
}

/// A device's name as that of a file.
fn slug(name: &str) -> String {
    let plain = |c: char| match c.is_ascii_alphanumeric() {
        true => c.to_ascii_lowercase(),
        false => '-',
    };
    let text: String = name.chars().map(plain).collect();
    let parts: Vec<&str> = text.split('-').filter(|p| !p.is_empty()).collect();
    parts.join("-")
}

#[cfg(test)]
mod tests;
