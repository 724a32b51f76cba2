//! latent_append / f32, f16, bf16 / simd (cpu_simd)
//! op:        cache[page(t), token(t)] = c[t], k[t]
//! shapes:    c [T, L]; k [T, 1, R]; cache in pages of vectors, see `CacheView`
//! dtypes:    f32 in; the cache's scheme, rounded to nearest even
//! partition: threads share the rows
//! source:    arXiv:2405.04434 (multi-head latent attention); written here
//! parity:    exact

use crate::common::append::Appender;
use crate::common::plumbing::{Meta, Result, Rows, SimdKernel, Step, real_rows};
use crate::common::simd::{Body, Simd};
use hal::cpu::TaskCtx;
use registry::{Pattern, RowsFrom};

struct LatentAppend {
    c: Rows<f32>,
    k: Rows<f32>,
    to: Appender,
    meta: Meta,
}

impl Body for LatentAppend {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, ctx: &TaskCtx) {
        let view = self.meta.view();
        let elem = self.to.elem;
        let rows = real_rows(&view, RowsFrom::Batch, self.c.count);
        for row in ctx.share(rows) {
            let place = self.to.place(&view, row);
            let (page, token) = place.expect("the step buffer gives every row a page");
            let to = self.to.cache.at(page, 0, 0, token, elem.bytes());
            // SAFETY: `at` checked the vector, which both parts fill; rows have
            // distinct places.
            unsafe {
                elem.encode_row(s, self.c.at(row), to, self.c.len);
                let to = to.add(self.c.len * elem.bytes());
                elem.encode_row(s, self.k.at(row), to, self.k.len);
            }
        }
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let body = LatentAppend {
        c: step.activation(0, 0)?,
        k: step.activation(0, 1)?,
        to: Appender::of(step, 0)?,
        meta: step.meta()?,
    };
    if body.c.len + body.k.len != body.to.cache.view.head_dim {
        return Err(step.refuse("c and k do not fill the cache's vectors"));
    }
    step.body(body)
}

const fn kernel(quant: &'static [&'static str]) -> SimdKernel {
    SimdKernel::new(&Pattern::LATENT_APPEND, quant, "simd", 1e-7, record)
}

static F32: SimdKernel = kernel(&["f32"]);
static F16: SimdKernel = kernel(&["f16"]);
static BF16: SimdKernel = kernel(&["bf16"]);
registry::register!(F32, F16, BF16);
