//! Ring 2: every kernel against the oracle's chain of primitives in the same
//! activation format.
//!
//! For each registered key and each layout it accepts, cases are dealt from the
//! key's pattern: dimensions that are no multiples of anything, ragged batches,
//! block tables out of order with freed pages behind windows, row strides, large
//! values and zeros, routers that tie, experts that nobody chose, recurrent states in
//! slots out of order. Each case runs three times and must give the same bits, then
//! once with its spans in reverse order, when every row must again have the same
//! bits. Outputs are poisoned before each run and everything else in memory must
//! be as it was. What a kernel reads and writes must be declared to the recorder.
//!
//! A key passes when at least one case fitted and no case failed, or when the
//! device lacks a feature that all of its cases need.

mod batch;
mod case;
mod chain;
mod compare;
mod dims;
mod exec;
mod fill;
mod image;
mod report;
mod rng;
mod routing;
mod scaled;
mod shapes;
mod stored;
mod turns;
mod wiring;

pub use batch::{Batch, Span};
pub use case::{Case, Data};
pub use chain::{ChainOracle, ORACLE, OpValue, Oracle, primitives, resolve_chain};
pub use report::{KeyReport, Report};
pub use turns::Cases;

use dims::{Dealer, Dims};
use hal::cpu::IsaLevel;
use hal::{Device, DeviceInfo, HalError};
use registry::{
    Kernel, KernelError, OperandRole, Problem, ROW_MAJOR, Registry, RegistryError, Scheme,
};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;
use turns::Turns;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Hal(#[from] HalError),
    #[error("the oracle failed: {0}")]
    Oracle(#[from] KernelError),
    #[error("the gate cannot make this case: {0}")]
    Case(String),
}

impl GateError {
    pub(crate) fn case(reason: impl Into<String>) -> Self {
        GateError::Case(reason.into())
    }
}

/// Which keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    #[default]
    Whole,
    /// Those of one op.
    Primitives,
    /// Those of several.
    Composites,
}

impl Part {
    fn has(self, kernel: &dyn Kernel) -> bool {
        let composite = kernel.spec().pattern.is_composite();
        match self {
            Part::Whole => true,
            Part::Primitives => !composite,
            Part::Composites => composite,
        }
    }
}

/// What to gate, and how thoroughly.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub cases: Cases,
    pub part: Part,
    /// Only keys whose text (`backend/layer/quant/variant`) contains this.
    pub filter: Option<String>,
}

/// Runs of a case that must agree bit for bit.
const REPEATS: usize = 3;

/// Gates every key that `backend` itself registers, on `device`. A kernel that
/// fails is in the report; an `Err` means that the gate itself could not run.
pub fn run(
    registry: &Registry,
    backend: &str,
    device: Arc<dyn Device>,
    options: &Options,
) -> Result<Report, GateError> {
    let oracle = ChainOracle::open(registry)?;
    run_against(registry, backend, device.as_ref(), options, &oracle)
}

/// As [`run`], against an oracle of the caller's.
pub fn run_against(
    registry: &Registry,
    backend: &str,
    device: &dyn Device,
    options: &Options,
    oracle: &dyn Oracle,
) -> Result<Report, GateError> {
    let mut report = Report::new(backend, device.info());
    let mut seen = HashSet::new();
    for entry in registry.entries().filter(|e| e.key.backend == backend) {
        let name = entry.key.to_string();
        let unnamed = options.filter.as_ref().is_some_and(|f| !name.contains(f));
        if unnamed || !options.part.has(entry.kernel) {
            continue;
        }
        let spec = entry.kernel.spec();
        let family = (
            &entry.key.layer,
            entry.key.variant,
            spec.act.name(),
            spec.layouts,
        );
        let in_blocks = (spec.quant.iter())
            .filter_map(|q| Scheme::find(q)?.desc())
            .any(|d| d.block > 1);
        let cases = match in_blocks && seen.contains(&family) {
            true => options.cases.of_scheme(),
            false => options.cases.of_key(),
        };
        let reports = gate_cases(entry.kernel, device, options, oracle, cases)?;
        if in_blocks && reports.iter().any(|r| r.cases > 0) {
            seen.insert(family);
        }
        report.keys.extend(reports);
    }
    Ok(report)
}

/// Gates one kernel: a report for each layout it accepts.
pub fn gate_kernel(
    kernel: &dyn Kernel,
    device: &dyn Device,
    options: &Options,
    oracle: &dyn Oracle,
) -> Result<Vec<KeyReport>, GateError> {
    gate_cases(kernel, device, options, oracle, options.cases.of_key())
}

