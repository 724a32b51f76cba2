//! rope_table / f32 / simd (cpu_simd)
//! op:        table[t, i] = cos(a)·f, table[t, half + i] = sin(a)·f with
//!            a = position[t]·inv_freq[i], f = attention_factor
//! shapes:    inv_freq [half]; table [T, 2·half]
//! dtypes:    f32; the angle is an f32 product, its sine and cosine are taken in
//!            f64 and rounded once
//! partition: threads share (row, frequency) in runs of 16
//! source:    arXiv:2104.09864; written here
//! parity:    1e-6

use crate::common::parts::parts;
use crate::common::plumbing::{Result, SimdKernel, Step, real_rows};
use crate::common::simd::LANES;
use graph::Op;
use registry::Pattern;

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::RopeTable { attention_factor } = step.problem.ops[0].op else {
        return Err(step.refuse("not a rope_table"));
    };
    let freq = step.vector(0, 0)?;
    let table = step.output::<f32>(0)?;
    let from = step.rows_of(0);
    let meta = step.meta()?;
    step.task(move |ctx| {
        let view = meta.view();
        // SAFETY: a declared read of a constant.
        let freq = unsafe { freq.get() };
        let half = freq.len();
        for part in parts(ctx, real_rows(&view, from, table.count), half, LANES) {
            let position = view.position(part.row) as f32;
            let out = table.at(part.row);
            let mine = freq.iter().enumerate().skip(part.first).take(part.len);
            for (i, f) in mine {
                let (sin, cos) = f64::from(position * f).sin_cos();
                // SAFETY: i < half, and the row has 2·half elements; this
                // thread's own output.
                unsafe {
                    *out.add(i) = cos as f32 * attention_factor;
                    *out.add(half + i) = sin as f32 * attention_factor;
                }
            }
        }
    })
}

static F32: SimdKernel = SimdKernel::new(&Pattern::ROPE_TABLE, &["f32"], "simd", 1e-6, record);
registry::register!(F32);
