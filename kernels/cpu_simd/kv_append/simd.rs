//! kv_append / f32, f16, bf16, int8_kv / simd (cpu_simd)
//! op:        cache[page(t), kv, h, token(t)] = k[t, h], v[t, h]
//! shapes:    k, v [T, kv_heads, head_dim]; cache in pages, see `CacheView`
//! dtypes:    f32 in; the cache's scheme, rounded to nearest even
//! partition: threads share (row, head)
//! source:    arXiv:2309.06180 (paging); written here
//! parity:    exact

use crate::common::append::Appender;
use crate::common::plumbing::{Meta, Result, Rows, SimdKernel, Step, real_rows};
use crate::common::simd::{Body, Simd};
use hal::cpu::TaskCtx;
use registry::{Pattern, RowsFrom};

struct KvAppend {
    k: Rows<f32>,
    v: Rows<f32>,
    to: Appender,
    from: RowsFrom,
    meta: Meta,
}

impl Body for KvAppend {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, ctx: &TaskCtx) {
        let view = self.meta.view();
        let rows = real_rows(&view, self.from, self.k.count);
        let (heads, dim) = (self.to.cache.view.kv_heads, self.to.cache.view.head_dim);
        for unit in ctx.share(rows * heads) {
            let (row, head) = (unit / heads, unit % heads);
            let place = self.to.place(&view, row);
            let place = place.expect("the step buffer gives every row a page");
            // SAFETY: a head of each row; rows have distinct places.
            unsafe {
                let at = head * dim;
                self.to.store(s, place, 0, head, self.k.at(row).add(at));
                self.to.store(s, place, 1, head, self.v.at(row).add(at));
            }
        }
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let body = KvAppend {
        k: step.activation(0, 0)?,
        v: step.activation(0, 1)?,
        to: Appender::of(step, 0)?,
        from: step.operand(0, 0)?.0.rows,
        meta: step.meta()?,
    };
    step.body(body)
}

const fn kernel(quant: &'static [&'static str]) -> SimdKernel {
    SimdKernel::new(&Pattern::KV_APPEND, quant, "simd", 1e-7, record)
}

static F32: SimdKernel = kernel(&["f32"]);
static F16: SimdKernel = kernel(&["f16"]);
static BF16: SimdKernel = kernel(&["bf16"]);
static INT8: SimdKernel = kernel(&["int8_kv"]);
registry::register!(F32, F16, BF16, INT8);
