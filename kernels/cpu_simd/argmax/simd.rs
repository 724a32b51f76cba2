//! argmax / f32 / simd (cpu_simd)
//! op:        ids[l] = argmax_v logits[l, v], the lowest index of equals
//! shapes:    logits [L, V]; ids [L] u32
//! dtypes:    f32 in, u32 out
//! partition: threads share the rows; a row's maximum is found in 16 lanes, then
//!            its first index
//! source:    written here
//! parity:    exact. A row without a number above −∞ yields u32::MAX.

use crate::common::plumbing::{Meta, Result, Rows, SimdKernel, Step, real_rows};
use crate::common::simd::{Body, LANES, Simd};
use hal::cpu::TaskCtx;
use registry::{Pattern, RowsFrom};

struct ArgMax {
    x: Rows<f32>,
    ids: Rows<u32>,
    from: RowsFrom,
    meta: Meta,
}

impl Body for ArgMax {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, ctx: &TaskCtx) {
        let rows = real_rows(&self.meta.view(), self.from, self.ids.count);
        for row in ctx.share(rows) {
            // SAFETY: the row's `len` elements, read only by this step.
            let x = unsafe { std::slice::from_raw_parts(self.x.at(row).cast_const(), self.x.len) };
            let (body, tail) = x.as_chunks::<LANES>();
            let mut best = [s.splat(f32::NEG_INFINITY); 4];
            for (i, chunk) in body.iter().enumerate() {
                // SAFETY: a chunk has sixteen elements.
                let v = unsafe { s.load(chunk.as_ptr()) };
                // The second operand wins against NaN.
                best[i % 4] = s.max(v, best[i % 4]);
            }
            let lanes = s.max(s.max(best[0], best[1]), s.max(best[2], best[3]));
            let top = tail.iter().fold(s.max_lane(lanes), |m, v| m.max(*v));
            let found = x.iter().position(|v| *v == top);
            let id = match found {
                Some(i) if top > f32::NEG_INFINITY => i as u32,
                _ => u32::MAX,
            };
            // SAFETY: this thread's own output.
            unsafe { *self.ids.at(row) = id };
        }
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let body = ArgMax {
        x: step.activation(0, 0)?,
        ids: step.output(0)?,
        from: step.rows_of(0),
        meta: step.meta()?,
    };
    step.body(body)
}

static F32: SimdKernel = SimdKernel::new(&Pattern::ARGMAX, &["f32"], "simd", 1e-7, record);
registry::register!(F32);
