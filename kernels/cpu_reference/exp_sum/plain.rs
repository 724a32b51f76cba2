//! op: exp_sum. Weights e^((logit − m) · t), at most 1, in units of 2⁻⁴⁰ rounded down,
//! summed as u64 over each of `parts` runs of ⌈V / parts⌉ logits, low word first; m is the
//! first logit of top, t the row's in the step buffer. A row whose m is not finite sums
//! to 0.
//!
//! logits f32 [R, V], top u32 [R, k, 2], sums u32 [R, parts, 2]. Threads share the rows.
//! `sampling::Weigh` is the definition, down to the bit.

use crate::common::plumbing::{Plain, Result, Step};
use registry::Pattern;
use sampling::Weigh;

fn record(mut step: Step<'_>) -> Result<()> {
    let logits = step.activation(0)?;
    let top = step.ids(1)?;
    let sums = step.output_ids(0)?;
    let from = step.output_rows();
    let meta = step.meta()?;
    step.task(move |ctx| {
        // SAFETY: a declared read.
        let step = unsafe { meta.view() };
        for r in ctx.share(step.count(from)) {
            // SAFETY: declared reads, and this thread's own row of the output.
            let (x, top, sum) = unsafe { (logits.row(r), top.row(r), sums.row_mut(r)) };
            let m = f32::from_bits(top[1]);
            let weigh = Weigh::with_inverse(m, step.inv_temp(r));
            let run = x.len().div_ceil(sum.len() / 2);
            for (i, sum) in sum.as_chunks_mut().0.iter_mut().enumerate() {
                let part = x.iter().skip(i * run).take(run);
                let total: u64 = match m.is_finite() {
                    true => part.map(|&v| weigh.fixed(v)).sum(),
                    false => 0,
                };
                *sum = [total as u32, (total >> 32) as u32];
            }
        }
    })
}

static F32: Plain = Plain::new(&Pattern::EXP_SUM, &["f32"], "plain", record);
registry::register!(F32);
