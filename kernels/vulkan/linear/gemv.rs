//! op: linear, few rows. See `gemv.comp`.

use crate::common::launch::{Plain, Result, Step, shader};
use crate::common::linear::{few_rows, gemv_constants, is_aligned, parts};
use registry::Pattern;

fn record(step: &mut Step<'_>) -> Result<()> {
    let scheme = step.input(1)?.scheme;
    for mut part in parts(step)? {
        let aligned = is_aligned(scheme, part.k, &[part.w], part.x);
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
        .with_constants(gemv_constants);
    plain.spec.rank = 10;
    plain.fits = few_rows;
    plain
}

static F32: Plain = of(&["f32"]);
static F16: Plain = of(&["f16"]);
static BF16: Plain = of(&["bf16"]);
registry::register!(F32, F16, BF16);