/// Gates one kernel in so many cases.
fn gate_cases(
    kernel: &dyn Kernel,
    device: &dyn Device,
    options: &Options,
    oracle: &dyn Oracle,
    cases: usize,
) -> Result<Vec<KeyReport>, GateError> {
    let spec = kernel.spec();
    let key = spec.key();
    let layouts = match spec.layouts {
        [] => &[ROW_MAJOR],
        list => list,
    };
    let mut reports: Vec<_> = (layouts.iter())
        .map(|l| KeyReport::new(key.clone(), l, spec.tolerance))
        .collect();
    let mut turns = Turns::new(spec, options.cases, cases, device.info().kind);
    let better = Arc::new(with_every_feature(device.info()));
    let takes = |d: &Dims, layout: &'static str| {
        let problem = Case::problem(spec, d, device.info());
        let problem = problem.map(|p| case::in_layout(&p, layout));
        problem.is_ok_and(|p| image::packable(&p) && kernel.fits(&p).is_ok())
    };
    while let Some(d) = turns.next(&reports, takes) {
        let dealt = Case::deal(spec, &d, turns.rng(), device.info());
        let case = match dealt {
            Ok(case) => case,
            Err(reason) => {
                for report in &mut reports {
                    report.fail(format!("the gate cannot make a case: {reason}"));
                }
                break;
            }
        };
        let mut want = None;
        for report in &mut reports {
            let began = Instant::now();
            let problem = case::in_layout(&case.problem, report.layout);
            if !image::packable(&problem) {
                report.refuse("the layout cannot hold a matrix of this shape".into());
                continue;
            }
            if let Err(reason) = kernel.fits(&problem) {
                let capable = Problem {
                    device: better.clone(),
                    ..problem
                };
                report.lacking += usize::from(kernel.fits(&capable).is_ok());
                report.refuse(reason);
                continue;
            }
            if want.is_none() {
                want = Some(oracle.eval(&case)?);
            }
            let want = want.as_deref().unwrap_or_default();
            report.cases += 1;
            let first = report.cases == 1;
            let ran = exec::run(kernel, &problem, device, &case, want, REPEATS, first);
            match ran {
                Ok(outcome) => {
                    report.worst = report.worst.max(outcome.worst);
                    report.digest(&outcome.bits);
                }
                Err(reason) => report.fail(format!("{reason} [{}]", case.label)),
            }
            report.took += began.elapsed();
        }
        if want.is_some() {
            turns.ran(d);
        }
    }
    if Case::one_row_only(spec) {
        takes_one_row(kernel, device.info(), &mut reports);
    }
    Ok(reports)
}

/// Fails a kernel that would take several rows although the gate deals it none.
fn takes_one_row(kernel: &dyn Kernel, device: &DeviceInfo, reports: &mut [KeyReport]) {
    let spec = kernel.spec();
    let mut dealer = Dealer::new("several rows");
    for _ in 0..4 {
        let mut d = Case::sizes(spec, &mut dealer, true);
        (d.rows, d.bucket) = (7, (2, 16));
        let Ok(case) = Case::deal(spec, &d, &mut dealer.rng, device) else {
            continue;
        };
        for report in reports.iter_mut() {
            let problem = case::in_layout(&case.problem, report.layout);
            if kernel.fits(&problem).is_ok() {
                report.fail("it takes several rows, which this pattern is dealt no case of".into());
            }
        }
    }
}

/// Gates a kernel at the sizes at which a plan uses it, in the plan's layout:
/// random batches and data for the plan's own problem. The oracle computes every
/// output row, so this is for models that it can run.
pub fn gate_problem(
    kernel: &dyn Kernel,
    problem: &Problem,
    device: &dyn Device,
    oracle: &dyn Oracle,
    cases: usize,
) -> Result<KeyReport, GateError> {
    let spec = kernel.spec();
    let matrix = problem
        .inputs
        .iter()
        .find(|o| o.role == OperandRole::Matrix);
    let layout = matrix.map_or(ROW_MAJOR, |o| o.layout);
    let mut report = KeyReport::new(spec.key(), layout, spec.tolerance);
    for turn in 0..cases {
        let case = Case::of(problem, spec.act, turn).map_err(GateError::Case)?;
        if let Err(reason) = kernel.fits(&case.problem) {
            report.refuse(reason);
            continue;
        }
        let want = oracle.eval(&case)?;
        report.cases += 1;
        let first = turn == 0;
        match exec::run(kernel, &case.problem, device, &case, &want, REPEATS, first) {
            Ok(outcome) => {
                report.worst = report.worst.max(outcome.worst);
                report.digest(&outcome.bits);
            }
            Err(reason) => report.fail(format!("{reason} [{}]", case.label)),
        }
    }
    Ok(report)
}

/// The device as the best of its kind would describe itself: what a kernel
/// refuses here and would take there needs other hardware, not another shape.
fn with_every_feature(info: &DeviceInfo) -> DeviceInfo {
    let mut info = info.clone();
    if info.kind == hal::DeviceKind::Cpu {
        info.features.extend(IsaLevel::ALL.iter().map(|l| l.name()));
    }
    info.features.extend(hal::vulkan::OPTIONAL_FEATURES);
    info
}
