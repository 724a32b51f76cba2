//! op: head_linear, a matrix for each head, with activations as they are; see [`stacked`].

use crate::common::plumbing::{Plain, Result, Step};
use crate::common::stacked;
use crate::common::stored::{for_each_scheme, register_schemes};
use registry::{Act, Pattern};

fn record(step: Step<'_>) -> Result<()> {
    stacked::heads(step, None)
}

const fn of(quant: &'static [&'static str]) -> Plain {
    stacked::kernel(&Pattern::HEAD_LINEAR, quant, "act_f32", Act::F32, 2, record)
}

for_each_scheme!(register_schemes);
