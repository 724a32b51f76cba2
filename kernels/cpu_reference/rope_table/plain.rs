//! op: rope_table. table[t, i] = cos(a)·f, table[t, half + i] = sin(a)·f with
//! a = positions[t]·inv_freq[i] and f = attention_factor.
//!
//! inv_freq f32 [half], table f32 [T, 2·half]. The angle is a product in f32, as
//! in the reference implementations; its cosine and sine are taken in f64 and
//! rounded once. Threads share the rows.

use crate::common::plumbing::{Plain, Result, Step};
use graph::Op;
use registry::Pattern;

fn record(mut step: Step<'_>) -> Result<()> {
    let Op::RopeTable { attention_factor } = step.problem.ops[0].op else {
        return Err(step.refuse("not a rope_table"));
    };
    let inv_freq = step.vector(0)?;
    let table = step.output()?;
    let meta = step.meta()?;
    step.task(move |ctx| {
        // SAFETY: declared reads.
        let (meta, inv_freq) = unsafe { (meta.view(), inv_freq.get()) };
        for t in ctx.share(meta.rows()) {
            let position = meta.position(t) as f32;
            // SAFETY: this thread's own row of the output.
            let (cos, sin) = unsafe { table.row_mut(t) }.split_at_mut(inv_freq.len());
            for ((c, s), f) in cos.iter_mut().zip(sin).zip(inv_freq) {
                let (sine, cosine) = f64::from(position * f).sin_cos();
                *c = cosine as f32 * attention_factor;
                *s = sine as f32 * attention_factor;
            }
        }
    })
}

static F32: Plain = Plain::new(&Pattern::ROPE_TABLE, &["f32"], "plain", record);
registry::register!(F32);
