//! op: expert_linear, many rows, by matrices of bf16 that a workgroup multiplies as one.
//! See `expert_linear/coopmat2.comp`.

use crate::common::experts2;
use crate::common::launch::Plain;
use crate::common::stored::{for_each_scheme, register_schemes};

const fn of(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    experts2::kernel(quant, layouts)
}

for_each_scheme!(register_schemes);
