//! add+rms_norm / f32 / simd (cpu_simd)
//! op:        h = a + b;  y = h · 1/√(mean(h²) + eps) · (w + weight_offset)
//! shapes:    a, b, h, y [R, D]; w [D]; h and y are outputs
//! dtypes:    f32
//! partition: threads share the rows
//! source:    arXiv:1910.07467; written here
//! parity:    1e-5

use crate::common::math::{Norm, inverse_rms};
use crate::common::plumbing::{Fits, Meta, Result, Rows, SimdKernel, Step, real_rows};
use crate::common::simd::{Body, LANES, Simd};
use graph::Op;
use hal::cpu::TaskCtx;
use registry::patterns::ADD_NORM;
use registry::{Problem, RowsFrom};

struct AddNorm {
    a: Rows<f32>,
    b: Rows<f32>,
    h: Rows<f32>,
    y: Rows<f32>,
    norm: Norm,
    from: RowsFrom,
    meta: Meta,
}

impl Body for AddNorm {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, ctx: &TaskCtx) {
        let rows = real_rows(&self.meta.view(), self.from, self.y.count);
        let dim = self.norm.weight.len();
        for row in ctx.share(rows) {
            // SAFETY: rows of `dim` elements; this thread's own outputs.
            unsafe {
                let (a, b) = (self.a.at(row), self.b.at(row));
                let (h, y) = (self.h.at(row), self.y.at(row));
                let mut i = 0;
                while i < dim {
                    let n = dim - i;
                    let sum = s.add(s.load_n(a.add(i), n), s.load_n(b.add(i), n));
                    s.store_n(h.add(i), sum, n);
                    i += LANES;
                }
                let inverse = inverse_rms(s, h, dim, self.norm.eps);
                i = 0;
                while i < dim {
                    let v = self.norm.apply(s, h, i, dim - i, inverse);
                    s.store_n(y.add(i), v, dim - i);
                    i += LANES;
                }
            }
        }
    }
}

fn fits(p: &Problem) -> Fits {
    let width = p.outputs[0].row_len();
    match p.input(1, 1) {
        Some((_, w)) if w.shape == [width] && width > 0 => Ok(()),
        _ => Err("the norm must span whole rows".into()),
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::RmsNorm { eps, weight_offset } = step.problem.ops[1].op else {
        return Err(step.refuse("not an rms_norm"));
    };
    let norm = Norm {
        weight: step.vector(1, 1)?,
        eps,
        offset: weight_offset,
    };
    let body = AddNorm {
        a: step.activation(0, 0)?,
        b: step.activation(0, 1)?,
        h: step.output(0)?,
        y: step.output(1)?,
        norm,
        from: step.rows_of(0),
        meta: step.meta()?,
    };
    step.body(body)
}

static F32: SimdKernel = SimdKernel::new(&ADD_NORM, &["f32"], "simd", 1e-5, record).with_fits(fits);
registry::register!(F32);
