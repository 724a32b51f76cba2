//! op: linear with activations rounded to bf16 first; see [`linear::record`].

use crate::common::act;
use crate::common::linear;
use crate::common::plumbing::{Plain, Result, Step};
use registry::Act;

fn record(step: Step<'_>) -> Result<()> {
    linear::record(step, Some(act::to_bf16))
}

const fn of(quant: &'static [&'static str]) -> Plain {
    linear::kernel(quant, "act_bf16", Act::Bf16, 1, record)
}

static F32: Plain = of(&["f32"]);
static F16: Plain = of(&["f16"]);
static BF16: Plain = of(&["bf16"]);
registry::register!(F32, F16, BF16);
