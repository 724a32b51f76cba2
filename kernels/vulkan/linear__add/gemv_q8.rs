//! op: linear+add, few rows, activations in int8. See `common/products_q8.glsl`.

use crate::common::launch::Plain;
use crate::common::products_q8::kernel;
use crate::common::stored::{for_each_block_scheme, register_schemes};
use registry::patterns::LINEAR_ADD;

const fn of(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    kernel(&LINEAR_ADD, quant, layouts, 20, 2e-5)
}

for_each_block_scheme!(register_schemes);
