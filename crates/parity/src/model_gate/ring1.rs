//! Ring 1: a backend's logits against another implementation's, for the prompts of
//! a model folder's `golden.safetensors`.

use super::GateError;
use super::golden::{Golden, GoldenPrompt};
use super::ring3::f32_acts;
use super::script::{Script, Trace};
use crate::stats;
use registry::Registry;
use runtime::{LoadOptions, Opened, Runner};
use std::path::Path;

/// Largest |Δ| in standard deviations of the golden logits.
pub const RING1_TOLERANCE: f64 = 5e-4;

/// How a prompt is cut into steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    Whole,
    Chunks(usize),
    OneByOne,
    /// All prompts of the model at once, each in chunks of so many tokens.
    Together(usize),
}

/// What one prompt gave.
#[derive(Clone, Copy, Debug)]
pub struct PromptReport {
    pub feed: Feed,
    pub tokens: usize,
    /// Stored rows compared.
    pub rows: usize,
    pub sigma: f64,
    /// Largest |Δ| in σ; to be at most [`RING1_TOLERANCE`].
    pub worst: f64,
    /// Rows whose best token differs though it leads by more than twice the
    /// tolerance.
    pub wrong_top: usize,
}

impl PromptReport {
    pub fn passed(&self) -> bool {
        // Written so that NaN fails.
        self.worst <= RING1_TOLERANCE && self.wrong_top == 0
    }
}

/// What one model gave.
#[derive(Clone, Debug)]
pub struct Ring1Report {
    pub family: &'static str,
    pub prompts: Vec<PromptReport>,
}

impl Ring1Report {
    pub fn passed(&self) -> bool {
        !self.prompts.is_empty() && self.prompts.iter().all(PromptReport::passed)
    }

    /// Largest |Δ| as a share of the tolerance.
    pub fn worst(&self) -> f64 {
        let share = |p: &PromptReport| p.worst / RING1_TOLERANCE;
        self.prompts.iter().map(share).fold(0.0, f64::max)
    }
}

/// Compares one prompt's rows.
pub(crate) fn compare_prompt(golden: &GoldenPrompt, trace: &Trace, slot: usize) -> (f64, usize) {
    let bound = RING1_TOLERANCE * golden.sigma;
    let mut worst = 0f64;
    let mut wrong_top = 0;
    for (i, &position) in golden.rows.iter().enumerate() {
        let Some(row) = trace.find(slot, position) else {
            return (f64::INFINITY, golden.rows.len());
        };
        let want = golden.row(i);
        if row.len() != want.len() {
            return (f64::INFINITY, golden.rows.len());
        }
        let r = stats::compare_row(want, row);
        worst = worst.max(r.max_abs / golden.sigma);
        wrong_top += usize::from(!r.same_top && r.gap > 2.0 * bound);
    }
    (worst, wrong_top)
}

/// Runs the golden prompts of a model folder on a backend with an f32 KV cache and
/// f32 activations, cut into steps in each of the ways of `feeds`.
pub fn ring1(
    dir: &Path,
    golden: &Path,
    registry: &Registry,
    backend: &str,
    feeds: &[Feed],
) -> Result<Ring1Report, GateError> {
    let golden = Golden::open(golden)?;
    let opened = Opened::open(dir)?;
    let streams: Vec<Vec<u32>> = golden.prompts.iter().map(|p| p.ids.clone()).collect();
    let scripts: Vec<(Feed, Script)> = feeds.iter().map(|f| (*f, f.script(&streams))).collect();
    let mut runner = load_f32(&opened, registry, backend, scripts.iter().map(|(_, s)| s))?;
    let mut report = Ring1Report {
        family: opened.model.family,
        prompts: Vec::new(),
    };
    for (feed, script) in &scripts {
        let trace = Trace::record(&mut runner, script)?;
        for (slot, prompt) in golden.prompts.iter().enumerate() {
            let (worst, wrong_top) = compare_prompt(prompt, &trace, slot);
            report.prompts.push(PromptReport {
                feed: *feed,
                tokens: prompt.ids.len(),
                rows: prompt.rows.len(),
                sigma: prompt.sigma,
                worst,
                wrong_top,
            });
        }
    }
    Ok(report)
}

impl Feed {
    fn script(self, streams: &[Vec<u32>]) -> Script {
        match self {
            Feed::Whole => Script::whole(streams),
            Feed::Chunks(n) => Script::chunked(streams, &[n]),
            Feed::OneByOne => Script::chunked(streams, &[1]),
            Feed::Together(n) => Script::batched(streams, &[n]),
        }
    }
}

/// A runner in f32 throughout that any of the scripts fits.
fn load_f32<'s>(
    opened: &Opened,
    registry: &Registry,
    backend: &str,
    scripts: impl Iterator<Item = &'s Script> + Clone,
) -> Result<Runner, GateError> {
    let mut options = LoadOptions::new(backend);
    options.kv = Some("f32".into());
    options.acts = Some(f32_acts(opened));
    options.tuned = Some(registry::Tuned::default());
    super::ring3::fit(&mut options, scripts);
    Ok(opened.load(registry, &options, &mut |_, _| {})?.runner)
}
