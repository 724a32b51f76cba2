//! Ring 2 at a model's own sizes: every kernel of the timed plans against the
//! oracle's chain.

use super::{Correctness, Gated};
use anyhow::Result;
use graph::{Op, OpKind};
use parity::kernel_gate::{ChainOracle, GateError, gate_problem};
use parity::model_gate::ORACLE;
use registry::{Kernel, OperandRole, OperandSrc, Problem};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Output rows of a sampled matrix, and as many more as it has beyond multiples.
const SAMPLED_ROWS: usize = 256;
/// Experts that it is given, at least as many as a row takes.
const SAMPLED_EXPERTS: usize = 16;

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
pub fn ring2(gated: &Gated<'_>, c: &mut Correctness) -> Result<()> {
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
