//! op: linear with activations rounded to f16 first; see [`linear::record`].

use crate::common::act::{self, Format};
use crate::common::linear;
use crate::common::plumbing::{Plain, Result, Step};
use crate::common::stored::{for_each_scheme, register_schemes};
use registry::Act;

fn record(step: Step<'_>) -> Result<()> {
    linear::record(step, Some(Format::of(act::to_f16)))
}

const fn of(quant: &'static [&'static str]) -> Plain {
    linear::kernel(quant, "act_f16", Act::F16, 0, record)
}

for_each_scheme!(register_schemes);
