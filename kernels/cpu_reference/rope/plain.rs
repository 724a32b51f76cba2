//! op: rope. For the pairs (a, b) of elements of each head, i < rotary_dim/2:
//! y[a] = x[a]·cos[i] − x[b]·sin[i], y[b] = x[b]·cos[i] + x[a]·sin[i]. Pair i is
//! (first + i, first + i + rotary_dim/2), or, interleaved, (first + 2i, first + 2i +
//! 1). Other elements are copied.
//!
//! x f32 [T, heads, head_dim], table f32 [T, rotary_dim] (cos then sin), y as x.
//! Threads share the rows.

use crate::common::plumbing::{Plain, Result, Step};
use graph::Op;
use registry::Pattern;

fn record(mut step: Step<'_>) -> Result<()> {
    let Op::Rope(spec) = step.problem.ops[0].op else {
        return Err(step.refuse("not a rope"));
    };
    let Some(&head_dim) = step.problem.ops[0].shape.last() else {
        return Err(step.refuse("x has no dimensions"));
    };
    let half = spec.rotary_dim / 2;
    let x = step.activation(0)?;
    let table = step.activation(1)?;
    let y = step.output()?;
    let meta = step.meta()?;
    step.task(move |ctx| {
        // SAFETY: a declared read.
        let rows = unsafe { meta.view() }.rows();
        for t in ctx.share(rows) {
            // SAFETY: declared reads, and this thread's own row of the output.
            let (x, table, y) = unsafe { (x.row(t), table.row(t), y.row_mut(t)) };
            let (cos, sin) = table.split_at(half);
            for (x, y) in x.chunks_exact(head_dim).zip(y.chunks_exact_mut(head_dim)) {
                y.copy_from_slice(x);
                for i in 0..half {
                    let (a, b) = match spec.interleaved {
                        true => (spec.first + 2 * i, spec.first + 2 * i + 1),
                        false => (spec.first + i, spec.first + i + half),
                    };
                    y[a] = x[a] * cos[i] - x[b] * sin[i];
                    y[b] = x[b] * cos[i] + x[a] * sin[i];
                }
            }
        }
    })
}

static F32: Plain = Plain::new(&Pattern::ROPE, &["f32"], "plain", record);
registry::register!(F32);
