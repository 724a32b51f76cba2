//! Attention over paged caches: which thread computes which queries, and the
//! tile of 32 queries for spans of many rows. Spans of few rows go to
//! [`super::decode`].
//!
//! A tile holds 32 queries (row, head) that read the same kv head, one to a
//! lane: scores, maxima and sums of a query then never cross lanes, and a key's
//! element is broadcast to all of them. Keys come in blocks at fixed multiples
//! of [`KEYS`] positions, and a masked key adds exactly nothing, so a query's
//! bits do not depend on its neighbours.

use super::elem::Elem;
use super::math::{exp, softcap};
use super::plumbing::{Cache, Meta, Rows};
use super::simd::{LANES, Simd, f16_to_f32};
use hal::cpu::{CpuSlice, TaskCtx};
use registry::{NO_BLOCK, RowsFrom, StepView};

/// Queries of a tile.
pub const QUERIES: usize = 2 * LANES;
/// Keys of a block.
const KEYS: usize = 32;
/// Maximum of a query that has seen no key: finite, so that differences are.
pub const NOTHING: f32 = -1e38;
/// Below this many queries for one kv head in a span, one at a time is faster
/// than a tile with idle lanes.
const TILE_QUERIES: usize = 12;

/// The operands and sizes of one attention.
pub struct Attend {
    pub q: Rows<f32>,
    pub out: Rows<f32>,
    pub cache: Cache,
    pub elem: Elem,
    pub scale: f32,
    pub window: Option<usize>,
    pub softcap: Option<f32>,
    /// One score for each head, without a value.
    pub sinks: Option<CpuSlice<f32>>,
    pub heads: usize,
    pub dim: usize,
    pub from: RowsFrom,
    pub meta: Meta,
    /// Scratch of all threads, then the partial results of split rows.
    pub scratch: CpuSlice<f32>,
    /// f32 of one thread's scratch.
    pub slot: usize,
    /// Positions of a part of a long row, and how many parts a row may have;
    /// one if rows are not split.
    pub chunk: usize,
    pub chunks: usize,
    /// Whether every span is computed row by row.
    pub row_by_row: bool,
    /// Queries of a tile.
    pub queries: usize,
}

/// Work of one thread at a time.
#[derive(Clone, Copy)]
pub enum Unit {
    /// `count` queries of kv head `head` from the span's query `first` on; query
    /// i of a span is row i / group, head i % group of the kv head's.
    Tile {
        span: usize,
        head: usize,
        first: usize,
        count: usize,
    },
    /// A row's queries of one kv head over one part of its positions.
    Row {
        row: usize,
        head: usize,
        part: usize,
    },
}

/// Elements of a head, padded to whole vectors.
pub fn pad_dim(dim: usize) -> usize {
    dim.next_multiple_of(LANES)
}

/// f32 of a thread's scratch.
pub fn slot_len(dim: usize, group: usize) -> usize {
    let dim = pad_dim(dim);
    let tile = 2 * dim * QUERIES + KEYS * QUERIES + 2 * KEYS * dim;
    tile.max(super::decode::slot_len(dim, group))
        .next_multiple_of(LANES)
}

impl Attend {
    /// The sink of a query head, or a score that adds nothing.
    #[inline(always)]
    pub fn sink(&self, head: usize) -> f32 {
        // SAFETY: a declared read of a vector with an element for each head.
        self.sinks
            .map_or(f32::NEG_INFINITY, |sinks| unsafe { sinks.get()[head] })
    }

    pub fn kv_heads(&self) -> usize {
        self.cache.view.kv_heads
    }

