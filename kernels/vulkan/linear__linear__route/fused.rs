//! op: linear+linear+route of one row: a router and what else its x is multiplied
//! with. See `fused.comp`.

use crate::common::launch::{Gpu, Plain, Result, Step, shader};
use crate::common::linear::{gemv_groups, team_constants};
use crate::common::stored::{Matrix, PLAIN};
use graph::{Op, RouteScore, RouteSpec};
use registry::patterns::ROUTER_LINEAR;
use registry::{Operand, Problem};

/// Most experts: a subgroup keeps their scores in registers.
const MOST_EXPERTS: usize = 512;

/// Most pieces of a row that a lane keeps in registers.
const MOST_HELD: usize = 16;

/// Subgroups of a workgroup: few, so that the columns of a router are spread over a
/// device.
const SUBGROUPS: u32 = 2;

type Checked<T> = std::result::Result<T, String>;

fn route(problem: &Problem) -> Checked<RouteSpec> {
    match problem.ops[2].op {
        Op::Route(spec) => Ok(spec),
        _ => Err("not a route".into()),
    }
}

fn weight(problem: &Problem, op: usize) -> Checked<&Operand> {
    let found = problem.input(op, 1).map(|(_, w)| w);
    found.ok_or_else(|| "a linear has a weight".into())
}

fn fits(problem: &Problem) -> Checked<()> {
    let rows = problem.outputs[0].shape[0];
    if rows != 1 {
        return Err(format!("for one row, not {rows}"));
    }
    if route(problem)?.groups.is_some() {
        return Err("for experts without groups".into());
    }
    match weight(problem, 0)?.shape[0] {
        n if n <= MOST_EXPERTS => Ok(()),
        n => Err(format!("for up to {MOST_EXPERTS} experts, not {n}")),
    }
}

fn constants(problem: &Problem, gpu: Gpu) -> Checked<Vec<u32>> {
    let (w, spec) = (weight(problem, 0)?, route(problem)?);
    let mut all = team_constants(w.scheme, 1, 1, SUBGROUPS, gpu)?;
    let piece = if w.scheme == registry::Scheme::F32 {
        4
    } else {
        8
    };
    let held = (w.shape[1] / piece).div_ceil(gpu.info.subgroup as usize);
    let held = if held <= MOST_HELD { held } else { 0 };
    all.extend([held, w.shape[0], spec.top_k].map(|n| n as u32));
    all.extend([spec.score == RouteScore::Sigmoid, spec.normalise].map(u32::from));
    Ok(all)
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let spec = route(step.problem).map_err(|e| step.refuse(e))?;
    let x = step.operand(0, 0)?;
    let weights = [step.operand(0, 1)?, step.operand(1, 1)?];
    let matrix = |w| Matrix::of(w).map_err(|e| step.refuse(e));
    let matrices = [matrix(weights[0])?, matrix(weights[1])?];
    let [y, chosen_weights, experts] = step.binds.outputs.as_slice() else {
        return Err(step.refuse("three outputs were expected"));
    };
    let mut args = step.args();
    let xs = args.rows(x)?;
    let mut at = [0; 2];
    for i in 0..2 {
        at[i] = args.matrix(weights[i], &matrices[i], 0, matrices[i].n)?;
    }
    let mut biased = 0;
    let mut bias_at = [0; 3];
    for (i, op) in [0, 1].into_iter().enumerate() {
        let bias = step.optional(op, 2)?;
        biased |= usize::from(bias.is_some()) << i;
        // What is not there is bound to x and never read.
        bias_at[i] = args.words(bias.unwrap_or(x))? as usize;
    }
    let logits = args.words(step.workspace()?)? as usize;
    let y = args.words(y)? as usize;
    let bias = step.optional(2, 1)?;
    biased |= usize::from(bias.is_some()) << 2;
    bias_at[2] = args.words(bias.unwrap_or(x))? as usize;
    let to = [args.words(chosen_weights)?, args.words(experts)?];
    let meta = args.step(&step.binds.step)?;
    args.words(step.counters()?)?;
    args.count(meta, step.problem.outputs[0].rows)?;
    let columns = [matrices[0].n, matrices[1].n];
    args.u32s(&[matrices[0].k, columns[0], columns[1]])?;
    args.u32s(&[xs.0, at[0], at[1]])?;
    args.u32s(&bias_at)?;
    args.u32s(&[biased, logits, y])?;
    args.u32s(&to.map(|w| w as usize))?;
    let aligned = |i: usize| matrices[i].is_aligned(&[at[i]], xs);
    let aligned = aligned(0).and_then(|a| Ok(a && aligned(1)?));
    args.u32(usize::from(aligned.map_err(|e| step.refuse(e))?))?;
    args.f32(spec.scale);
    let groups = gemv_groups(step, columns[0] + columns[1]);
    step.dispatch(&args, [groups, 1, 1])
}

const fn of(quant: &'static [&'static str]) -> Plain {
    let shader = shader!("linear__linear__route.fused", 12, 17);
    let mut plain = Plain::new(&ROUTER_LINEAR, quant, "fused", shader, record)
        .with_matrix(PLAIN)
        .with_constants(constants)
        .with_workspace(|problem| weight(problem, 0).map_or(0, |w| w.shape[0] as u64 * 4))
        .with_counter();
    plain.fits = fits;
    plain.spec.rank = 40;
    plain
}

static F32: Plain = of(&["f32"]);
static F16: Plain = of(&["f16"]);
static BF16: Plain = of(&["bf16"]);
registry::register!(F32, F16, BF16);
