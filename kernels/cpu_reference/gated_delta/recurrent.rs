//! op: gated_delta, row by row as the rule says.
//!
//! q, k f32 [T, key_heads, dk], v f32 [T, value_heads, dv], a, b f32 [T,
//! value_heads], decay, dt_bias f32 [value_heads], state f32 [value_heads, dk, dv]
//! per slot, o f32 [T, value_heads, dv]. Norms are summed in f64; decay and β are
//! computed in f64 and rounded; the state is updated in f32, d ascending. Threads
//! share the (span, value head) pairs. The rule: Yang et al. 2024, "Gated Delta
//! Networks".

use crate::common::lanes::sum_squares;
use crate::common::plumbing::{Plain, Result, Step};
use graph::Op;
use registry::Pattern;

/// Added to the sum of squares of a query or key.
const EPS: f64 = 1e-6;

fn softplus(x: f64) -> f64 {
    // Beyond this the exponential no longer changes an f32.
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

/// x over its length, times `scale`.
fn unit(x: &[f32], scale: f64, out: &mut [f32]) {
    let factor = (scale / (sum_squares(x) + EPS).sqrt()) as f32;
    out.iter_mut().zip(x).for_each(|(o, x)| *o = x * factor);
}

fn record(mut step: Step<'_>) -> Result<()> {
    let Op::GatedDelta(spec) = step.problem.ops[0].op else {
        return Err(step.refuse("not a gated_delta"));
    };
    let head_dims = |i: usize| match step.problem.input(0, i) {
        Some((_, o)) if o.shape.len() == 3 => Ok((o.shape[1], o.shape[2])),
        _ => Err(step.refuse(format!("input {i} must be [T, heads, head_dim]"))),
    };
    let ((key_heads, dk), (heads, dv)) = (head_dims(0)?, head_dims(2)?);
    let (q, k, v) = (
        step.activation(0)?,
        step.activation(1)?,
        step.activation(2)?,
    );
    let (a, b) = (step.activation(3)?, step.activation(4)?);
    let (decay, dt_bias) = (step.vector(5)?, step.vector(6)?);
    let state = step.state(7)?;
    let o = step.output()?;
    let meta = step.meta()?;
    step.task(move |ctx| {
        // SAFETY: declared reads.
        let (meta, decay, dt_bias) = unsafe { (meta.view(), decay.get(), dt_bias.get()) };
        let mut s = vec![0f32; dk * dv];
        let (mut query, mut key) = (vec![0f32; dk], vec![0f32; dk]);
        let mut delta = vec![0f32; dv];
        for item in ctx.share(meta.spans() * heads) {
            let (span, h) = (item / heads, item % heads);
            let from = match spec.tiled {
                true => h % key_heads,
                false => h / (heads / key_heads),
            } * dk;
            let rate = match spec.log_decay {
                true => -f64::from(decay[h]).exp(),
                false => f64::from(decay[h]),
            };
            // SAFETY: a declared read; the pair's state is this thread's own.
            unsafe { state.load(meta.state_in(span), h * dk * dv, &mut s) };
            for t in meta.span_rows(span) {
                // SAFETY: declared reads, and this thread's own head of the output.
                let (q, k, v, a, b, o) = unsafe {
                    (
                        &q.row(t)[from..][..dk],
                        &k.row(t)[from..][..dk],
                        &v.row(t)[h * dv..][..dv],
                        a.row(t)[h],
                        b.row(t)[h],
                        o.part_mut(t, h * dv, dv),
                    )
                };
                unit(q, 1.0 / (dk as f64).sqrt(), &mut query);
                unit(k, 1.0, &mut key);
                let keep = (rate * softplus(f64::from(a + dt_bias[h]))).exp() as f32;
                let beta = (1.0 / (1.0 + (-f64::from(b)).exp())) as f32;
                delta.fill(0.0);
                for (s, k) in s.chunks_exact_mut(dv).zip(&key) {
                    for (s, d) in s.iter_mut().zip(&mut delta) {
                        *s *= keep;
                        *d += k * *s;
                    }
                }
                delta
                    .iter_mut()
                    .zip(v)
                    .for_each(|(d, v)| *d = (v - *d) * beta);
                o.fill(0.0);
                for ((s, k), q) in s.chunks_exact_mut(dv).zip(&key).zip(&query) {
                    for ((s, d), o) in s.iter_mut().zip(&delta).zip(o.iter_mut()) {
                        *s += k * d;
                        *o += q * *s;
                    }
                }
                if let Some(slot) = meta.state_out(t) {
                    // SAFETY: a declared write; slots of rows are distinct and the
                    // head is this thread's own.
                    unsafe { state.store(slot, h * dk * dv, &s) };
                }
            }
        }
    })
}

static F32: Plain = Plain::new(&Pattern::GATED_DELTA, &["f32"], "recurrent", record);
registry::register!(F32);