    /// Query heads of a kv head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads()
    }

    /// First position that position `p` sees.
    #[inline(always)]
    pub fn lowest(&self, p: usize) -> usize {
        self.window.map_or(0, |w| (p + 1).saturating_sub(w))
    }

    /// Parts of the row at position `p`: the first one's index and their number.
    /// Parts lie at fixed positions.
    #[inline(always)]
    pub fn parts(&self, p: usize) -> (usize, usize) {
        if self.chunks == 1 {
            return (0, 1);
        }
        let first = self.lowest(p) / self.chunk;
        (first, p / self.chunk - first + 1)
    }

    fn by_rows(&self, rows: usize) -> bool {
        self.row_by_row || rows * self.group() < TILE_QUERIES
    }

    /// All work of this step with its cost, in an order that depends on the step
    /// alone.
    fn units<'a>(&'a self, view: StepView<'a>) -> impl Iterator<Item = (Unit, u64)> + 'a {
        let group = self.group();
        (0..view.spans()).flat_map(move |span| {
            let rows = view.span_rows(span);
            let by_rows = self.by_rows(rows.len());
            let (first_row, count) = (rows.start, rows.len());
            let queries = count * group;
            let tiles = if by_rows {
                0
            } else {
                queries.div_ceil(self.queries)
            };
            let singles = if by_rows { count } else { 0 };
            let tiles = (0..self.kv_heads() * tiles).map(move |i| {
                let (head, first) = (i / tiles, i % tiles * self.queries);
                let count = self.queries.min(queries - first);
                let low = self.lowest(view.position(first_row + first / group));
                let high = view.position(first_row + (first + count - 1) / group);
                let unit = Unit::Tile {
                    span,
                    head,
                    first,
                    count,
                };
                (unit, 4 * (high - low) as u64 + 128)
            });
            let singles = (0..singles).flat_map(move |r| {
                let row = first_row + r;
                let position = view.position(row);
                let (first, parts) = self.parts(position);
                (0..self.kv_heads() * parts).map(move |i| {
                    let (head, part) = (i / parts, i % parts);
                    let (low, high) = self.part_range(position, first + part);
                    let unit = Unit::Row { row, head, part };
                    (unit, (high - low) as u64 + 64)
                })
            });
            tiles.chain(singles)
        })
    }

    /// Positions of part `index` that position `p` sees.
    #[inline(always)]
    pub fn part_range(&self, p: usize, index: usize) -> (usize, usize) {
        let low = self.lowest(p);
        if self.chunks == 1 {
            return (low, p + 1);
        }
        let start = index * self.chunk;
        (low.max(start), (p + 1).min(start + self.chunk))
    }

    /// This thread's share of the step by cost.
    pub fn mine<'a>(
        &'a self,
        view: StepView<'a>,
        ctx: &TaskCtx,
    ) -> impl Iterator<Item = Unit> + 'a {
        let total: u64 = self.units(view).map(|(_, cost)| cost).sum();
        let (thread, threads) = (ctx.thread as u64, ctx.threads as u64);
        let mut before = 0;
        self.units(view).filter_map(move |(unit, cost)| {
            let owner = (2 * before + cost) * threads / (2 * total);
            before += cost;
            (owner == thread).then_some(unit)
        })
    }

    /// Whether any row of the step is split into parts.
    pub fn splits(&self, view: StepView<'_>) -> bool {
        self.chunks > 1
            && (0..view.spans()).any(|span| {
                let rows = view.span_rows(span);
                self.by_rows(rows.len())
                    && rows.into_iter().any(|r| self.parts(view.position(r)).1 > 1)
            })
    }

    /// Decodes keys (`kv` 0) or values (`kv` 1) at positions `low..high` of a kv
    /// head into rows of the padded dimension, and calls for those a block later:
    /// pages are short and scattered, so the hardware does not foresee them.
    ///
    /// # Safety
    /// `to` has room; the pages are not written meanwhile.
    #[inline(always)]
    pub unsafe fn fetch<S: Simd>(
        &self,
        s: S,
        table: &[u32],
        (kv, head): (usize, usize),
        (low, high): (usize, usize),
        to: *mut f32,
    ) {
        let (block, bytes) = (self.cache.view.block, self.elem.bytes());
        let (dim, pad) = (self.dim, pad_dim(self.dim));
        let (row_bytes, ahead) = (dim * bytes, high - low);
        let stride = self.cache.view.token_stride * bytes;
        let mut p = low;
        while p < high {
            let end = high.min((p / block + 1) * block);
            let (page, run) = (table[p / block], (p % block, end - p));
            let mut from = self.cache.run(page, kv, head, run, bytes);
            let mut scale = match self.elem {
                Elem::Int8 => self.cache.scales(page, kv, head, run).cast_const(),
                _ => std::ptr::null(),
            };
            let (later, token) = ((p + ahead) / block, (p + ahead) % block);
            let later = table.get(later).filter(|page| **page != NO_BLOCK);
            let mut later = match later {
                Some(page) => {
                    let first = self.cache.view.at(*page as usize, kv, head, token);
                    self.cache.address(first * bytes)
                }
                None => std::ptr::null_mut(),
            };
            while p < end {
                // SAFETY: `run` checked the source, the destination is the
                // caller's, and prefetching faults nowhere.
                unsafe {
                    for line in (0..row_bytes).step_by(64) {
                        s.prefetch(later.wrapping_add(line));
                    }
                    let row = to.add((p - low) * pad);
                    match self.elem {
                        Elem::F16 if dim == pad => {
                            for d in (0..dim).step_by(LANES) {
                                s.store(row.add(d), s.load_f16(from.cast::<u16>().add(d)));
                            }
                        }
                        Elem::Int8 => {
                            let by = s.splat(f16_to_f32(u16::from_le_bytes(*scale)));
                            for d in (0..dim).step_by(LANES) {
                                let v = Elem::Int8.load_n(s, from.add(d), dim - d);
                                s.store(row.add(d), s.mul(v, by));
                            }
                            scale = scale.add(1);
                        }
                        elem => elem.decode_row(s, from, row, dim),
                    }
                }
                from = from.wrapping_add(stride);
                later = later.wrapping_add(stride);
                p += 1;
            }
        }
    }

    /// Softmax attention of a tile.
    ///
    /// # Safety
    /// `slot` is this thread's scratch; the outputs of the tile are this
    /// thread's own.
    #[inline(always)]
    pub unsafe fn tile<S: Simd>(
        &self,
        s: S,
        view: &StepView<'_>,
        (span, head): (usize, usize),
        (first, count): (usize, usize),
        slot: *mut f32,
    ) {
        let (dim, pad, group) = (self.dim, pad_dim(self.dim), self.group());
        let row0 = view.span_rows(span).start;
        let query = |lane: usize| (row0 + (first + lane) / group, (first + lane) % group);
        let table = view.table(self.cache.view.group, span);
        // Queries and outputs are [dim][QUERIES], scores [KEYS][QUERIES].
        let queries = slot;
        let outputs = slot.wrapping_add(pad * QUERIES);
        let scores = outputs.wrapping_add(pad * QUERIES);
        let keys = scores.wrapping_add(KEYS * QUERIES);
        let values = keys.wrapping_add(KEYS * pad);

        let mut at = [f32::MAX; QUERIES];
        let mut from = [-1.0f32; QUERIES];
        // SAFETY: indices stay below pad·QUERIES in the scratch and below dim in
        // a head of the row.
        unsafe {
            for i in (0..pad * QUERIES).step_by(LANES) {
                s.store(queries.add(i), s.zero());
                s.store(outputs.add(i), s.zero());
            }
            for lane in 0..count {
                let (row, h) = query(lane);
                let p = view.position(row);
                at[lane] = p as f32;
                from[lane] = self.lowest(p) as f32;
                let q = self.q.at(row).add((head * group + h) * dim);
                for d in 0..dim {
                    *queries.add(d * QUERIES + lane) = *q.add(d) * self.scale;
                }
            }
        }
        let (p_first, p_last) = (view.position(query(0).0), view.position(query(count - 1).0));
        let (low, high) = (self.lowest(p_first), p_last + 1);
        // Keys in [clear_from, clear_to) are seen by every query.
        let (clear_from, clear_to) = (self.lowest(p_last), p_first + 1);
        let mut max = [s.splat(NOTHING); 2];
        let mut sum = [s.zero(); 2];
        let mut block = low / KEYS * KEYS;
        while block < high {
            let (start, end) = (block.max(low), high.min(block + KEYS));
            let n = end - start;
            // SAFETY: at most KEYS keys, in this thread's scratch.
            unsafe {
                self.fetch(s, table, (0, head), (start, end), keys);
                self.fetch(s, table, (1, head), (start, end), values);
                if S::WIDE {
                    score::<S, 8>(s, queries, keys, (dim, pad), n, scores);
                } else {
                    score::<S, 2>(s, queries, keys, (dim, pad), n, scores);
                }
                let mut shrink = [s.zero(); 2];
                for v in 0..2 {
                    let column = scores.add(v * LANES);
                    if let Some(cap) = self.softcap {
                        for j in 0..n {
                            let x = column.add(j * QUERIES);
                            s.store(x, softcap(s, s.load(x), cap));
                        }
                    }
                    if start < clear_from || end > clear_to {
                        let at = s.load(at.as_ptr().add(v * LANES));
                        let from = s.load(from.as_ptr().add(v * LANES));
                        let never = s.splat(f32::NEG_INFINITY);
                        for j in 0..n {
                            let x = column.add(j * QUERIES);
                            let p = s.splat((start + j) as f32);
                            let seen = s.select_le(p, at, s.load(x), never);
                            s.store(x, s.select_le(from, p, seen, never));
                        }
                    }
                    let mut top = max[v];
                    for j in 0..n {
                        top = s.max(s.load(column.add(j * QUERIES)), top);
                    }
                    shrink[v] = exp(s, s.sub(max[v], top));
                    max[v] = top;
                    let mut total = s.zero();
                    for j in 0..n {
                        let x = column.add(j * QUERIES);
                        let e = exp(s, s.sub(s.load(x), top));
                        s.store(x, e);
                        total = s.add(total, e);
                    }
                    sum[v] = s.fma(sum[v], shrink[v], total);
                }
                if S::WIDE {
                    weigh::<S, 8>(s, scores, values, pad, n, shrink, outputs);
                } else {
                    weigh::<S, 2>(s, scores, values, pad, n, shrink, outputs);
                }
            }
            block += KEYS;
        }
        // SAFETY: as for the queries above; outputs are this thread's own.
        unsafe {
            let mut sinks = [f32::NEG_INFINITY; QUERIES];
            if self.sinks.is_some() {
                for (lane, sink) in sinks.iter_mut().enumerate().take(count) {
                    *sink = self.sink(head * group + query(lane).1);
                }
            }
            for (v, sum) in sum.into_iter().enumerate() {
                let mut scale = s.div(s.splat(1.0), sum);
                if self.sinks.is_some() {
                    let sink = s.load(sinks.as_ptr().add(v * LANES));
                    let top = s.max(sink, max[v]);
                    let own = exp(s, s.sub(max[v], top));
                    let all = s.fma(sum, own, exp(s, s.sub(sink, top)));
                    scale = s.div(own, all);
                }
                for d in 0..dim {
                    let x = outputs.add(d * QUERIES + v * LANES);
                    s.store(x, s.mul(s.load(x), scale));
                }
            }
            for lane in 0..count {
                let (row, h) = query(lane);
                let y = self.out.at(row).add((head * group + h) * dim);
                for d in 0..dim {
                    *y.add(d) = *outputs.add(d * QUERIES + lane);
                }
            }
        }
    }
}

