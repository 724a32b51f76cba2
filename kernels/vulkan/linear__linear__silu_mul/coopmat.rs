//! op: linear+linear+silu_mul, many rows, by cooperative matrices of bf16. See `coopmat.comp`.

use crate::common::coopmat::{self, Factor};
use crate::common::gate_up::PATTERN;
use crate::common::launch::{Plain, shader};
use crate::common::stored::{for_each_scheme, register_schemes};

const fn of(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    let shader = shader!("linear__linear__silu_mul.coopmat", 7, 14);
    coopmat::kernel(&PATTERN, quant, layouts, Factor::Bf16, shader)
}

for_each_scheme!(register_schemes);
