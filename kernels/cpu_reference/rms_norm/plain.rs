//! op: rms_norm. y = x·rsqrt(mean(x²) + eps)·(w + weight_offset), over D elements
//! at a time.
//!
//! x f32 [R, …], w f32 [D], D a product of x's trailing dimensions, y as x. The mean and the root are taken in f64,
//! the products in f32. Threads share the rows.

use crate::common::lanes::sum_squares;
use crate::common::plumbing::{Plain, Result, Step};
use graph::Op;
use registry::Pattern;

fn record(mut step: Step<'_>) -> Result<()> {
    let Op::RmsNorm { eps, weight_offset } = step.problem.ops[0].op else {
        return Err(step.refuse("not an rms_norm"));
    };
    let from = step.output_rows();
    let x = step.activation(0)?;
    let w = step.vector(1)?;
    let y = step.output()?;
    let meta = step.meta()?;
    step.task(move |ctx| {
        // SAFETY: declared reads.
        let (rows, w) = unsafe { (meta.view().count(from), w.get()) };
        for r in ctx.share(rows) {
            // SAFETY: a declared read, and this thread's own row of the output.
            let (x, y) = unsafe { (x.row(r), y.row_mut(r)) };
            for (x, y) in x.chunks_exact(w.len()).zip(y.chunks_exact_mut(w.len())) {
                let mean = sum_squares(x) / w.len() as f64;
                let scale = (1.0 / (mean + f64::from(eps)).sqrt()) as f32;
                for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                    *y = x * scale * (w + weight_offset);
                }
            }
        }
    })
}

static F32: Plain = Plain::new(&Pattern::RMS_NORM, &["f32"], "plain", record);
registry::register!(F32);
