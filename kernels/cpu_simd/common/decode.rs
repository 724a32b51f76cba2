//! Attention of single rows: the queries of one kv head, side by side, pass the
//! keys once, lanes along the head's elements. Long rows are split into parts at
//! fixed positions, whose results are joined after a barrier.

use super::attend::{Attend, NOTHING, pad_dim};
use super::elem::Elem;
use super::math::{exp, softcap};
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

/// Where the keys and values of a block lie, and their scales (f16) if their scheme
/// has such.
#[derive(Clone, Copy)]
struct Places {
    rows: [[*const u8; KEYS]; 2],
    scales: [[u16; KEYS]; 2],
}

/// Where a row's block is worked on: of each query its elements, weighted sums,
/// scores of KEYS keys, maximum and sum.
#[derive(Clone, Copy)]
struct Block {
    queries: *mut f32,
    outputs: *mut f32,
    scores: *mut f32,
    stats: *mut f32,
}

impl Block {
    /// Multiplies what stands for each key, in all queries, by its scale.
    ///
    /// # Safety
    /// As [`Block::soften`].
    #[inline(always)]
    unsafe fn scale<S: Simd>(&self, s: S, group: usize, n: usize, scales: &[u16; KEYS]) {
        for i in (0..n).step_by(LANES) {
            // SAFETY: whole vectors of KEYS.
            unsafe {
                let by = s.load_f16(scales.as_ptr().add(i));
                for h in 0..group {
                    let x = self.scores.add(h * KEYS + i);
                    s.store(x, s.mul(s.load(x), by));
                }
            }
        }
    }

