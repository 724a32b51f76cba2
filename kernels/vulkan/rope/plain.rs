//! op: rope. See `plain.comp`.

use crate::common::launch::{Plain, Result, Step, shader};
use graph::Op;
use registry::Pattern;

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::Rope(rope) = step.problem.ops[0].op else {
        return Err(step.refuse("not a rope"));
    };
    let dim = step.problem.outputs[0].shape[2];
    let mut args = step.args();
    let x = args.rows(step.input(0)?)?;
    let table = args.rows(step.input(1)?)?;
    let y = args.rows(step.output())?;
    let meta = args.step(&step.binds.step)?;
    let len = step.row_len();
    args.count(meta, step.problem.outputs[0].rows)?;
    let interleaved = usize::from(rope.interleaved);
    args.u32s(&[len, dim, rope.first, rope.rotary_dim / 2, interleaved])?;
    args.u32s(&[x.0, x.1, table.0, table.1, y.0, y.1])?;
    step.dispatch(&args, [step.groups_of(len), step.max_rows(), 1])
}

static F32: Plain = Plain::new(
    &Pattern::ROPE,
    &["f32"],
    "plain",
    shader!("rope.plain", 4, 12),
    record,
)
.with_every_attribute();
registry::register!(F32);
