//! op: linear, few rows. See `gemv.comp`.

use crate::common::launch::{Gpu, Plain, Result, Step, shader};
use crate::common::linear::{few_rows, gemv_constants, gemv_groups, parts};
use crate::common::stored::{for_each_scheme, register_schemes};
use registry::{Pattern, Problem};

fn constants(problem: &Problem, gpu: Gpu) -> std::result::Result<Vec<u32>, String> {
    let (_, w) = problem.input(0, 1).ok_or("a linear has a weight")?;
    gemv_constants(w.scheme, problem.outputs[0].shape[0], w.shape[0], gpu)
}

fn record(step: &mut Step<'_>) -> Result<()> {
    for mut part in parts(step)? {
        part.args.u32(usize::from(part.aligned))?;
        let groups = gemv_groups(step, part.n);
        step.dispatch(&part.args, [groups, 1, 1])?;
    }
    Ok(())
}

const fn of(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    let shader = shader!("linear.gemv", 5, 12);
    let mut plain = Plain::new(&Pattern::LINEAR, quant, "gemv", shader, record)
        .with_matrix(layouts)
        .with_constants(constants);
    plain.spec.rank = 10;
    plain.fits = few_rows;
    plain
}

for_each_scheme!(register_schemes);
