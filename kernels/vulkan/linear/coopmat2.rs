//! op: linear, many rows, by matrices of bf16 that a workgroup multiplies
//! as one. See `linear/coopmat2.comp`.

use crate::common::coopmat2;
use crate::common::launch::Plain;
use crate::common::stored::{for_each_scheme, register_schemes};

const fn of(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    coopmat2::kernel(quant, layouts)
}

for_each_scheme!(register_schemes);
