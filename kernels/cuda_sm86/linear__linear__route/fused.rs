//! op: linear+linear+route of one row: a router and what else its x is multiplied
//! with. See `fused.cu`.

use crate::common::args::Args;
use crate::common::launch::{Fits, Plain, Result, Step, blocks, ptx};
use crate::common::linears::x_aligned;
use graph::{Op, RouteScore};
use registry::patterns::ROUTER_LINEAR;
use registry::{Problem, ROW_MAJOR};

/// Most experts: a warp keeps their scores in registers.
const MOST_EXPERTS: usize = 256;

/// Warps of a block, as in the kernel.
const WARPS: usize = 4;

/// Rows of the matrix of a linear.
fn columns(problem: &Problem, op: usize) -> usize {
    let w = problem.input(op, 1);
    w.and_then(|(_, w)| w.shape.first().copied()).unwrap_or(0)
}

fn fits(problem: &Problem) -> Fits {
    problem.common_attributes()?;
    let rows = problem.outputs[0].shape[0];
    if rows != 1 {
        return Err(format!("for one row, not {rows}"));
    }
    let Op::Route(spec) = &problem.ops[2].op else {
        return Err("not a route".into());
    };
    if spec.groups.is_some() {
        return Err("for experts without groups".into());
    }
    match columns(problem, 0) {
        n if n <= MOST_EXPERTS => Ok(()),
        n => Err(format!("for up to {MOST_EXPERTS} experts, not {n}")),
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::Route(spec) = step.problem.ops[2].op else {
        return Err(step.refuse("not a route"));
    };
    let (n, other) = (columns(step.problem, 0), columns(step.problem, 1));
    let (x, w) = (step.operand(0, 0)?, step.operand(0, 1)?);
    let k = w.shape.last().copied().unwrap_or(0);
    let mut args = Args::default();
    let mut aligned = x_aligned(args.tensor(step, x)?, k);
    for op in 0..2 {
        aligned &= x_aligned(args.tensor(step, step.operand(op, 1)?)?, k);
    }
    for op in 0..2 {
        args.optional(step, step.optional(op, 2))?;
    }
    args.tensor(step, step.scratch()?)?;
    let [y, weights, experts] = step.binds.outputs.as_slice() else {
        return Err(step.refuse("three outputs were expected"));
    };
    args.tensor(step, y)?;
    args.optional(step, step.optional(2, 1))?;
    args.tensor(step, weights)?;
    args.tensor(step, experts)?;
    args.count(step, step.rows_from())?;
    args.u32s(step, &[k, usize::from(aligned), n, other, spec.top_k])?;
    let sigmoid = spec.score == RouteScore::Sigmoid;
    args.u32s(step, &[usize::from(sigmoid), usize::from(spec.normalise)])?;
    args.f32(spec.scale);
    let grid = [blocks(n + other, WARPS), 1, 1];
    step.launch("router", &args, grid, 32 * WARPS as u32)
}

static F32: Plain = Plain::new(
    &ROUTER_LINEAR,
    &["f32"],
    "fused",
    ptx!("linear__linear__route.fused"),
    record,
)
.with_layouts(&[ROW_MAJOR])
.with_fits(fits)
.with_workspace(|problem| columns(problem, 0) as u64 * 4)
.with_rank(40);
registry::register!(F32);
