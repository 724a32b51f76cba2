//! op: head_linear, a matrix for each head, with activations rounded to bf16 first; see [`stacked`].

use crate::common::act;
use crate::common::plumbing::{Plain, Result, Step};
use crate::common::stacked;
use crate::common::stored::{for_each_scheme, register_schemes};
use registry::{Act, Pattern};

fn record(step: Step<'_>) -> Result<()> {
    stacked::heads(step, Some(act::BF16))
}

const fn of(quant: &'static [&'static str]) -> Plain {
    stacked::kernel(
        &Pattern::HEAD_LINEAR,
        quant,
        "act_bf16",
        Act::Bf16,
        1,
        record,
    )
}

for_each_scheme!(register_schemes);
