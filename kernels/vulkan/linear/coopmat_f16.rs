//! op: linear, many rows, by cooperative matrices of f16. See `coopmat_f16.comp`.

use crate::common::coopmat::{self, Way, further};
use crate::common::launch::{Further, Plain};
use crate::common::stored::{for_each_scheme, register_schemes};
use registry::Pattern;

const SHADERS: &[Further] = further!(F16, "linear.coopmat_f16");

const fn of(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    let mut plain = coopmat::kernel(&Pattern::LINEAR, quant, layouts, Way::F16, SHADERS);
    if !matches!(quant[0].as_bytes(), b"f16") {
        // Other weights are rounded to f16, which the oracle's format leaves as they
        // are: each is off by up to 2⁻¹¹.
        plain.spec.tolerance = 2e-3;
    }
    plain
}

for_each_scheme!(register_schemes);
