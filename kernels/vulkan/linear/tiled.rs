//! op: linear, many rows. See `tiled.comp`.

use crate::common::launch::{Gpu, Plain, Result, Step, shader};
use crate::common::linear::parts;
use crate::common::stored::{for_each_scheme, register_schemes, scheme_constant};
use registry::{Pattern, Problem};

/// Rows and columns of a workgroup's tile, as in the shader.
const TILE: u32 = 32;

/// Lanes of a workgroup, as in the shader.
const LANES: u32 = 64;

fn constants(problem: &Problem, gpu: Gpu) -> std::result::Result<Vec<u32>, String> {
    let (_, w) = problem.input(0, 1).ok_or("a linear has a weight")?;
    let mut all = gpu.lanes(LANES);
    all.push(scheme_constant(w.scheme)?);
    Ok(all)
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let rows = step.max_rows().div_ceil(TILE);
    for part in parts(step)? {
        let columns = (part.n as u32).div_ceil(TILE);
        step.dispatch(&part.args, [columns, rows, 1])?;
    }
    Ok(())
}

const fn of(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    let shader = shader!("linear.tiled", 5, 11);
    Plain::new(&Pattern::LINEAR, quant, "tiled", shader, record)
        .with_matrix(layouts)
        .with_constants(constants)
}

for_each_scheme!(register_schemes);
