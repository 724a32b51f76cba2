//! op: linear, few rows. See `gemv.comp`.

use crate::common::launch::{Gpu, Plain, Result, Step, scheme_constant, shader};
use crate::common::linear::parts;
use registry::{Pattern, Problem, Scheme};

/// Above this the tiled kernel reads each weight more seldom.
const MOST_ROWS: usize = 16;

/// Rows that share a weight load; more of them spill registers.
const SHARED_ROWS: usize = 4;

fn constants(problem: &Problem, gpu: Gpu) -> std::result::Result<Vec<u32>, String> {
    let (_, w) = problem.input(0, 1).ok_or("a linear has a weight")?;
    let mut all = gpu.lanes(gpu.info.subgroup);
    all.push(scheme_constant(w.scheme)?);
    all.push(problem.outputs[0].shape[0].clamp(1, SHARED_ROWS) as u32);
    Ok(all)
}

fn fits(problem: &Problem) -> std::result::Result<(), String> {
    match problem.outputs[0].shape[0] {
        rows if rows <= MOST_ROWS => Ok(()),
        rows => Err(format!("for up to {MOST_ROWS} rows, not {rows}")),
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let scheme = step.input(1)?.scheme;
    let piece = if scheme == Scheme::F32 { 4 } else { 8 };
    for mut part in parts(step)? {
        let [w, x, stride] = part.starts;
        let aligned = part.k.is_multiple_of(piece)
            && w.is_multiple_of(piece)
            && x.is_multiple_of(4)
            && stride.is_multiple_of(4);
        part.args.u32(usize::from(aligned))?;
        let groups = (part.n as u32).min(step.limits().workgroups[0]);
        step.dispatch(&part.args, [groups, 1, 1])?;
    }
    Ok(())
}

const fn of(quant: &'static [&'static str]) -> Plain {
    let shader = shader!("linear.gemv", 5, 11);
    let mut plain = Plain::new(&Pattern::LINEAR, quant, "gemv", shader, record)
        .with_matrix()
        .with_constants(constants);
    plain.spec.rank = 10;
    plain.fits = fits;
    plain
}

static F32: Plain = of(&["f32"]);
static F16: Plain = of(&["f16"]);
static BF16: Plain = of(&["bf16"]);
registry::register!(F32, F16, BF16);
