//! add / f32 / simd (cpu_simd)
//! op:        y = a + b
//! shapes:    a, b, y [R, …]
//! dtypes:    f32
//! partition: threads share runs of 256 elements
//! source:    written here
//! parity:    exact

use crate::common::parts::parts;
use crate::common::plumbing::{Meta, Result, Rows, SimdKernel, Step, real_rows};
use crate::common::simd::{Body, LANES, Simd};
use hal::cpu::TaskCtx;
use registry::{Pattern, RowsFrom};

struct Add {
    a: Rows<f32>,
    b: Rows<f32>,
    y: Rows<f32>,
    from: RowsFrom,
    meta: Meta,
}

impl Body for Add {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, ctx: &TaskCtx) {
        let rows = real_rows(&self.meta.view(), self.from, self.y.count);
        for part in parts(ctx, rows, self.y.len, 256) {
            let mut i = part.first;
            let end = part.first + part.len;
            while i < end {
                // SAFETY: elements of the row; this thread's own output.
                unsafe {
                    let a = s.load_n(self.a.at(part.row).add(i), end - i);
                    let b = s.load_n(self.b.at(part.row).add(i), end - i);
                    s.store_n(self.y.at(part.row).add(i), s.add(a, b), end - i);
                }
                i += LANES;
            }
        }
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let body = Add {
        a: step.activation(0, 0)?,
        b: step.activation(0, 1)?,
        y: step.output(0)?,
        from: step.rows_of(0),
        meta: step.meta()?,
    };
    step.body(body)
}

static F32: SimdKernel = SimdKernel::new(&Pattern::ADD, &["f32"], "simd", 1e-7, record);
registry::register!(F32);