    /// Scores to weights, and what was summed so far to the new maximum.
    ///
    /// # Safety
    /// The arrays hold `group` queries of `pad` elements; n ≤ KEYS.
    #[inline(always)]
    unsafe fn soften<S: Simd>(&self, s: S, group: usize, pad: usize, n: usize, cap: Option<f32>) {
        for h in 0..group {
            // SAFETY: as the caller promises; scores beyond n are in the scratch.
            unsafe {
                if let Some(cap) = cap {
                    for i in (0..n).step_by(LANES) {
                        let x = self.scores.add(h * KEYS + i);
                        s.store(x, softcap(s, s.load(x), cap));
                    }
                }
                let (scores, stats) = (self.scores.add(h * KEYS), self.stats.add(2 * h));
                let shrink = s.splat(soften(s, scores, n, stats));
                for d in (0..pad).step_by(LANES) {
                    let out = self.outputs.add(h * pad + d);
                    s.store(out, s.mul(s.load(out), shrink));
                }
            }
        }
    }
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
            let at = Block {
                queries,
                outputs,
                scores,
                stats,
            };
            let range = (low, high, position + 1);
            match group {
                _ if !S::WIDE || dim != pad => {
                    self.staged(s, table, head, (low, high), (keys, values), at);
                }
                g if g.is_multiple_of(4) => self.direct::<S, 4>(s, table, head, range, at),
                g if g.is_multiple_of(2) => self.direct::<S, 2>(s, table, head, range, at),
                _ => self.direct::<S, 1>(s, table, head, range, at),
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
                    let sink = self.sink(query);
                    let top = max.max(sink);
                    let own = exp_scalar(s, max - top);
                    let all = sum * own + exp_scalar(s, sink - top);
                    let scale = s.splat(own / all);
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

    /// Passes positions `low..high` a block at a time, decoded to the scratch
    /// first.
    ///
    /// # Safety
    /// As [`Attend::row`], with the arrays of its scratch.
    #[inline(always)]
    unsafe fn staged<S: Simd>(
        &self,
        s: S,
        table: &[u32],
        head: usize,
        (low, high): (usize, usize),
        (keys, values): (*mut f32, *mut f32),
        at: Block,
    ) {
        let (pad, group) = (pad_dim(self.dim), self.group());
        let mut block = low / KEYS * KEYS;
        while block < high {
            let (start, end) = (block.max(low), high.min(block + KEYS));
            let n = end - start;
            // SAFETY: as the caller promises; a block has at most KEYS keys.
            unsafe {
                self.fetch(s, table, (0, head), (start, end), keys);
                self.fetch(s, table, (1, head), (start, end), values);
                // Scores are made of whole vectors of keys: what others left in the
                // scratch may be subnormal, and products of that are slow.
                let rest = (n * pad..n.next_multiple_of(LANES) * pad).step_by(LANES);
                for i in rest {
                    s.store(keys.add(i), s.zero());
                }
                for h in 0..group {
                    score(
                        s,
                        at.queries.add(h * pad),
                        keys,
                        pad,
                        n,
                        at.scores.add(h * KEYS),
                    );
                }
                at.soften(s, group, pad, n, self.softcap);
                for h in 0..group {
                    let (weights, out) = (at.scores.add(h * KEYS), at.outputs.add(h * pad));
                    weigh(s, weights, values, pad, n, out);
                }
            }
            block += KEYS;
        }
    }

    /// The same straight from the pages, G queries at a time, while the next block's
    /// lines are called for; `reach` is where the row's positions end.
    ///
    /// # Safety
    /// As [`Attend::staged`]; the dimension is whole vectors, the group whole G.
    #[inline(always)]
    unsafe fn direct<S: Simd, const G: usize>(
        &self,
        s: S,
        table: &[u32],
        head: usize,
        (low, high, reach): (usize, usize, usize),
        at: Block,
    ) {
        let (dim, bytes, group) = (self.dim, self.elem.bytes(), self.group());
        let mut block = low / KEYS * KEYS;
        let scaled = self.elem == Elem::Int8;
        let mut now = Places {
            rows: [[std::ptr::null(); KEYS]; 2],
            scales: [[0; KEYS]; 2],
        };
        let mut next = now;
        self.addresses(table, head, (low, high.min(block + KEYS)), &mut next);
        while block < high {
            let (start, end) = (block.max(low), high.min(block + KEYS));
            let n = end - start;
            std::mem::swap(&mut now, &mut next);
            let later = (reach.min(end), reach.min(end + KEYS));
            self.addresses(table, head, later, &mut next);
            // SAFETY: `addresses` checked the rows; prefetching faults nowhere.
            unsafe {
                // Keys at once: a vector holds a score of each query and key.
                let abreast = LANES / G;
                for h in (0..group).step_by(G) {
                    for j in (0..n).step_by(abreast) {
                        let mut acc = [s.zero(); LANES];
                        for d in (0..dim).step_by(LANES) {
                            let q = at.queries.add(h * dim + d);
                            for i in 0..abreast {
                                let k = self.elem.load(s, now.rows[0][j + i].add(d * bytes));
                                for g in 0..G {
                                    let q = s.load(q.add(g * dim));
                                    let acc = &mut acc[abreast * g + i];
                                    *acc = s.fma(q, k, *acc);
                                }
                            }
                        }
                        for i in 0..abreast {
                            for line in (0..dim * bytes).step_by(64) {
                                s.prefetch(next.rows[0][j + i].wrapping_add(line));
                            }
                        }
                        let sums = s.to_array(s.sums(acc));
                        for g in 0..G {
                            let to = at.scores.add((h + g) * KEYS + j);
                            let from = sums.as_ptr().add(g * abreast);
                            std::ptr::copy_nonoverlapping(from, to, abreast);
                        }
                    }
                }
                // The codes' products first, then what is the same for a whole key.
                if scaled {
                    at.scale(s, group, n, &now.scales[0]);
                }
                at.soften(s, group, dim, n, self.softcap);
                if scaled {
                    at.scale(s, group, n, &now.scales[1]);
                }
                for h in (0..group).step_by(G) {
                    let mut d = 0;
                    while d < dim {
                        let of = (h, d, n);
                        let left = (dim - d) / LANES;
                        // As many sums as there are registers for.
                        d += match left {
                            8.. if G <= 2 => {
                                self.add_values::<S, G, 8>(s, of, &now.rows[1], &next.rows[1], at);
                                8
                            }
                            4.. => {
                                self.add_values::<S, G, 4>(s, of, &now.rows[1], &next.rows[1], at);
                                4
                            }
                            _ => {
                                self.add_values::<S, G, 1>(s, of, &now.rows[1], &next.rows[1], at);
                                1
                            }
                        } * LANES;
                    }
                }
            }
            block += KEYS;
        }
    }

    /// Adds D vectors of the weighted values of `n` keys to the outputs of G
    /// queries, from query `h` and element `d` on.
    ///
    /// # Safety
    /// As [`Attend::direct`].
    #[inline(always)]
    unsafe fn add_values<S: Simd, const G: usize, const D: usize>(
        &self,
        s: S,
        (h, d, n): (usize, usize, usize),
        now: &[*const u8; KEYS],
        next: &[*const u8; KEYS],
        at: Block,
    ) {
        let (dim, bytes) = (self.dim, self.elem.bytes());
        // SAFETY: as the caller promises.
        unsafe {
            let mut acc = [[s.zero(); D]; G];
            for j in 0..n {
                let row = now[j].add(d * bytes);
                for line in (0..D * LANES * bytes).step_by(64) {
                    s.prefetch(next[j].wrapping_add(d * bytes + line));
                }
                let mut v = [s.zero(); D];
                for (i, v) in v.iter_mut().enumerate() {
                    *v = self.elem.load(s, row.add(i * LANES * bytes));
                }
                for (g, acc) in acc.iter_mut().enumerate() {
                    let w = s.splat(*at.scores.add((h + g) * KEYS + j));
                    for (acc, v) in acc.iter_mut().zip(v) {
                        *acc = s.fma(w, v, *acc);
                    }
                }
            }
            for (g, acc) in acc.into_iter().enumerate() {
                for (i, acc) in acc.into_iter().enumerate() {
                    let out = at.outputs.add((h + g) * dim + d + i * LANES);
                    s.store(out, s.add(s.load(out), acc));
                }
            }
        }
    }

    /// Where the keys and values of positions `low..high` lie; the last ones
    /// repeat up to a whole block.
    fn addresses(&self, table: &[u32], head: usize, (low, high): (usize, usize), to: &mut Places) {
        if low == high {
            return;
        }
        let (block, bytes) = (self.cache.view.block, self.elem.bytes());
        let stride = self.cache.view.token_stride * bytes;
        let Places { rows, scales } = to;
        for (kv, (to, scales)) in rows.iter_mut().zip(scales).enumerate() {
            let mut p = low;
            while p < high {
                let end = high.min((p / block + 1) * block);
                let (page, run) = (table[p / block], (p % block, end - p));
                let first = self.cache.run(page, kv, head, run, bytes);
                if self.elem == Elem::Int8 {
                    let from = self.cache.scales(page, kv, head, run);
                    let to = scales[p - low..end - low].as_mut_ptr().cast::<[u8; 2]>();
                    // SAFETY: as many scales, which `Cache::scales` checked.
                    unsafe { std::ptr::copy_nonoverlapping(from, to, end - p) };
                }
                for (i, to) in to[p - low..end - low].iter_mut().enumerate() {
                    *to = first.wrapping_add(i * stride);
                }
                p = end;
            }
            let last = to[high - low - 1];
            to[high - low..].fill(last);
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
                let sink = self.sink(head);
                let mut max = NOTHING.max(sink);
                for i in 0..parts {
                    max = max.max(*first.add(i * stride));
                }
                let mut sum = exp_scalar(s, sink - max);
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

/// output += Σ_j weights[j]·values[j].
///
/// # Safety
/// `values` holds n rows of `pad`; n ≤ KEYS.
#[inline(always)]
unsafe fn weigh<S: Simd>(
    s: S,
    weights: *const f32,
    values: *const f32,
    pad: usize,
    n: usize,
    output: *mut f32,
) {
    for d in (0..pad).step_by(LANES) {
        let mut acc = [s.zero(); 2];
        // SAFETY: as the caller promises.
        unsafe {
            for j in 0..n {
                let v = s.load(values.add(j * pad + d));
                acc[j % 2] = s.fma(s.splat(*weights.add(j)), v, acc[j % 2]);
            }
            let out = output.add(d);
            s.store(out, s.add(s.load(out), s.add(acc[0], acc[1])));
        }
    }
}
