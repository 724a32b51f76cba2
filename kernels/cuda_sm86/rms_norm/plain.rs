//! op: rms_norm. See `common/norm.cu`.

use crate::common::args::Args;
use crate::common::launch::{Plain, Result, Step, ptx, reduce_threads};
use graph::Op;
use registry::Pattern;

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::RmsNorm { eps, weight_offset } = step.problem.ops[0].op else {
        return Err(step.refuse("not an rms_norm"));
    };
    let (x, w, y) = (step.input(0)?, step.input(1)?, step.output());
    let dim = w.shape[0];
    let mut args = Args::default();
    args.tensor(step, x)?;
    args.tensor(step, w)?;
    args.tensor(step, y)?;
    args.count(step, step.rows_from())?;
    args.u32s(step, &[dim, x.row_stride(), y.row_stride()])?;
    args.f32(eps);
    args.f32(weight_offset);
    let groups = (step.row_len() / dim) as u32;
    let grid = [groups, step.max_rows(), 1];
    step.launch("rms_norm", &args, grid, reduce_threads(dim))
}

static F32: Plain = Plain::new(
    &Pattern::RMS_NORM,
    &["f32"],
    "plain",
    ptx!("common.norm"),
    record,
);
registry::register!(F32);
