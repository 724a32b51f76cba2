//! op: expert_linear, the experts that each row chose, with activations rounded to
//! int8 first, one scale for each 32 elements; see [`stacked`].

use crate::common::act::{self, Format};
use crate::common::plumbing::{Plain, Result, Step};
use crate::common::stacked;
use crate::common::stored::{for_each_scheme, register_schemes};
use registry::{Act, Pattern};

const BLOCK: usize = 32;

fn record(step: Step<'_>) -> Result<()> {
    stacked::experts(step, Some(Format::of(act::to_q8::<BLOCK>)))
}

const fn of(quant: &'static [&'static str]) -> Plain {
    let (pattern, act) = (&Pattern::EXPERT_LINEAR, Act::Q8_32);
    let mut plain = stacked::kernel(pattern, quant, "act_q8_32", act, -1, record);
    plain.fits = stacked::whole_blocks::<BLOCK>;
    plain
}

for_each_scheme!(register_schemes);
