//! Gated products of every activation; the gate may be one number for a row.

use super::math::{sigmoid, silu, tanh};
use super::parts::parts;
use super::plumbing::{Meta, Result, Rows, SimdKernel, Step, real_rows};
use super::simd::{Body, LANES, Simd};
use graph::{Activation, Op};
use hal::cpu::TaskCtx;
use registry::{Pattern, RowsFrom};

/// Where GPT-OSS clips both factors, and the slope of its σ.
const LIMIT: f32 = 7.0;
const SLOPE: f32 = 1.702;

struct Gated {
    gate: Rows<f32>,
    up: Rows<f32>,
    y: Rows<f32>,
    act: Activation,
    from: RowsFrom,
    meta: Meta,
}

/// act(gate)·up.
#[inline(always)]
pub fn apply<S: Simd>(s: S, act: Activation, gate: S::V, up: S::V) -> S::V {
    match act {
        Activation::Silu => s.mul(silu(s, gate), up),
        Activation::Sigmoid => s.mul(sigmoid(s, gate), up),
        Activation::Identity => s.mul(gate, up),
        Activation::GeluTanh => {
            let square = s.mul(gate, gate);
            let inner = s.fma(square, s.splat(0.044_715), s.splat(1.0));
            let inner = s.mul(s.mul(gate, s.splat(0.797_884_6)), inner);
            let half = s.mul(gate, s.splat(0.5));
            s.mul(s.fma(half, tanh(s, inner), half), up)
        }
        Activation::Gelu => {
            let whole = s
                .to_array(gate)
                .map(|x| 0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2)));
            // SAFETY: sixteen elements of an array.
            s.mul(unsafe { s.load(whole.as_ptr()) }, up)
        }
        Activation::SwigluOai => {
            let gate = s.min(gate, s.splat(LIMIT));
            let up = s.max(s.min(up, s.splat(LIMIT)), s.splat(-LIMIT));
            let gate = s.mul(gate, sigmoid(s, s.mul(gate, s.splat(SLOPE))));
            s.fma(gate, up, gate)
        }
    }
}

impl Body for Gated {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, ctx: &TaskCtx) {
        let rows = real_rows(&self.meta.view(), self.from, self.y.count);
        let single = self.gate.len != self.y.len;
        for part in parts(ctx, rows, self.y.len, 256) {
            let mut i = part.first;
            let end = part.first + part.len;
            while i < end {
                // SAFETY: elements of the row; this thread's own output.
                unsafe {
                    let gate = self.gate.at(part.row);
                    let gate = match single {
                        true => s.splat(*gate),
                        false => s.load_n(gate.add(i), end - i),
                    };
                    let up = s.load_n(self.up.at(part.row).add(i), end - i);
                    let y = apply(s, self.act, gate, up);
                    s.store_n(self.y.at(part.row).add(i), y, end - i);
                }
                i += LANES;
            }
        }
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::GatedMul(act) = step.problem.ops[0].op else {
        return Err(step.refuse("not a gated product"));
    };
    let body = Gated {
        gate: step.activation(0, 0)?,
        up: step.activation(0, 1)?,
        y: step.output(0)?,
        act,
        from: step.rows_of(0),
        meta: step.meta()?,
    };
    step.body(body)
}

/// The kernel of one activation.
pub const fn kernel(pattern: &'static Pattern) -> SimdKernel {
    SimdKernel::new(pattern, &["f32"], "simd", 1e-5, record).with_every_attribute()
}
