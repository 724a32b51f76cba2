//! op: gated_mul. y = act(gate)·up.
//!
//! up, y f32 [R, …], gate as up or [R, 1]; transcendental functions in f32.
//! Threads share the rows.

use crate::common::plumbing::{Plain, Result, Step};
use graph::{Activation, Op};
use registry::Pattern;

/// Where GPT-OSS clips both factors, and the slope of its σ.
const LIMIT: f32 = 7.0;
const SLOPE: f32 = 1.702;

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn apply(act: Activation, gate: f32, up: f32) -> f32 {
    match act {
        Activation::Silu => gate / (1.0 + (-gate).exp()) * up,
        Activation::GeluTanh => {
            let inner = 0.797_884_6 * (gate + 0.044_715 * gate * gate * gate);
            0.5 * gate * (1.0 + inner.tanh()) * up
        }
        Activation::Gelu => 0.5 * gate * (1.0 + libm::erff(gate / std::f32::consts::SQRT_2)) * up,
        Activation::Sigmoid => sigmoid(gate) * up,
        Activation::Identity => gate * up,
        Activation::SwigluOai => {
            let gate = gate.min(LIMIT);
            gate * sigmoid(SLOPE * gate) * (up.clamp(-LIMIT, LIMIT) + 1.0)
        }
    }
}

fn record(mut step: Step<'_>) -> Result<()> {
    let Op::GatedMul(act) = step.problem.ops[0].op else {
        return Err(step.refuse("not a gated product"));
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
            for (i, (y, u)) in y.iter_mut().zip(up).enumerate() {
                let one = if gate.len() == 1 { 0 } else { i };
                *y = apply(act, gate[one], *u);
            }
        }
    })
}

/// The kernel of one activation.
pub const fn kernel(pattern: &'static Pattern) -> Plain {
    Plain::new(pattern, &["f32"], "plain", record)
}
