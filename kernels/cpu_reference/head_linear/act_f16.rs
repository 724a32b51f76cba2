//! op: head_linear, a matrix for each head, with activations rounded to f16 first; see [`stacked`].

use crate::common::act::{self, Format};
use crate::common::plumbing::{Plain, Result, Step};
use crate::common::stacked;
use crate::common::stored::{for_each_scheme, register_schemes};
use registry::{Act, Pattern};

fn record(step: Step<'_>) -> Result<()> {
    stacked::heads(step, Some(Format::of(act::to_f16)))
}

const fn of(quant: &'static [&'static str]) -> Plain {
    stacked::kernel(&Pattern::HEAD_LINEAR, quant, "act_f16", Act::F16, 0, record)
}

for_each_scheme!(register_schemes);
