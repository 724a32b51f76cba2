//! op: linear+linear+silu_mul, many rows, by cooperative matrices of bf16. See `coopmat.comp`.

use crate::common::coopmat::{self, Way, further};
use crate::common::launch::{Further, Plain};
use crate::common::stored::{for_each_scheme, register_schemes};
use registry::patterns::GATE_UP;

const SHADERS: &[Further] = further!(Bf16, "linear__linear__silu_mul.coopmat");

const fn of(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    coopmat::kernel(&GATE_UP, quant, layouts, Way::Bf16, SHADERS)
}

for_each_scheme!(register_schemes);
