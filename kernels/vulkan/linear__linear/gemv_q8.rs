//! op: linear+linear, one row, activations in int8. See `common/products_q8.glsl`.

use crate::common::launch::Plain;
use crate::common::products_q8::kernel;
use crate::common::stored::{for_each_block_scheme, register_schemes};
use registry::patterns::LINEAR_PAIR;

const fn of(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    kernel(&LINEAR_PAIR, quant, layouts, 4, 2e-5)
}

for_each_block_scheme!(register_schemes);
