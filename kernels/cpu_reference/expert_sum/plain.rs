//! op: expert_sum. y[t] = Σⱼ weights[t, j]·x[t, j], j ascending, in f32.
//!
//! x f32 [T, k, H], weights f32 [T, k], y f32 [T, H]. Threads share the rows.

use crate::common::plumbing::{Plain, Result, Step};
use registry::Pattern;

fn record(mut step: Step<'_>) -> Result<()> {
    let x = step.activation(0)?;
    let weights = step.activation(1)?;
    let y = step.output()?;
    let meta = step.meta()?;
    step.task(move |ctx| {
        // SAFETY: a declared read.
        let rows = unsafe { meta.view() }.rows();
        for t in ctx.share(rows) {
            // SAFETY: declared reads, and this thread's own row of the output.
            let (x, weights, y) = unsafe { (x.row(t), weights.row(t), y.row_mut(t)) };
            y.fill(0.0);
            for (x, w) in x.chunks_exact(y.len()).zip(weights) {
                for (y, x) in y.iter_mut().zip(x) {
                    *y += w * x;
                }
            }
        }
    })
}

static F32: Plain = Plain::new(&Pattern::EXPERT_SUM, &["f32"], "plain", record);
registry::register!(F32);
