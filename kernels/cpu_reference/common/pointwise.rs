//! Ops that make each element of y of the same element of x.

use crate::common::plumbing::{Result, Step};

/// Records y = f(x) over f32 rows; threads share the rows.
pub fn record(mut step: Step<'_>, f: impl Fn(f32) -> f32 + Send + Sync + 'static) -> Result<()> {
    let from = step.output_rows();
    let x = step.activation(0)?;
    let y = step.output()?;
    let meta = step.meta()?;
    step.task(move |ctx| {
        // SAFETY: a declared read.
        let rows = unsafe { meta.view() }.count(from);
        for r in ctx.share(rows) {
            // SAFETY: a declared read, and this thread's own row of the output.
            let (x, y) = unsafe { (x.row(r), y.row_mut(r)) };
            for (y, x) in y.iter_mut().zip(x) {
                *y = f(*x);
            }
        }
    })
}
