//! Attention of single rows: the queries of one kv head, side by side, pass the
//! keys once, lanes along the head's elements. Long rows are split into parts at
//! fixed positions, whose results are joined after a barrier.

use super::attend::{Attend, NOTHING, pad_dim};
use super::math::exp;
use super::simd::{LANES, Simd};
use hal::cpu::TaskCtx;
use registry::StepView;

/// Keys of a block; blocks lie at multiples of it.
const KEYS: usize = 64;

/// f32 of a thread's scratch: keys and values of a block, and of each query its
/// elements, weighted sums and scores.
pub fn slot_len(dim: usize, group: usize) -> usize {
    2 * KEYS * dim + group * (2 * dim + KEYS + 2)
}

/// f32 of a part's result: maximum, sum, weighted values.
pub fn part_len(dim: usize) -> usize {
    pad_dim(dim) + LANES
}

impl Attend {
    /// Where part `part` of a row's query head leaves its result.
    #[inline(always)]
    fn part_at(&self, threads: usize, row: usize, head: usize, part: usize) -> *mut f32 {
        let index = (row * self.heads + head) * self.chunks + part;
        let len = part_len(self.dim);
        let at = threads * self.slot + index * len;
        assert!(at + (self.chunks - part) * len <= self.scratch.len());
        self.scratch.as_ptr().wrapping_add(at)
    }

    /// A row's queries of one kv head over one part of its positions.
    ///
    /// # Safety
    /// `slot` is this thread's scratch; the unit is this thread's own.
    #[inline(always)]
    pub unsafe fn row<S: Simd>(
        &self,
        s: S,
        view: &StepView<'_>,
        ctx: &TaskCtx,
        (row, head, part): (usize, usize, usize),
        slot: *mut f32,
    ) {
        let (dim, pad, group) = (self.dim, pad_dim(self.dim), self.group());
        let position = view.position(row);
        let (first, parts) = self.parts(position);
        let (low, high) = self.part_range(position, first + part);
        let table = view.table(self.cache.view.group, view.row_span(row));
        let keys = slot;
        let values = keys.wrapping_add(KEYS * pad);
        let queries = values.wrapping_add(KEYS * pad);
        let outputs = queries.wrapping_add(group * pad);
        let scores = outputs.wrapping_add(group * pad);
        let stats = scores.wrapping_add(group * KEYS);
        // SAFETY: indices stay inside the slot, whose length is `slot_len`, and
        // inside the heads of the row.
        unsafe {
            for h in 0..group {
                let q = self.q.at(row).add((head * group + h) * dim);
                for d in (0..pad).step_by(LANES) {
                    let v = s.load_n(q.add(d), dim - d);
                    s.store(queries.add(h * pad + d), s.mul(v, s.splat(self.scale)));
                    s.store(outputs.add(h * pad + d), s.zero());
                }
                *stats.add(2 * h) = NOTHING;
                *stats.add(2 * h + 1) = 0.0;
            }
            let mut block = low / KEYS * KEYS;
            while block < high {
                let (start, end) = (block.max(low), high.min(block + KEYS));
                let n = end - start;
                self.fetch(s, table, (0, head), (start, end), keys);
                self.fetch(s, table, (1, head), (start, end), values);
                for h in 0..group {
                    let (q, to) = (queries.add(h * pad), scores.add(h * KEYS));
                    score(s, q, keys, pad, n, to);
                    let shrink = soften(s, to, n, stats.add(2 * h));
                    let shrink = s.splat(shrink);
                    for d in (0..pad).step_by(LANES) {
                        let out = outputs.add(h * pad + d);
                        s.store(out, s.mul(s.load(out), shrink));
                    }
                }
                let mut h = 0;
                while S::WIDE && h + 4 <= group {
                    weigh::<S, 4>(
                        s,
                        scores.add(h * KEYS),
                        values,
                        pad,
                        n,
                        outputs.add(h * pad),
                    );
                    h += 4;
                }
                while h < group {
                    weigh::<S, 1>(
                        s,
                        scores.add(h * KEYS),
                        values,
                        pad,
                        n,
                        outputs.add(h * pad),
                    );
                    h += 1;
                }
                block += KEYS;
            }
            for h in 0..group {
                let (out, max, sum) = (
                    outputs.add(h * pad),
                    *stats.add(2 * h),
                    *stats.add(2 * h + 1),
                );
                let query = head * group + h;
                if parts == 1 {
                    let y = self.out.at(row).add(query * dim);
                    let scale = s.splat(1.0 / sum);
                    for d in (0..dim).step_by(LANES) {
                        s.store_n(y.add(d), s.mul(s.load(out.add(d)), scale), dim - d);
                    }
                } else {
                    let to = self.part_at(ctx.threads, row, query, part);
                    *to = max;
                    *to.add(1) = sum;
                    for d in (0..pad).step_by(LANES) {
                        s.store(to.add(LANES + d), s.load(out.add(d)));
                    }
                }
            }
        }
    }

