//! x in f16, as products of several rows with block-quantised weights take it. See
//! `rounded.cuh`.

use crate::common::args::Args;
use crate::common::launch::{Result, Step, blocks};
use crate::common::layout::{COLUMNS, chunks};
use crate::common::linears::{self, Form, Operands, x_aligned};
use registry::Problem;

/// Bytes of x in f16, and of the sums of its columns.
fn scratch(problem: &Problem) -> (u64, u64) {
    let form = Form::of(problem);
    let x = problem.input(form.first, 0);
    let rows = x.map_or(0, |(_, x)| x.shape[0]);
    let all = (rows * chunks(linears::columns(problem))) as u64;
    (all * COLUMNS as u64 * 2, all * 32)
}

pub fn workspace(problem: &Problem) -> u64 {
    let (x, sums) = scratch(problem);
    x + sums
}

/// Makes f16 of x.
fn round(step: &mut Step<'_>, k: usize) -> Result<()> {
    // No norm stands ahead of several rows.
    let (x, to) = (step.operand(0, 0)?, step.scratch()?);
    let (bytes, sums) = scratch(step.problem);
    let mut args = Args::default();
    let at = args.tensor(step, x)?;
    args.part(step, to, 0, bytes)?;
    args.part(step, to, bytes, sums)?;
    args.count(step, step.rows_from())?;
    let aligned = usize::from(x_aligned(at, x.row_stride()));
    args.u32s(step, &[k, x.row_stride(), chunks(k), aligned])?;
    let grid = [blocks(chunks(k), 4), step.max_rows(), 1];
    step.launch("round_rows", &args, grid, 128)
}

/// Records the rounding and gives the arguments of the product.
pub fn args(step: &mut Step<'_>) -> Result<(Args, Operands)> {
    round(step, linears::columns(step.problem))?;
    let from = step.scratch()?;
    let (bytes, sums) = scratch(step.problem);
    let mut args = Args::default();
    let o = linears::pointers(&mut args, step, |args| {
        args.part(step, from, 0, bytes)?;
        args.part(step, from, bytes, sums)?;
        Ok(true)
    })?;
    words(&mut args, step, &o)?;
    Ok((args, o))
}

/// Words behind the pointers; `struct Args` in `mma_gemv.cuh`, `struct
/// RoundedArgs` in `rounded.cuh`.
pub fn words(args: &mut Args, step: &Step<'_>, o: &Operands) -> Result<()> {
    if !o.w_aligned {
        return Err(step.refuse("packed weights must start at a 16-byte piece"));
    }
    args.u32s(step, &[o.k, o.x_stride, usize::from(o.x_aligned)])?;
    args.u32s(step, &o.n)?;
    args.u32s(step, &o.y_stride)?;
    args.u32s(step, &[chunks(o.k), o.add_stride])?;
    args.f32(o.eps);
    args.f32(o.weight_offset);
    Ok(())
}
