//! latent_attention / f32, f16, bf16 / simd (cpu_simd)
//! op:        o[r, h] = Σ_p softmax_p(scale·(q_latent[r, h]·c[p] + q_rope[r, h]·k[p]))·c[p]
//! shapes:    q_latent, o [T, heads, L]; q_rope [T, heads, R]; cache in pages of
//!            vectors c, k, see `CacheView`
//! dtypes:    f32; vectors are decoded from the cache's scheme
//! partition: threads share (row, group of 8 heads), dealt in turn because later
//!            rows see more; positions pass in blocks of 32 with an online softmax
//! source:    arXiv:2405.04434, absorbed form; arXiv:2205.14135; written here
//! parity:    2e-5

use crate::common::elem::Elem;
use crate::common::math::exp;
use crate::common::plumbing::{Cache, Meta, Result, Rows, SimdKernel, Step, real_rows};
use crate::common::simd::{Body, LANES, Simd};
use graph::Op;
use hal::cpu::{CpuSlice, TaskCtx};
use registry::{Pattern, Problem, RowsFrom, StepView};

/// Heads of a unit.
const HEADS: usize = 8;
/// Positions of a block.
const KEYS: usize = 32;

struct LatentAttention {
    q_latent: Rows<f32>,
    q_rope: Rows<f32>,
    cache: Cache,
    elem: Elem,
    o: Rows<f32>,
    scale: f32,
    heads: usize,
    latent: usize,
    scratch: CpuSlice<f32>,
    meta: Meta,
}

/// f32 of a thread's scratch: a block's vectors, of each head its query, and its
/// weighted sum.
fn slot_len(len: usize) -> usize {
    let pad = len.next_multiple_of(LANES);
    KEYS * pad + 2 * HEADS * pad
}

impl LatentAttention {
    /// # Safety
    /// `slot` is this thread's scratch; the heads of the row are its own.
    #[inline(always)]
    unsafe fn unit<S: Simd>(
        &self,
        s: S,
        view: &StepView<'_>,
        (row, first): (usize, usize),
        slot: *mut f32,
    ) {
        let (latent, len) = (self.latent, self.cache.view.head_dim);
        let (rope, pad) = (len - latent, len.next_multiple_of(LANES));
        let heads = HEADS.min(self.heads - first);
        let seen = view.position(row) + 1;
        let table = view.table(self.cache.view.group, view.row_span(row));
        let (block, bytes) = (self.cache.view.block, self.elem.bytes());
        let keys = slot;
        let queries = keys.wrapping_add(KEYS * pad);
        let sums = queries.wrapping_add(HEADS * pad);
        let mut max = [f32::NEG_INFINITY; HEADS];
        let mut total = [0f32; HEADS];
        // SAFETY: indices stay inside the scratch, whose length is `slot_len`, and
        // inside the heads of the row.
        unsafe {
            for h in 0..heads {
                let q = queries.add(h * pad);
                for d in (0..pad).step_by(LANES) {
                    s.store(q.add(d), s.zero());
                    s.store(sums.add(h * pad + d), s.zero());
                }
                let from = self.q_latent.at(row).add((first + h) * latent);
                std::ptr::copy_nonoverlapping(from.cast_const(), q, latent);
                let from = self.q_rope.at(row).add((first + h) * rope);
                std::ptr::copy_nonoverlapping(from.cast_const(), q.add(latent), rope);
                for d in (0..pad).step_by(LANES) {
                    s.store(q.add(d), s.mul(s.load(q.add(d)), s.splat(self.scale)));
                }
            }
            for low in (0..seen).step_by(KEYS) {
                let n = KEYS.min(seen - low);
                for j in 0..n {
                    let (page, token) = (table[(low + j) / block], (low + j) % block);
                    let from = self.cache.at(page, 0, 0, token, bytes);
                    self.elem.decode_row(s, from, keys.add(j * pad), len);
                }
                for h in 0..heads {
                    let q = queries.add(h * pad);
                    let mut scores = [f32::NEG_INFINITY; KEYS];
                    for (j, score) in scores[..n].iter_mut().enumerate() {
                        let mut acc = [s.zero(); 2];
                        for d in (0..pad).step_by(LANES) {
                            let k = s.load(keys.add(j * pad + d));
                            acc[d / LANES % 2] = s.fma(s.load(q.add(d)), k, acc[d / LANES % 2]);
                        }
                        *score = s.sum(s.add(acc[0], acc[1]));
                    }
                    let mut top = s.splat(max[h]);
                    let parts = [scores.as_ptr(), scores.as_ptr().add(LANES)];
                    for p in parts {
                        top = s.max(s.load(p), top);
                    }
                    let new = s.max_lane(top);
                    let shrink = s.to_array(exp(s, s.splat(max[h] - new)))[0];
                    let mut weights = [0f32; KEYS];
                    let mut sum = s.zero();
                    for (i, p) in parts.into_iter().enumerate() {
                        let e = exp(s, s.sub(s.load(p), s.splat(new)));
                        s.store(weights.as_mut_ptr().add(i * LANES), e);
                        sum = s.add(sum, e);
                    }
                    (max[h], total[h]) = (new, total[h] * shrink + s.sum(sum));
                    for d in (0..latent).step_by(LANES) {
                        let out = sums.add(h * pad + d);
                        let mut acc = s.mul(s.load(out), s.splat(shrink));
                        for (j, w) in weights[..n].iter().enumerate() {
                            acc = s.fma(s.splat(*w), s.load(keys.add(j * pad + d)), acc);
                        }
                        s.store(out, acc);
                    }
                }
            }
            for (h, total) in total[..heads].iter().enumerate() {
                let to = self.o.at(row).add((first + h) * latent);
                let scale = s.splat(1.0 / total);
                for d in (0..latent).step_by(LANES) {
                    let v = s.mul(s.load(sums.add(h * pad + d)), scale);
                    s.store_n(to.add(d), v, latent - d);
                }
            }
        }
    }
}

