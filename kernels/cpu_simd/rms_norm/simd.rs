//! rms_norm / f32 / simd (cpu_simd)
//! op:        y = x · 1/√(mean(x²) + eps) · (w + weight_offset), over the last dimension
//! shapes:    x, y [R, …, D]; w [D]
//! dtypes:    f32, sums in f32 in 64 lanes, then folded
//! partition: threads share the vectors of length D
//! source:    arXiv:1910.07467; written here
//! parity:    1e-5

use crate::common::math::{Norm, inverse_rms};
use crate::common::plumbing::{Meta, Result, Rows, SimdKernel, Step, real_rows};
use crate::common::simd::{Body, LANES, Simd};
use graph::Op;
use hal::cpu::TaskCtx;
use registry::{Pattern, RowsFrom};

struct RmsNorm {
    x: Rows<f32>,
    y: Rows<f32>,
    norm: Norm,
    from: RowsFrom,
    meta: Meta,
}

impl Body for RmsNorm {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, ctx: &TaskCtx) {
        let rows = real_rows(&self.meta.view(), self.from, self.y.count);
        let dim = self.norm.weight.len();
        let per_row = self.x.len / dim;
        for unit in ctx.share(rows * per_row) {
            let (row, at) = (unit / per_row, unit % per_row * dim);
            // SAFETY: vectors of `dim` inside the row; this thread's own output.
            unsafe {
                let (x, y) = (self.x.at(row).add(at), self.y.at(row).add(at));
                let inverse = inverse_rms(s, x, dim, self.norm.eps);
                let mut i = 0;
                while i < dim {
                    let v = self.norm.apply(s, x, i, dim - i, inverse);
                    s.store_n(y.add(i), v, dim - i);
                    i += LANES;
                }
            }
        }
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::RmsNorm { eps, weight_offset } = step.problem.ops[0].op else {
        return Err(step.refuse("not an rms_norm"));
    };
    let norm = Norm {
        weight: step.vector(0, 1)?,
        eps,
        offset: weight_offset,
    };
    if norm.weight.is_empty() {
        return Err(step.refuse("the norm has no elements"));
    }
    let body = RmsNorm {
        x: step.activation(0, 0)?,
        y: step.output(0)?,
        norm,
        from: step.rows_of(0),
        meta: step.meta()?,
    };
    step.body(body)
}

static F32: SimdKernel = SimdKernel::new(&Pattern::RMS_NORM, &["f32"], "simd", 1e-5, record);
registry::register!(F32);
