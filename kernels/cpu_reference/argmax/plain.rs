//! op: argmax. ids[l] = the lowest index of the largest logit; NaN is never the
//! largest, and a row with nothing above -inf gives u32::MAX.
//!
//! logits f32 [R, V], ids u32 [R]. Threads share the rows. Exact.

use crate::common::plumbing::{Plain, Result, Step};
use registry::Pattern;

fn record(mut step: Step<'_>) -> Result<()> {
    let from = step.output_rows();
    let logits = step.activation(0)?;
    let ids = step.output_ids(0)?;
    let meta = step.meta()?;
    step.task(move |ctx| {
        // SAFETY: a declared read.
        let rows = unsafe { meta.view() }.count(from);
        for r in ctx.share(rows) {
            let (mut best, mut max) = (u32::MAX, f32::NEG_INFINITY);
            // SAFETY: a declared read.
            for (i, &v) in unsafe { logits.row(r) }.iter().enumerate() {
                if v > max {
                    (best, max) = (i as u32, v);
                }
            }
            // SAFETY: this thread's own row of the output.
            let id = unsafe { ids.row_mut(r) };
            id[0] = best;
        }
    })
}

static F32: Plain = Plain::new(&Pattern::ARGMAX, &["f32"], "plain", record);
registry::register!(F32);
