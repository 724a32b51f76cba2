//! op: linear+add+rms_norm, one row, activations in int8. See `common/products_q8.glsl`.

use crate::common::launch::Plain;
use crate::common::products_q8::normed_kernel;
use crate::common::stored::{for_each_block_scheme, register_schemes};
use registry::patterns::LINEAR_ADD_NORM;

const fn of(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    normed_kernel(&LINEAR_ADD_NORM, quant, layouts, 25, 2e-5)
}

for_each_block_scheme!(register_schemes);
