//! op: expert_linear, many rows, by cooperative matrices of bf16. See `coopmat.comp`.

use crate::common::coopmat::Way;
use crate::common::experts;
use crate::common::launch::{Further, Plain, shader};
use crate::common::stored::{for_each_scheme, register_schemes};

const SHADERS: &[Further] = &experts::further(Way::Bf16, shader!("expert_linear.coopmat", 8, 20));

const fn of(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    experts::kernel(quant, layouts, Way::Bf16, SHADERS)
}

for_each_scheme!(register_schemes);
