//! attention / f32, f16, bf16 caches / simd (cpu_simd)
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

use crate::common::attend::{Attend, Unit, slot_len};
use crate::common::decode::part_len;
use crate::common::elem::Elem;
use crate::common::plumbing::{Fits, Result, SimdKernel, Step, real_rows};
use crate::common::simd::{Body, Simd};
use graph::Op;
use hal::cpu::TaskCtx;
use registry::{Pattern, Problem};

/// Batches up to this many rows are computed row by row, and long rows split.
const FEW_ROWS: usize = 16;
/// Parts of a split row, at most, and the fewest positions of one.
const PARTS: usize = 16;
const PART: usize = 256;

impl Body for Attend {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, ctx: &TaskCtx) {
        let view = self.meta.view();
        let rows = real_rows(&view, self.from, self.out.count);
        if rows == 0 {
            return;
        }
        let slot = self.scratch.as_ptr().wrapping_add(ctx.thread * self.slot);
        assert!((ctx.thread + 1) * self.slot <= self.scratch.len());
        for unit in self.mine(view, ctx) {
            // SAFETY: the slot is this thread's; `mine` gives each unit to one
            // thread.
            unsafe {
                match unit {
                    Unit::Tile {
                        span,
                        head,
                        first,
                        count,
                    } => self.tile(s, &view, (span, head), (first, count), slot),
                    Unit::Row { row, head, part } => {
                        self.row(s, &view, ctx, (row, head, part), slot);
                    }
                }
            }
        }
        if self.splits(view) {
            ctx.barrier.wait();
            // SAFETY: all parts are there.
            unsafe { self.join(s, &view, ctx, rows) };
        }
    }
}

/// Sizes that depend on the problem alone.
struct Sizes {
    heads: usize,
    dim: usize,
    group: usize,
    window: Option<usize>,
    softcap: Option<f32>,
    scale: f32,
    chunk: usize,
    chunks: usize,
    slot: usize,
}

fn sizes(p: &Problem) -> std::result::Result<Sizes, String> {
    let Op::Attention(spec) = p.ops[0].op else {
        return Err("not an attention".into());
    };
    let (_, q) = p.input(0, 0).ok_or("q must come from outside")?;
    let (_, cache) = p.input(0, 1).ok_or("the cache must come from outside")?;
    let view = cache.cache.ok_or("the second input must be a cache")?;
    let &[_, heads, dim] = q.shape.as_slice() else {
        return Err(format!("q must be [T, heads, head_dim], got {:?}", q.shape));
    };
    if dim == 0 || view.head_dim != dim || view.kv_heads == 0 || heads % view.kv_heads != 0 {
        return Err(format!("q {:?} does not fit the cache", q.shape));
    }
    let group = p.step.groups.get(view.group);
    let context = group.ok_or("the step has no such cache group")?;
    let context = context.block * context.blocks;
    let reach = spec.window.map_or(context, |w| w.min(context));
    let chunk = reach.div_ceil(PARTS).next_multiple_of(64).max(PART);
    let chunks = if p.rows.max > FEW_ROWS || context <= chunk {
        1
    } else {
        reach.div_ceil(chunk) + 1
    };
    Ok(Sizes {
        heads,
        dim,
        group: heads / view.kv_heads,
        window: spec.window,
        softcap: spec.softcap,
        scale: spec.scale,
        chunk,
        chunks,
        slot: slot_len(dim, heads / view.kv_heads),
    })
}

fn scratch_len(p: &Problem, z: &Sizes, threads: usize) -> usize {
    let parts = if z.chunks > 1 {
        p.rows.max * z.heads * z.chunks * part_len(z.dim)
    } else {
        0
    };
    threads * z.slot + parts
}

fn fits(p: &Problem) -> Fits {
    let z = sizes(p)?;
    if z.dim > 4096 || z.group > 1024 {
        return Err(format!("heads of {} in groups of {}", z.dim, z.group));
    }
    Ok(())
}

fn workspace(p: &Problem) -> u64 {
    sizes(p).map_or(0, |z| scratch_len(p, &z, p.device.threads) as u64 * 4)
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let p = step.problem;
    let z = sizes(p).map_err(|reason| step.refuse(reason))?;
    let (cache, _) = step.operand(0, 1)?;
    let elem = Elem::of(cache.scheme);
    let len = scratch_len(p, &z, step.threads());
    let sinks = match step.has(0, 2) {
        true => Some(step.vector(0, 2)?),
        false => None,
    };
    let body = Attend {
        q: step.activation(0, 0)?,
        out: step.output(0)?,
        cache: step.cache(0, 1)?,
        elem: elem.ok_or_else(|| step.refuse(format!("no codec for {}", cache.scheme)))?,
        scale: z.scale,
        window: z.window,
        softcap: z.softcap,
        sinks,
        heads: z.heads,
        dim: z.dim,
        from: step.rows_of(0),
        meta: step.meta()?,
        scratch: step.workspace(len)?,
        slot: z.slot,
        chunk: z.chunk,
        chunks: z.chunks,
        row_by_row: p.rows.max <= FEW_ROWS,
    };
    step.body(body)
}

const fn kernel(quant: &'static [&'static str]) -> SimdKernel {
    SimdKernel::new(&Pattern::ATTENTION, quant, "simd", 2e-5, record)
        .with_fits(fits)
        .with_every_attribute()
        .with_workspace(workspace)
}

static F32: SimdKernel = kernel(&["f32"]);
static F16: SimdKernel = kernel(&["f16"]);
static BF16: SimdKernel = kernel(&["bf16"]);
registry::register!(F32, F16, BF16);
