//! op: expert_linear+expert_linear+silu_mul: gate and up of the experts of one row.
//! See `common/mixture.rs`.

use crate::common::launch::Plain;
use crate::common::mixture::own_gates;
use crate::common::stored::{for_each_block_scheme, register_schemes};

const fn of(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    own_gates(quant, layouts)
}

for_each_block_scheme!(register_schemes);