/// scores[j][query] = Σ_d keys[j][d]·queries[d][query] for `n` keys, J at a time.
///
/// # Safety
/// The arrays have the sizes of [`Attend::tile`]; n ≤ KEYS.
#[inline(always)]
unsafe fn score<S: Simd, const J: usize>(
    s: S,
    queries: *const f32,
    keys: *const f32,
    (dim, pad): (usize, usize),
    n: usize,
    scores: *mut f32,
) {
    for first in (0..n).step_by(J) {
        let mut acc = [[s.zero(); 2]; J];
        // SAFETY: J divides KEYS, so keys beyond n are still in the scratch;
        // their scores are not used.
        unsafe {
            let keys = keys.add(first * pad);
            for d in 0..dim {
                let q = queries.add(d * QUERIES);
                let q = [s.load(q), s.load(q.add(LANES))];
                for (j, acc) in acc.iter_mut().enumerate() {
                    let k = s.splat(*keys.add(j * pad + d));
                    acc[0] = s.fma(k, q[0], acc[0]);
                    acc[1] = s.fma(k, q[1], acc[1]);
                }
            }
            for (j, acc) in acc.into_iter().enumerate() {
                let to = scores.add((first + j) * QUERIES);
                s.store(to, acc[0]);
                s.store(to.add(LANES), acc[1]);
            }
        }
    }
}

