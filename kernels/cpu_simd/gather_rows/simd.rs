//! gather_rows / f32 / simd (cpu_simd)
//! op:        y[l] = x[logit_rows[l]]
//! shapes:    x [T, H]; y [L, H]
//! dtypes:    f32, copied
//! partition: threads share the rows of y
//! source:    written here
//! parity:    exact

use crate::common::plumbing::{Result, SimdKernel, Step, real_rows};
use registry::Pattern;

fn record(step: &mut Step<'_>) -> Result<()> {
    let x = step.activation(0, 0)?;
    let y = step.output::<f32>(0)?;
    let from = step.rows_of(0);
    let meta = step.meta()?;
    step.task(move |ctx| {
        let view = meta.view();
        for l in ctx.share(real_rows(&view, from, y.count)) {
            let row = view.logit_row(l);
            assert!(row < x.count, "logit row {row} of {}", x.count);
            // SAFETY: whole rows of equal length; this thread's own output.
            unsafe { std::ptr::copy_nonoverlapping(x.at(row), y.at(l), y.len) }
        }
    })
}

static F32: SimdKernel = SimdKernel::new(&Pattern::GATHER_ROWS, &["f32"], "simd", 1e-7, record);
registry::register!(F32);
