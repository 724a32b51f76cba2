//! op: linear with activations rounded to int8 first, one scale for each 32
//! elements; see [`linear::record`].

use crate::common::act::{self, Format};
use crate::common::linear;
use crate::common::plumbing::{Plain, Result, Step};
use crate::common::stored::{for_each_scheme, register_schemes};
use registry::Act;

const BLOCK: usize = 32;

fn record(step: Step<'_>) -> Result<()> {
    linear::record(step, Some(Format::of(act::to_q8::<BLOCK>)))
}

const fn of(quant: &'static [&'static str]) -> Plain {
    let mut plain = linear::kernel(quant, "act_q8_32", Act::Q8_32, -1, record);
    plain.fits = linear::whole_blocks::<BLOCK>;
    plain
}

for_each_scheme!(register_schemes);