    /// Joins the parts of this thread's share of (row, head).
    ///
    /// # Safety
    /// After the barrier that follows the parts.
    #[inline(always)]
    pub unsafe fn join<S: Simd>(&self, s: S, view: &StepView<'_>, ctx: &TaskCtx, rows: usize) {
        let dim = self.dim;
        for unit in ctx.share(rows * self.heads) {
            let (row, head) = (unit / self.heads, unit % self.heads);
            let (_, parts) = self.parts(view.position(row));
            if parts == 1 {
                continue;
            }
            // SAFETY: `part_at` checked where parts lie; the output is this
            // thread's own.
            unsafe {
                let stride = part_len(dim);
                let first = self.part_at(ctx.threads, row, head, 0).cast_const();
                let mut max = NOTHING;
                for i in 0..parts {
                    max = max.max(*first.add(i * stride));
                }
                let mut sum = 0.0;
                for i in 0..parts {
                    let part = first.add(i * stride);
                    sum += exp_scalar(s, *part - max) * *part.add(1);
                }
                let y = self.out.at(row).add(head * dim);
                for d in (0..dim).step_by(LANES) {
                    let mut acc = s.zero();
                    for i in 0..parts {
                        let part = first.add(i * stride);
                        let w = s.splat(exp_scalar(s, *part - max) / sum);
                        acc = s.fma(w, s.load(part.add(LANES + d)), acc);
                    }
                    s.store_n(y.add(d), acc, dim - d);
                }
            }
        }
    }
}

#[inline(always)]
fn exp_scalar<S: Simd>(s: S, x: f32) -> f32 {
    s.to_array(exp(s, s.splat(x)))[0]
}

/// Scores of `n` ≤ KEYS keys against one query.
///
/// # Safety
/// `keys` holds KEYS rows of `pad` and `scores` KEYS elements.
#[inline(always)]
unsafe fn score<S: Simd>(
    s: S,
    q: *const f32,
    keys: *const f32,
    pad: usize,
    n: usize,
    scores: *mut f32,
) {
    // Keys beyond n are in the scratch; `soften` never uses their scores.
    // SAFETY: as the caller promises.
    unsafe {
        if S::WIDE {
            for first in (0..n).step_by(LANES) {
                let keys = keys.add(first * pad);
                let mut acc = [s.zero(); LANES];
                for d in (0..pad).step_by(LANES) {
                    let q = s.load(q.add(d));
                    for (j, acc) in acc.iter_mut().enumerate() {
                        *acc = s.fma(q, s.load(keys.add(j * pad + d)), *acc);
                    }
                }
                s.store(scores.add(first), s.sums(acc));
            }
        } else {
            for first in (0..n).step_by(4) {
                let keys = keys.add(first * pad);
                let mut acc = [s.zero(); 4];
                for d in (0..pad).step_by(LANES) {
                    let q = s.load(q.add(d));
                    for (j, acc) in acc.iter_mut().enumerate() {
                        *acc = s.fma(q, s.load(keys.add(j * pad + d)), *acc);
                    }
                }
                for (j, acc) in acc.into_iter().enumerate() {
                    *scores.add(first + j) = s.sum(acc);
                }
            }
        }
    }
}

