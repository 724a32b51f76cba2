//! op: gather_rows. y[l, :] = x[logit_rows[l], :].
//!
//! x f32 [T, …], y f32 [L, …]. Threads share the rows of y. Exact.

use crate::common::plumbing::{Plain, Result, Step};
use registry::Pattern;

fn record(mut step: Step<'_>) -> Result<()> {
    let x = step.activation(0)?;
    let y = step.output()?;
    let meta = step.meta()?;
    step.task(move |ctx| {
        // SAFETY: a declared read.
        let meta = unsafe { meta.view() };
        for l in ctx.share(meta.logit_row_count()) {
            // SAFETY: a declared read, and this thread's own row of the output.
            unsafe { y.row_mut(l).copy_from_slice(x.row(meta.logit_row(l))) };
        }
    })
}

static F32: Plain = Plain::new(&Pattern::GATHER_ROWS, &["f32"], "plain", record);
registry::register!(F32);
