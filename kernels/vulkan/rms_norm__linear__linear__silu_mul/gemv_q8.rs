//! op: rms_norm+linear+linear+silu_mul, few rows, activations in int8. See `common/products_q8.glsl`.

use crate::common::launch::Plain;
use crate::common::products_q8::kernel;
use crate::common::stored::{for_each_block_scheme, register_schemes};
use registry::patterns::NORM_GATE_UP;

// The norm's last bit may turn a rounding of x, in both factors.
const fn of(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    kernel(&NORM_GATE_UP, quant, layouts, 30, 8e-3)
}

for_each_block_scheme!(register_schemes);
