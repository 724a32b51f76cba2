//! Ops that make each element of y of the same elements. See `pointwise.cu`.

use crate::common::args::Args;
use crate::common::launch::{Plain, Ptx, Result, Step, blocks, ptx};
use graph::{Op, OpKind};
use registry::{OperandSrc, Pattern, Problem};

const PTX: Ptx = ptx!("common.pointwise");
const THREADS: u32 = 128;

fn binary(step: &mut Step<'_>) -> Result<()> {
    let kind = step.problem.ops[0].op.kind();
    let (a, b, y) = (step.input(0)?, step.input(1)?, step.output());
    let len = step.row_len();
    let one_gate =
        matches!(kind, OpKind::GatedMul(_)) && a.shape.iter().skip(1).product::<usize>() != len;
    let mut args = Args::default();
    args.tensor(step, a)?;
    args.tensor(step, b)?;
    args.tensor(step, y)?;
    args.count(step, step.rows_from())?;
    let strides = [a.row_stride(), b.row_stride(), y.row_stride()];
    args.u32(step, len)?;
    args.u32s(step, &strides)?;
    args.u32(step, usize::from(one_gate))?;
    let grid = [blocks(len, THREADS as usize), step.max_rows(), 1];
    step.launch(kind.name(), &args, grid, THREADS)
}

fn unary(step: &mut Step<'_>) -> Result<()> {
    let (entry, value) = match step.problem.ops[0].op {
        Op::Scale { factor } => ("scale", factor),
        Op::SoftCap { cap } => ("softcap", cap),
        _ => return Err(step.refuse("not a scale or softcap")),
    };
    let (x, y) = (step.input(0)?, step.output());
    let len = step.row_len();
    let mut args = Args::default();
    args.tensor(step, x)?;
    args.tensor(step, y)?;
    args.count(step, step.rows_from())?;
    args.u32s(step, &[len, x.row_stride(), y.row_stride()])?;
    args.f32(value);
    let grid = [blocks(len, THREADS as usize), step.max_rows(), 1];
    step.launch(entry, &args, grid, THREADS)
}

/// Any gate: one for a row too.
fn any(problem: &Problem) -> std::result::Result<(), String> {
    match problem.ops[0].inputs.first() {
        Some(OperandSrc::Input(_)) => Ok(()),
        _ => Err("its inputs come from outside".into()),
    }
}

/// The kernel of an op with two operands.
pub const fn of_two(pattern: &'static Pattern) -> Plain {
    Plain::new(pattern, &["f32"], "plain", PTX, binary).with_fits(any)
}

/// The kernel of an op with one operand.
pub const fn of_one(pattern: &'static Pattern) -> Plain {
    Plain::new(pattern, &["f32"], "plain", PTX, unary)
}
