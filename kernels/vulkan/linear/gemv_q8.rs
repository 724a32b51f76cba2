//! op: linear, few rows, activations in int8. See `gemv_q8.comp`.

use crate::common::launch::{Plain, Result, Step, shader};
use crate::common::linear::{few_rounded_rows, gemv_q8_constants, gemv_q8_groups, parts};
use crate::common::stored::{for_each_block_scheme, register_schemes};
use registry::{Act, Pattern};

fn record(step: &mut Step<'_>) -> Result<()> {
    for mut part in parts(step)? {
        part.args.u32(usize::from(part.aligned))?;
        let groups = gemv_q8_groups(step, part.n);
        step.dispatch(&part.args, [groups, 1, 1])?;
    }
    Ok(())
}

const fn of(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    let shader = shader!("linear.gemv_q8", 5, 12);
    let mut plain = Plain::new(&Pattern::LINEAR, quant, "gemv_q8", shader, record)
        .with_matrix(layouts)
        .with_constants(gemv_q8_constants);
    plain.spec.rank = 20;
    plain.spec.act = Act::Q8_32;
    plain.fits = few_rounded_rows;
    plain
}

for_each_block_scheme!(register_schemes);
