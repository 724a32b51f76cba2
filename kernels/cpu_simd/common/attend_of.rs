//! From a problem to an [`Attend`]: its sizes, its scratch, and the walk over a
//! thread's units of work.

use super::attend::{Attend, Unit, slot_len};
use super::decode::part_len;
use super::elem::Elem;
use super::plumbing::{Fits, Result, Step, real_rows};
use super::simd::Simd;
use graph::Op;
use hal::cpu::TaskCtx;
use registry::{Problem, StepView};

/// Batches up to this many rows are computed row by row, and long rows split.
pub const FEW_ROWS: usize = 16;
/// Parts of a split row, at most, and the fewest positions of one.
const PARTS: usize = 16;
const PART: usize = 256;

/// Sizes that depend on the problem alone.
pub struct Sizes {
    heads: usize,
    pub dim: usize,
    group: usize,
    window: Option<usize>,
    softcap: Option<f32>,
    scale: f32,
    chunk: usize,
    chunks: usize,
    slot: usize,
}

pub fn sizes(p: &Problem) -> std::result::Result<Sizes, String> {
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

fn scratch_len(p: &Problem, z: &Sizes, threads: usize, own: usize) -> usize {
    let parts = if z.chunks > 1 {
        p.rows.max * z.heads * z.chunks * part_len(z.dim)
    } else {
        0
    };
    threads * z.slot.max(own) + parts
}

pub fn fits(p: &Problem) -> Fits {
    let z = sizes(p)?;
    if z.dim > 4096 || z.group > 1024 {
        return Err(format!("heads of {} in groups of {}", z.dim, z.group));
    }
    Ok(())
}

/// Bytes of scratch, if each thread wants `own` f32 of it.
pub fn workspace(p: &Problem, own: usize) -> u64 {
    sizes(p).map_or(0, |z| scratch_len(p, &z, p.device.threads, own) as u64 * 4)
}

impl Attend {
    /// The attention of a step, with at least `own` f32 of scratch for each thread
    /// and so many queries to a tile.
    pub fn of(step: &mut Step<'_>, own: usize, queries: usize) -> Result<Attend> {
        let p = step.problem;
        let z = sizes(p).map_err(|reason| step.refuse(reason))?;
        let (cache, _) = step.operand(0, 1)?;
        let elem = Elem::of_cache(cache.scheme);
        let len = scratch_len(p, &z, step.threads(), own);
        let sinks = match step.has(0, 2) {
            true => Some(step.vector(0, 2)?),
            false => None,
        };
        Ok(Attend {
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
            slot: z.slot.max(own),
            chunk: z.chunk,
            chunks: z.chunks,
            row_by_row: p.rows.max <= FEW_ROWS,
            queries,
        })
    }

    /// Computes this thread's units: rows here, tiles by `tile` (span and kv head,
    /// first query and their number, scratch).
    #[inline(always)]
    pub fn work<S: Simd>(
        &self,
        s: S,
        ctx: &TaskCtx,
        tile: impl Fn(&StepView<'_>, (usize, usize), (usize, usize), *mut f32),
    ) {
        let view = self.meta.view();
        let rows = real_rows(&view, self.from, self.out.count);
        if rows == 0 {
            return;
        }
        let slot = self.scratch.as_ptr().wrapping_add(ctx.thread * self.slot);
        assert!((ctx.thread + 1) * self.slot <= self.scratch.len());
        for unit in self.mine(view, ctx) {
            match unit {
                Unit::Tile {
                    span,
                    head,
                    first,
                    count,
                } => tile(&view, (span, head), (first, count), slot),
                // SAFETY: the slot is this thread's; `mine` gives each unit to one
                // thread.
                Unit::Row { row, head, part } => unsafe {
                    self.row(s, &view, ctx, (row, head, part), slot);
                },
            }
        }
        if self.splits(view) {
            ctx.barrier.wait();
            // SAFETY: all parts are there.
            unsafe { self.join(s, &view, ctx, rows) };
        }
    }
}
