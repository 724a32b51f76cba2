//! Ops that make each element of y of the same element of x and one number.

use crate::common::launch::{Result, Step};

pub fn record(step: &mut Step<'_>, value: f32) -> Result<()> {
    let mut args = step.args();
    let x = args.rows(step.input(0)?)?;
    let y = args.rows(step.output())?;
    let meta = args.step(&step.binds.step)?;
    let len = step.row_len();
    args.count(meta, step.problem.outputs[0].rows)?;
    args.u32s(&[len, x.0, x.1, y.0, y.1])?;
    args.f32(value);
    step.dispatch(&args, [step.groups_of(len), step.max_rows(), 1])
}
