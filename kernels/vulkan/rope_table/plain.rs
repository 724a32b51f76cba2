//! op: rope_table. See `plain.comp`.

use crate::common::launch::{Plain, Result, Step, shader};
use graph::Op;
use registry::Pattern;

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::RopeTable { attention_factor } = step.problem.ops[0].op else {
        return Err(step.refuse("not a rope_table"));
    };
    let freq = step.input(0)?;
    let half = freq.shape[0];
    let mut args = step.args();
    let f = args.words(freq)?;
    let table = args.rows(step.output())?;
    let meta = args.step(&step.binds.step)?;
    args.count(meta, step.problem.outputs[0].rows)?;
    let positions = meta + step.problem.step.positions();
    args.u32s(&[half, f as usize, table.0, table.1, positions])?;
    args.f32(attention_factor);
    step.dispatch(&args, [step.groups_of(half), step.max_rows(), 1])
}

static F32: Plain = Plain::new(
    &Pattern::ROPE_TABLE,
    &["f32"],
    "plain",
    shader!("rope_table.plain", 3, 7),
    record,
);
registry::register!(F32);
