//! op: linear+linear+silu_mul, few rows, activations in int8. See `gemv_q8.comp`.

use crate::common::gate_up;
use crate::common::launch::{Plain, Result, Step, shader};
use crate::common::linear::{few_rounded_rows, gemv_q8_constants, gemv_q8_groups};
use crate::common::stored::{for_each_block_scheme, register_schemes};
use registry::Act;
use registry::patterns::GATE_UP;

fn record(step: &mut Step<'_>) -> Result<()> {
    gate_up::record(step, gemv_q8_groups)
}

const fn of(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    let shader = shader!("linear__linear__silu_mul.gemv_q8", 7, 15);
    let mut plain = Plain::new(&GATE_UP, quant, "gemv_q8", shader, record)
        .with_matrix(layouts)
        .with_constants(gemv_q8_constants);
    plain.fits = few_rounded_rows;
    plain.spec.rank = 10;
    plain.spec.act = Act::Q8_32;
    plain
}

for_each_block_scheme!(register_schemes);
