//! op: rms_norm+silu_mul. See `common/norm.cu`.

use crate::common::args::Args;
use crate::common::launch::{Plain, Result, Step, ptx, reduce_threads};
use graph::Op;
use registry::patterns::GATED_NORM;

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::RmsNorm { eps, weight_offset } = step.problem.ops[0].op else {
        return Err(step.refuse("not an rms_norm"));
    };
    let (x, w, gate, y) = (
        step.operand(0, 0)?,
        step.operand(0, 1)?,
        step.operand(1, 0)?,
        step.output(),
    );
    let dim = w.shape[0];
    let mut args = Args::default();
    for t in [x, w, gate, y] {
        args.tensor(step, t)?;
    }
    args.count(step, step.rows_from())?;
    args.u32(step, dim)?;
    for t in [x, gate, y] {
        args.u32(step, t.row_stride())?;
    }
    args.f32(eps);
    args.f32(weight_offset);
    let groups = (step.row_len() / dim) as u32;
    let grid = [groups, step.max_rows(), 1];
    step.launch("gated_rms_norm", &args, grid, reduce_threads(dim))
}

static F32: Plain = Plain::new(&GATED_NORM, &["f32"], "fused", ptx!("common.norm"), record);
registry::register!(F32);
