//! op: silu_mul. y = gate·σ(gate)·up.
//!
//! gate, up, y f32 [R, F]; exp in f32. Threads share the rows.

use crate::common::plumbing::{Plain, Result, Step};
use graph::{Activation, Op};
use registry::Pattern;

fn record(mut step: Step<'_>) -> Result<()> {
    let Op::GatedMul(Activation::Silu) = step.problem.ops[0].op else {
        return Err(step.refuse("not a gated product with SiLU"));
    };
    let from = step.output_rows();
    let gate = step.activation(0)?;
    let up = step.activation(1)?;
    let y = step.output()?;
    let meta = step.meta()?;
    step.task(move |ctx| {
        // SAFETY: a declared read.
        let rows = unsafe { meta.view() }.count(from);
        for r in ctx.share(rows) {
            // SAFETY: declared reads, and this thread's own row of the output.
            let (gate, up, y) = unsafe { (gate.row(r), up.row(r), y.row_mut(r)) };
            for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
                *y = g / (1.0 + (-g).exp()) * u;
            }
        }
    })
}

static F32: Plain = Plain::new(&Pattern::SILU_MUL, &["f32"], "plain", record);
registry::register!(F32);
