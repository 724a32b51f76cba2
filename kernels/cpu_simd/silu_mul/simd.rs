//! silu_mul / f32 / simd (cpu_simd)
//! op:        y = gate·σ(gate)·up
//! shapes:    gate, up, y [R, F]
//! dtypes:    f32; σ by an exp within 2 ulp
//! partition: threads share runs of 256 elements
//! source:    arXiv:2002.05202; written here
//! parity:    1e-5

use crate::common::math::silu;
use crate::common::parts::parts;
use crate::common::plumbing::{Meta, Result, Rows, SimdKernel, Step, real_rows};
use crate::common::simd::{Body, LANES, Simd};
use graph::{Activation, Op};
use hal::cpu::TaskCtx;
use registry::{Pattern, RowsFrom};

struct SiluMul {
    gate: Rows<f32>,
    up: Rows<f32>,
    y: Rows<f32>,
    from: RowsFrom,
    meta: Meta,
}

impl Body for SiluMul {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, ctx: &TaskCtx) {
        let rows = real_rows(&self.meta.view(), self.from, self.y.count);
        for part in parts(ctx, rows, self.y.len, 256) {
            let mut i = part.first;
            let end = part.first + part.len;
            while i < end {
                // SAFETY: elements of the row; this thread's own output.
                unsafe {
                    let gate = s.load_n(self.gate.at(part.row).add(i), end - i);
                    let up = s.load_n(self.up.at(part.row).add(i), end - i);
                    let y = s.mul(silu(s, gate), up);
                    s.store_n(self.y.at(part.row).add(i), y, end - i);
                }
                i += LANES;
            }
        }
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::GatedMul(Activation::Silu) = step.problem.ops[0].op else {
        return Err(step.refuse("not a silu_mul"));
    };
    let body = SiluMul {
        gate: step.activation(0, 0)?,
        up: step.activation(0, 1)?,
        y: step.output(0)?,
        from: step.rows_of(0),
        meta: step.meta()?,
    };
    step.body(body)
}

static F32: SimdKernel = SimdKernel::new(&Pattern::SILU_MUL, &["f32"], "simd", 1e-5, record);
registry::register!(F32);
