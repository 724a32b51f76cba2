//! op: causal_conv. y[t, c] = act(Σᵢ w[c, i]·x[t − kernel + 1 + i, c] + bias[c])
//! over the rows of a sequence; what lies before a span's first row comes from its
//! state.
//!
//! x, y f32 [T, C], w f32 [C·kernel], bias f32 [C]?, state f32 [kernel − 1, C] per
//! slot. Taps are summed in f32, the oldest first. Threads share the (span,
//! channel) pairs.

use crate::common::plumbing::{Plain, Result, Step};
use graph::Op;
use registry::Pattern;

fn record(mut step: Step<'_>) -> Result<()> {
    let Op::CausalConv(spec) = step.problem.ops[0].op else {
        return Err(step.refuse("not a causal_conv"));
    };
    let x = step.activation(0)?;
    let w = step.vector(1)?;
    let state = step.state(2)?;
    let bias = match step.has_input(3) {
        true => Some(step.vector(3)?),
        false => None,
    };
    let y = step.output()?;
    let meta = step.meta()?;
    let (channels, past) = (x.len, spec.kernel - 1);
    step.task(move |ctx| {
        // SAFETY: declared reads.
        let (meta, w) = unsafe { (meta.view(), w.get()) };
        // SAFETY: as above.
        let bias = bias.map(|b| unsafe { b.get() });
        let mut taps = vec![0f32; spec.kernel];
        for item in ctx.share(meta.spans() * channels) {
            let (span, c) = (item / channels, item % channels);
            for (i, tap) in taps[1..].iter_mut().enumerate() {
                let at = i * channels + c;
                // SAFETY: a declared read; the pair's state is this thread's own.
                unsafe { state.load(meta.state_in(span), at, std::slice::from_mut(tap)) };
            }
            for t in meta.span_rows(span) {
                taps.rotate_left(1);
                // SAFETY: a declared read, and this thread's own column of the
                // output.
                let y = unsafe {
                    taps[past] = x.row(t)[c];
                    y.part_mut(t, c, 1)
                };
                let products = taps.iter().zip(&w[c * spec.kernel..]);
                let sum = products.fold(0.0, |sum, (x, w)| sum + x * w);
                let sum = sum + bias.map_or(0.0, |b| b[c]);
                y[0] = if spec.silu {
                    sum / (1.0 + (-sum).exp())
                } else {
                    sum
                };
                if let Some(slot) = meta.state_out(t) {
                    for (i, tap) in taps[1..].iter().enumerate() {
                        // SAFETY: a declared write; slots of rows are distinct and
                        // the channel is this thread's own.
                        unsafe { state.store(slot, i * channels + c, &[*tap]) };
                    }
                }
            }
        }
    })
}

static F32: Plain = Plain::new(&Pattern::CAUSAL_CONV, &["f32"], "plain", record);
registry::register!(F32);
