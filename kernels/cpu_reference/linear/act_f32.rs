//! op: linear with activations as they are; see [`linear::record`].

use crate::common::linear;
use crate::common::plumbing::{Plain, Result, Step};
use crate::common::stored::{for_each_scheme, register_schemes};
use registry::Act;

fn record(step: Step<'_>) -> Result<()> {
    linear::record(step, None)
}

const fn of(quant: &'static [&'static str]) -> Plain {
    linear::kernel(quant, "act_f32", Act::F32, 2, record)
}

for_each_scheme!(register_schemes);