/// outputs[d][query] = outputs·shrink + Σ_j weights[j][query]·values[j][d], D
/// elements at a time.
///
/// # Safety
/// The arrays have the sizes of [`Attend::tile`]; n ≤ KEYS.
#[inline(always)]
unsafe fn weigh<S: Simd, const D: usize>(
    s: S,
    weights: *const f32,
    values: *const f32,
    pad: usize,
    n: usize,
    shrink: [S::V; 2],
    outputs: *mut f32,
) {
    for first in (0..pad).step_by(D) {
        let mut acc = [[s.zero(); 2]; D];
        // SAFETY: D divides the padded dimension.
        unsafe {
            let out = outputs.add(first * QUERIES);
            for (d, acc) in acc.iter_mut().enumerate() {
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = s.mul(s.load(out.add(d * QUERIES + v * LANES)), shrink[v]);
                }
            }
            for j in 0..n {
                let w = weights.add(j * QUERIES);
                let w = [s.load(w), s.load(w.add(LANES))];
                let values = values.add(j * pad + first);
                for (d, acc) in acc.iter_mut().enumerate() {
                    let x = s.splat(*values.add(d));
                    acc[0] = s.fma(x, w[0], acc[0]);
                    acc[1] = s.fma(x, w[1], acc[1]);
                }
            }
            for (d, acc) in acc.into_iter().enumerate() {
                for (v, acc) in acc.into_iter().enumerate() {
                    s.store(out.add(d * QUERIES + v * LANES), acc);
                }
            }
        }
    }
}
