//! op: linear+linear+silu_mul, few rows. See `gemv.comp`.

use crate::common::gate_up;
use crate::common::launch::{Gpu, Plain, Result, Step, shader};
use crate::common::linear::{few_rows, gemv_constants, gemv_groups};
use crate::common::stored::{for_each_scheme, register_schemes};
use registry::Problem;
use registry::patterns::GATE_UP;

fn record(step: &mut Step<'_>) -> Result<()> {
    gate_up::record(step, gemv_groups)
}

fn constants(problem: &Problem, gpu: Gpu) -> std::result::Result<Vec<u32>, String> {
    let (_, w) = problem.input(0, 1).ok_or("a linear has a weight")?;
    gemv_constants(w.scheme, problem.outputs[0].shape[0], w.shape[0], gpu)
}

const fn of(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    let shader = shader!("linear__linear__silu_mul.gemv", 7, 15);
    let mut plain = Plain::new(&GATE_UP, quant, "gemv", shader, record)
        .with_matrix(layouts)
        .with_constants(constants);
    plain.fits = few_rows;
    plain
}

for_each_scheme!(register_schemes);
