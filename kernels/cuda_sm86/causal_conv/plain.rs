//! op: causal_conv. See `plain.cu`.

use crate::common::args::Args;
use crate::common::launch::{Plain, Result, Step, blocks, ptx};
use crate::common::state;
use graph::Op;
use registry::Pattern;

/// A block for each 128 channels of `rows` rows.
pub(super) fn launch(step: &mut Step<'_>, rows: usize) -> Result<()> {
    let Op::CausalConv(spec) = step.problem.ops[0].op else {
        return Err(step.refuse("not a causal_conv"));
    };
    let view = state::view(step, 2)?;
    let (x, w, y) = (step.input(0)?, step.input(1)?, step.output());
    let channels = step.row_len();
    let mut args = Args::default();
    args.tensor(step, x)?;
    args.tensor(step, w)?;
    args.optional(step, step.optional(0, 3))?;
    args.tensor(step, y)?;
    state::pointers(&mut args, step, 2, &view)?;
    args.count(step, step.rows_from())?;
    args.u32s(step, &[channels, spec.kernel, usize::from(spec.silu)])?;
    args.u32s(step, &[view.slots, view.slot_stride])?;
    args.u32s(step, &[x.row_stride(), y.row_stride()])?;
    let rows = blocks(step.max_rows() as usize, rows);
    let grid = [blocks(channels, 128), rows, 1];
    step.launch("causal_conv", &args, grid, 128)
}

static F32: Plain = Plain::new(
    &Pattern::CAUSAL_CONV,
    &["f32"],
    "plain",
    ptx!("causal_conv.plain"),
    |step| launch(step, 1),
);
registry::register!(F32);
