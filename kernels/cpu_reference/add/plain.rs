//! op: add. y = a + b.
//!
//! a, b, y f32 [R, …]. Threads share the rows.

use crate::common::plumbing::{Plain, Result, Step};
use registry::Pattern;

fn record(mut step: Step<'_>) -> Result<()> {
    let from = step.output_rows();
    let a = step.activation(0)?;
    let b = step.activation(1)?;
    let y = step.output()?;
    let meta = step.meta()?;
    step.task(move |ctx| {
        // SAFETY: a declared read.
        let rows = unsafe { meta.view() }.count(from);
        for r in ctx.share(rows) {
            // SAFETY: declared reads, and this thread's own row of the output.
            let (a, b, y) = unsafe { (a.row(r), b.row(r), y.row_mut(r)) };
            for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
                *y = a + b;
            }
        }
    })
}

static F32: Plain = Plain::new(&Pattern::ADD, &["f32"], "plain", record);
registry::register!(F32);
