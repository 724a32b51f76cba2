//! op: route. See `plain.comp`.

use crate::common::launch::{Gpu, Plain, Result, Step, shader};
use graph::{Op, RouteScore, RouteSpec};
use registry::{Pattern, Problem};

/// Most experts: three numbers for each are kept in shared memory.
const MOST: usize = 1024;

fn spec(problem: &Problem) -> std::result::Result<(RouteSpec, usize), String> {
    match problem.ops[0].op {
        Op::Route(spec) => Ok((spec, problem.inputs[0].row_len())),
        _ => Err("not a route".into()),
    }
}

fn fits(problem: &Problem) -> std::result::Result<(), String> {
    match spec(problem)?.1 {
        experts if experts <= MOST => Ok(()),
        experts => Err(format!("for up to {MOST} experts, not {experts}")),
    }
}

fn constants(problem: &Problem, gpu: Gpu) -> std::result::Result<Vec<u32>, String> {
    let (spec, experts) = spec(problem)?;
    let mut all = gpu.reduce(experts);
    let groups = spec.groups.map_or(1, |g| g.count);
    all.extend([experts, groups, spec.top_k].map(|n| n as u32));
    Ok(all)
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let (spec, _) = spec(step.problem).map_err(|e| step.refuse(e))?;
    let logits = step.input(0)?;
    let bias = match step.has_input(1) {
        true => Some(step.input(1)?),
        false => None,
    };
    let mut args = step.args();
    let x = args.rows(logits)?;
    // Without a bias the binding is never read.
    let b = args.words(bias.unwrap_or(logits))? as usize;
    let w = args.rows(&step.binds.outputs[0])?;
    let e = args.rows(&step.binds.outputs[1])?;
    let meta = args.step(&step.binds.step)?;
    args.count(meta, step.problem.outputs[0].rows)?;
    args.u32(spec.groups.map_or(1, |g| g.keep))?;
    args.u32(usize::from(spec.score == RouteScore::Sigmoid))?;
    args.u32(usize::from(spec.normalise))?;
    args.u32s(&[x.0, x.1, b, usize::from(bias.is_some())])?;
    args.u32s(&[w.0, w.1, e.0, e.1])?;
    args.f32(spec.scale);
    step.dispatch(&args, [1, step.max_rows(), 1])
}

const fn plain() -> Plain {
    let shader = shader!("route.plain", 5, 13);
    let mut plain =
        Plain::new(&Pattern::ROUTE, &["f32"], "plain", shader, record).with_constants(constants);
    plain.fits = fits;
    plain
}

static F32: Plain = plain();
registry::register!(F32);