impl Body for LatentAttention {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, ctx: &TaskCtx) {
        let view = self.meta.view();
        let rows = real_rows(&view, RowsFrom::Batch, self.o.count);
        let groups = self.heads.div_ceil(HEADS);
        let len = slot_len(self.cache.view.head_dim);
        assert!((ctx.thread + 1) * len <= self.scratch.len());
        let slot = self.scratch.as_ptr().wrapping_add(ctx.thread * len);
        for unit in (ctx.thread..rows * groups).step_by(ctx.threads) {
            let (row, first) = (unit / groups, unit % groups * HEADS);
            // SAFETY: the scratch is this thread's, and each unit is one thread's.
            unsafe { self.unit(s, &view, (row, first), slot) };
        }
    }
}

fn workspace(p: &Problem) -> u64 {
    let view = p.input(0, 2).and_then(|(_, o)| o.cache);
    let len = view.map_or(0, |v| slot_len(v.head_dim));
    (len * p.device.threads * 4) as u64
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::LatentAttention { scale } = step.problem.ops[0].op else {
        return Err(step.refuse("not a latent_attention"));
    };
    let &[_, heads, latent] = step.problem.ops[0].shape.as_slice() else {
        return Err(step.refuse("o must be [T, heads, L]"));
    };
    let scheme = step.operand(0, 2)?.0.scheme;
    let cache = step.cache(0, 2)?;
    let len = slot_len(cache.view.head_dim) * step.threads();
    let body = LatentAttention {
        q_latent: step.activation(0, 0)?,
        q_rope: step.activation(0, 1)?,
        cache,
        elem: Elem::of(scheme).ok_or_else(|| step.refuse(format!("no codec for {scheme}")))?,
        o: step.output(0)?,
        scale,
        heads,
        latent,
        scratch: step.workspace(len)?,
        meta: step.meta()?,
    };
    step.body(body)
}

const fn kernel(quant: &'static [&'static str]) -> SimdKernel {
    SimdKernel::new(&Pattern::LATENT_ATTENTION, quant, "simd", 2e-5, record)
        .with_workspace(workspace)
}

static F32: SimdKernel = kernel(&["f32"]);
static F16: SimdKernel = kernel(&["f16"]);
static BF16: SimdKernel = kernel(&["bf16"]);
registry::register!(F32, F16, BF16);
