//! exp_sum / f32 / simd (cpu_simd)
//! op:        sums of the weights e^((logit − m) · t) of logits[l, v], at most 1 each, in
//!            units of 2⁻⁴⁰, of each of `parts` runs of ⌈V / parts⌉ logits; m is the first
//!            logit of top, t the row's in the step buffer
//! shapes:    logits [L, V]; top [L, k, 2] u32; sums [L, parts, 2] u32, low word first
//! dtypes:    f32 in, u32 out
//! partition: threads share the parts of all rows
//! source:    `sampling::Weigh`, which sums in lanes
//! parity:    exact

use crate::common::plumbing::{Meta, Result, Rows, SimdKernel, Step, real_rows};
use crate::common::simd::{Body, Simd};
use hal::cpu::TaskCtx;
use registry::{Pattern, RowsFrom};
use sampling::Weigh;

struct ExpSum {
    x: Rows<f32>,
    top: Rows<u32>,
    sums: Rows<u32>,
    from: RowsFrom,
    meta: Meta,
}

impl Body for ExpSum {
    #[inline(always)]
    fn run<S: Simd>(&self, _: S, ctx: &TaskCtx) {
        let step = self.meta.view();
        let rows = real_rows(&step, self.from, self.sums.count);
        let parts = self.sums.len / 2;
        let run = self.x.len.div_ceil(parts);
        for i in ctx.share(rows * parts) {
            let (row, part) = (i / parts, i % parts);
            // SAFETY: the row's `len` elements, read only by this step.
            let x = unsafe { std::slice::from_raw_parts(self.x.at(row).cast_const(), self.x.len) };
            // SAFETY: as above; a row has a pair at least.
            let m = f32::from_bits(unsafe { *self.top.at(row).add(1) });
            let (from, to) = (part * run, (part + 1) * run);
            let x = &x[from.min(x.len())..to.min(x.len())];
            let total = match m.is_finite() {
                true => Weigh::with_inverse(m, step.inv_temp(row)).total(x),
                false => 0,
            };
            // SAFETY: this thread's own output, of `parts` pairs.
            let sum = unsafe { std::slice::from_raw_parts_mut(self.sums.at(row).add(2 * part), 2) };
            sum.copy_from_slice(&[total as u32, (total >> 32) as u32]);
        }
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let body = ExpSum {
        x: step.activation(0, 0)?,
        top: step.ids(0, 1)?,
        sums: step.output(0)?,
        from: step.rows_of(0),
        meta: step.meta()?,
    };
    step.body(body)
}

static F32: SimdKernel = SimdKernel::new(&Pattern::EXP_SUM, &["f32"], "simd", 1e-20, record);
registry::register!(F32);
