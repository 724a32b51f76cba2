//! op: expert_linear+expert_sum+linear+sigmoid_mul+add+add+rms_norm: down of the experts of one row and of the shared one, into the row's sum and its norm.
//! See `common/mixture.rs`.

use crate::common::launch::Plain;
use crate::common::mixture::normed_sums;
use crate::common::stored::{for_each_block_scheme, register_schemes};

const fn of(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    normed_sums(quant, layouts)
}

for_each_block_scheme!(register_schemes);
