//! op: linear with activations rounded to bf16 first, and weights that are finer
//! than it, as units that multiply bf16 need both; see [`linear::record`].

use crate::common::act;
use crate::common::linear;
use crate::common::plumbing::{Plain, Result, Step};
use crate::common::stored::{for_each_scheme, register_schemes};
use registry::Act;

fn record(step: Step<'_>) -> Result<()> {
    linear::record(step, Some(act::BF16))
}

const fn of(quant: &'static [&'static str]) -> Plain {
    linear::kernel(quant, "act_bf16", Act::Bf16, 1, record)
}

for_each_scheme!(register_schemes);