/// Turns `n` scores into weights against the maximum so far, updates maximum and
/// sum, and returns the factor of what was summed against the old maximum.
///
/// # Safety
/// `scores` holds KEYS elements, `stats` two.
#[inline(always)]
unsafe fn soften<S: Simd>(s: S, scores: *mut f32, n: usize, stats: *mut f32) -> f32 {
    // SAFETY: as the caller promises.
    unsafe {
        let old = *stats;
        let mut top = s.splat(old);
        for i in (0..n).step_by(LANES) {
            // Lanes beyond n repeat the first score, which changes no maximum.
            let v = tail(s, scores.add(i), n - i, s.splat(*scores));
            top = s.max(v, top);
        }
        let max = s.max_lane(top);
        let at = s.splat(max);
        let mut total = s.zero();
        for i in (0..n).step_by(LANES) {
            let v = tail(s, scores.add(i), n - i, s.splat(f32::NEG_INFINITY));
            let e = exp(s, s.sub(v, at));
            s.store(scores.add(i), e);
            total = s.add(total, e);
        }
        let shrink = exp_scalar(s, old - max);
        *stats = max;
        *stats.add(1) = *stats.add(1) * shrink + s.sum(total);
        shrink
    }
}

/// The first `n` lanes from memory, `fill` above.
///
/// # Safety
/// Sixteen readable f32.
#[inline(always)]
unsafe fn tail<S: Simd>(s: S, p: *const f32, n: usize, fill: S::V) -> S::V {
    const INDEX: [f32; LANES] = {
        let mut i = [0.0; LANES];
        let mut j = 0;
        while j < LANES {
            i[j] = j as f32;
            j += 1;
        }
        i
    };
    // SAFETY: as the caller promises.
    unsafe {
        let v = s.load(p);
        if n >= LANES {
            return v;
        }
        s.select_le(s.load(INDEX.as_ptr()), s.splat(n as f32 - 1.0), v, fill)
    }
}

/// outputs[h] += Σ_j weights[h][j]·values[j] for H queries.
///
/// # Safety
/// The arrays have the strides of [`Attend::row`]; n ≤ KEYS.
#[inline(always)]
unsafe fn weigh<S: Simd, const H: usize>(
    s: S,
    weights: *const f32,
    values: *const f32,
    pad: usize,
    n: usize,
    outputs: *mut f32,
) {
    let mut d = 0;
    while d < pad {
        // Four vectors at a time where the head has them.
        if d + 4 * LANES <= pad {
            // SAFETY: as the caller promises.
            unsafe { weigh_part::<S, H, 4>(s, weights, values.add(d), pad, n, outputs.add(d)) };
            d += 4 * LANES;
        } else {
            // SAFETY: as the caller promises.
            unsafe { weigh_part::<S, H, 1>(s, weights, values.add(d), pad, n, outputs.add(d)) };
            d += LANES;
        }
    }
}

#[inline(always)]
unsafe fn weigh_part<S: Simd, const H: usize, const D: usize>(
    s: S,
    weights: *const f32,
    values: *const f32,
    pad: usize,
    n: usize,
    outputs: *mut f32,
) {
    let mut acc = [[s.zero(); D]; H];
    // SAFETY: as the caller of `weigh` promises.
    unsafe {
        for j in 0..n {
            let mut v = [s.zero(); D];
            for (d, v) in v.iter_mut().enumerate() {
                *v = s.load(values.add(j * pad + d * LANES));
            }
            for (h, acc) in acc.iter_mut().enumerate() {
                let w = s.splat(*weights.add(h * KEYS + j));
                for (acc, v) in acc.iter_mut().zip(v) {
                    *acc = s.fma(w, v, *acc);
                }
            }
        }
        for (h, acc) in acc.into_iter().enumerate() {
            for (d, acc) in acc.into_iter().enumerate() {
                let out = outputs.add(h * pad + d * LANES);
                s.store(out, s.add(s.load(out), acc));
            }
        }
    }
}
