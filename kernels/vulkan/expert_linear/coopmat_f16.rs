//! op: expert_linear, many rows, by cooperative matrices of f16. See `coopmat_f16.comp`.

use crate::common::coopmat::Way;
use crate::common::experts;
use crate::common::launch::{Further, Plain, shader};
use crate::common::stored::{for_each_scheme, register_schemes};

const SHADERS: &[Further] =
    &experts::further(Way::F16, shader!("expert_linear.coopmat_f16", 8, 20));

const fn of(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    let mut plain = experts::kernel(quant, layouts, Way::F16, SHADERS);
    if !matches!(quant[0].as_bytes(), b"f16") {
        // As for the matrices alone: weights are rounded to f16.
        plain.spec.tolerance = 2e-3;
    }
    plain
}

for_each_scheme!(register_schemes);
