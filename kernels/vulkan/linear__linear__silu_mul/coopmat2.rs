//! op: linear+linear+silu_mul, many rows, by matrices of bf16 that a workgroup multiplies
//! as one. See `linear/coopmat2.comp`.

use crate::common::coopmat2;
use crate::common::gate_up::PATTERN;
use crate::common::launch::Plain;
use crate::common::stored::{for_each_scheme, register_schemes};

const fn of(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    coopmat2::kernel(&PATTERN, quant, layouts, coopmat2::GATED)
}

for_each_scheme!(register_schemes);
