//! op: softcap. y = cap·tanh(x/cap), f32 [R, …].

use crate::common::plumbing::{Plain, Result, Step};
use crate::common::pointwise;
use graph::Op;
use registry::Pattern;

fn record(step: Step<'_>) -> Result<()> {
    let Op::SoftCap { cap } = step.problem.ops[0].op else {
        return Err(step.refuse("not a softcap"));
    };
    pointwise::record(step, move |x| (x / cap).tanh() * cap)
}

static F32: Plain = Plain::new(&Pattern::SOFTCAP, &["f32"], "plain", record);
registry::register!(F32);
