//! op: linear, many rows, by cooperative matrices of f16. See `coopmat_f16.comp`.

use crate::common::coopmat::{self, Factor};
use crate::common::launch::{Plain, shader};
use crate::common::stored::{for_each_scheme, register_schemes};
use registry::Pattern;

const fn of(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    let shader = shader!("linear.coopmat_f16", 7, 14);
    let mut plain = coopmat::kernel(&Pattern::LINEAR, quant, layouts, Factor::F16, shader);
    if !matches!(quant[0].as_bytes(), b"f16") {
        // Other weights are rounded to f16, which the oracle's format leaves as they
        // are: each is off by up to 2⁻¹¹.
        plain.spec.tolerance = 2e-3;
    }
    plain
}

for_each_scheme!(register_schemes);
