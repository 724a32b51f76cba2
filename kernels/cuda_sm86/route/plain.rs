//! op: route. See `plain.cu`.

use crate::common::args::Args;
use crate::common::launch::{Fits, Plain, Result, Step, ptx};
use graph::{Op, RouteScore};
use registry::{Pattern, Problem};

/// Most experts: their scores lie in shared memory.
const MOST: usize = 1024;

fn fits(problem: &Problem) -> Fits {
    match problem.inputs[0].row_len() {
        n if n <= MOST => Ok(()),
        n => Err(format!("for up to {MOST} experts, not {n}")),
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::Route(spec) = step.problem.ops[0].op else {
        return Err(step.refuse("not a route"));
    };
    let logits = step.input(0)?;
    let (weights, experts) = (&step.binds.outputs[0], &step.binds.outputs[1]);
    let n: usize = logits.shape.iter().skip(1).product();
    let (groups, keep) = spec.groups.map_or((0, 0), |g| (g.count, g.keep));
    let mut args = Args::default();
    args.tensor(step, logits)?;
    args.optional(step, step.optional(0, 1))?;
    args.tensor(step, weights)?;
    args.tensor(step, experts)?;
    args.count(step, step.rows_from())?;
    let sigmoid = usize::from(spec.score == RouteScore::Sigmoid);
    args.u32s(step, &[n, spec.top_k, sigmoid])?;
    args.u32s(step, &[usize::from(spec.normalise), groups, keep])?;
    for t in [logits, weights, experts] {
        args.u32(step, t.row_stride())?;
    }
    args.f32(spec.scale);
    step.launch("route", &args, [step.max_rows(), 1, 1], 32)
}

static F32: Plain = Plain::new(
    &Pattern::ROUTE,
    &["f32"],
    "plain",
    ptx!("route.plain"),
    record,
)
.with_fits(fits);
registry::register!(F32);
