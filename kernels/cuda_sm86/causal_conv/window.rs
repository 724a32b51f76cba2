//! op: causal_conv, many rows. See `window.cu`.

use super::plain;
use crate::common::launch::{Fits, Plain, ptx};
use graph::Op;
use registry::{Pattern, Problem};

/// Fewer rows have too little in common.
const LEAST_ROWS: usize = 65;

/// Taps, and rows of a block, as in the kernel.
const TAPS: usize = 4;
const ROWS: usize = 16;

fn fits(problem: &Problem) -> Fits {
    problem.common_attributes()?;
    match problem.ops[0].op {
        Op::CausalConv(spec) if spec.kernel > TAPS => {
            return Err(format!("for up to {TAPS} taps, not {}", spec.kernel));
        }
        _ => {}
    }
    match problem.outputs[0].shape[0] {
        rows if rows >= LEAST_ROWS => Ok(()),
        rows => Err(format!("for {LEAST_ROWS} rows and more, not {rows}")),
    }
}

static F32: Plain = Plain::new(
    &Pattern::CAUSAL_CONV,
    &["f32"],
    "window",
    ptx!("causal_conv.window"),
    |step| plain::launch(step, ROWS),
)
.with_fits(fits)
.with_rank(10);
registry::register!(F32);
