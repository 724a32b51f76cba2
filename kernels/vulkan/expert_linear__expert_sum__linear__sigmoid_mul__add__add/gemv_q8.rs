//! op: expert_linear+expert_sum+linear+sigmoid_mul+add+add: down of the experts of one row and of the shared one, into the row's sum.
//! See `common/mixture.rs`.

use crate::common::launch::Plain;
use crate::common::mixture::sums;
use crate::common::stored::{for_each_block_scheme, register_schemes};

const fn of(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    sums(quant, layouts)
}

for_each_block_scheme!(register_schemes);
