//! op: linear+linear+silu_mul, many rows, by cooperative matrices of f16. See `coopmat_f16.comp`.

use crate::common::coopmat::{self, Way, further};
use crate::common::launch::{Further, Plain};
use crate::common::stored::{for_each_scheme, register_schemes};
use registry::patterns::GATE_UP;

const SHADERS: &[Further] = further!(F16, "linear__linear__silu_mul.coopmat_f16");

const fn of(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    let mut plain = coopmat::kernel(&GATE_UP, quant, layouts, Way::F16, SHADERS);
    // As for the matrices alone: weights are rounded to f16.
    plain.spec.tolerance = 2e-3;
    plain
}

for_each_scheme!(register_schemes);
