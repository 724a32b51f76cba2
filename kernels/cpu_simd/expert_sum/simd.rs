//! expert_sum / f32 / simd (cpu_simd)
//! op:        y[t] = Σⱼ weights[t, j]·x[t, j], j ascending
//! shapes:    x [T, k, H]; weights [T, k]; y [T, H]
//! dtypes:    f32
//! partition: threads share runs of 256 elements
//! source:    written here
//! parity:    1e-5

use crate::common::parts::parts;
use crate::common::plumbing::{Meta, Result, Rows, SimdKernel, Step, real_rows};
use crate::common::simd::{Body, LANES, Simd};
use hal::cpu::TaskCtx;
use registry::{Pattern, RowsFrom};

struct ExpertSum {
    x: Rows<f32>,
    weights: Rows<f32>,
    y: Rows<f32>,
    from: RowsFrom,
    meta: Meta,
}

impl Body for ExpertSum {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, ctx: &TaskCtx) {
        let rows = real_rows(&self.meta.view(), self.from, self.y.count);
        let width = self.y.len;
        for part in parts(ctx, rows, width, 256) {
            let mut i = part.first;
            let end = part.first + part.len;
            while i < end {
                // SAFETY: elements of the row; this thread's own output.
                unsafe {
                    let (x, weights) = (self.x.at(part.row).add(i), self.weights.at(part.row));
                    let mut sum = s.zero();
                    for j in 0..self.weights.len {
                        let x = s.load_n(x.add(j * width), end - i);
                        sum = s.fma(s.splat(*weights.add(j)), x, sum);
                    }
                    s.store_n(self.y.at(part.row).add(i), sum, end - i);
                }
                i += LANES;
            }
        }
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let body = ExpertSum {
        x: step.activation(0, 0)?,
        weights: step.activation(0, 1)?,
        y: step.output(0)?,
        from: step.rows_of(0),
        meta: step.meta()?,
    };
    step.body(body)
}

static F32: SimdKernel = SimdKernel::new(&Pattern::EXPERT_SUM, &["f32"], "simd", 1e-5, record);
registry::register!(F32);
