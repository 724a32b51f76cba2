//! attention / f32, f16, bf16, int8_kv caches / simd (cpu_simd)
//! op:        o[r, h] = Σ_p softmax_p(scale·q[r, h]·k[p, h/g]) · v[p, h/g] over the
//!            positions that row r sees: p ≤ its own and, with a window, p > its
//!            own − window; soft-capped scores and sinks where the spec has them
//! shapes:    q, o [T, heads, head_dim]; cache in pages, see `CacheView`; g = heads/kv_heads
//! dtypes:    f32; keys and values are decoded from the cache's scheme
//! partition: spans of many rows: tiles of 32 queries of one kv head. Others: (row,
//!            kv head), long rows in parts at fixed positions that are joined after
//!            a barrier. Threads take contiguous runs of equal cost.
//! source:    online softmax, arXiv:2205.14135; written here
//! parity:    2e-5

use crate::common::attend::{Attend, QUERIES};
use crate::common::attend_of::{fits, workspace};
use crate::common::plumbing::{Result, SimdKernel, Step};
use crate::common::simd::{Body, Simd};
use hal::cpu::TaskCtx;
use registry::Pattern;

impl Body for Attend {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, ctx: &TaskCtx) {
        self.work(s, ctx, |view, span, queries, slot| {
            // SAFETY: the slot is this thread's, and so are the queries.
            unsafe { self.tile(s, view, span, queries, slot) }
        });
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let body = Attend::of(step, 0, QUERIES)?;
    step.body(body)
}

const fn kernel(quant: &'static [&'static str]) -> SimdKernel {
    SimdKernel::new(&Pattern::ATTENTION, quant, "simd", 2e-5, record)
        .with_fits(fits)
        .with_every_attribute()
        .with_workspace(|p| workspace(p, 0))
}

static F32: SimdKernel = kernel(&["f32"]);
static F16: SimdKernel = kernel(&["f16"]);
static BF16: SimdKernel = kernel(&["bf16"]);
static INT8: SimdKernel = kernel(&["int8_kv"]);
registry::register!(F32, F16, BF16, INT8);
