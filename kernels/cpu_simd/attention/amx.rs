//! attention / f32, f16, bf16, int8_kv caches / amx (cpu_simd)
//! op:        as `simd`
//! shapes:    as `simd`
//! dtypes:    f32; every factor in two bf16 halves, sums f32: see
//!            common/attend_amx.rs
//! partition: spans of many rows: tiles of 128 queries of one kv head; others as
//!            `simd`
//! source:    online softmax, arXiv:2205.14135; written here
//! parity:    2e-4, of which 0.9e-4 was seen where scores are large

use crate::common::attend::Attend;
use crate::common::attend_amx::{QUERIES, slot_len};
use crate::common::attend_of::{FEW_ROWS, fits, sizes, workspace};
use crate::common::plumbing::{Fits, Result, SimdKernel, Step, needs};
use crate::common::x86::Avx512Bf16;
use hal::cpu::TaskCtx;
use registry::{Pattern, Problem};

fn own(p: &Problem) -> usize {
    sizes(p).map_or(0, |z| slot_len(z.dim))
}

fn amx_fits(p: &Problem) -> Fits {
    needs(&p.device, "amx")?;
    fits(p)?;
    if p.rows.max <= FEW_ROWS {
        return Err("tiles do not pay for so few rows".into());
    }
    Ok(())
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
unsafe fn run(body: &Attend, ctx: &TaskCtx) {
    // SAFETY: `fits` asked for amx, which includes AVX-512 and its BF16; the slot
    // is this thread's, and so are the queries.
    unsafe {
        body.work(Avx512Bf16::new(), ctx, |view, span, queries, slot| {
            body.tiles(view, span, queries, slot);
        });
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let own = own(step.problem);
    let body = Attend::of(step, own, QUERIES)?;
    // SAFETY: as above.
    step.task(move |ctx| unsafe { run(&body, ctx) })
}

const fn kernel(quant: &'static [&'static str]) -> SimdKernel {
    SimdKernel::new(&Pattern::ATTENTION, quant, "amx", 2e-4, record)
        .with_fits(amx_fits)
        .with_every_attribute()
        .with_workspace(|p| workspace(p, own(p)))
        .with_rank(20)
}

static F32: SimdKernel = kernel(&["f32"]);
static F16: SimdKernel = kernel(&["f16"]);
static BF16: SimdKernel = kernel(&["bf16"]);
static INT8: SimdKernel = kernel(&["int8_kv"]);
registry::register!(F32, F16, BF16, INT8);
