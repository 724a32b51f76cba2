//! Attention of spans of many rows in AMX tiles: 128 queries of one kv head at a
//! time, so that keys and values are decoded once for all of them.
//!
//! Tiles multiply bf16, which is too coarse for scores. So every factor is the sum
//! of two bf16 numbers, its first eight bits and its next eight, and their four
//! products are summed, of weights with values three. f16 has eleven bits, so decoded
//! keys and values lose nothing, and queries and weights less than 2⁻¹⁷ of themselves.
//!
//! Scores are rows of queries by columns of keys. Keys come in blocks at fixed
//! multiples of [`KEYS`] positions and a masked key adds exactly nothing, so a
//! query's bits do not depend on its neighbours.

use super::attend::{Attend, NOTHING, pad_dim};
use super::math::{exp, softcap};
use super::matmul_amx::{TILE, configure, release};
use super::simd::{LANES, Simd};
use super::x86::Avx512Bf16;
use registry::StepView;
use std::arch::asm;
use std::arch::x86_64::*;

/// Queries of a unit of work.
pub const QUERIES: usize = 128;
/// Queries whose scores are computed together.
const ROWS: usize = 32;
/// Keys of a block.
const KEYS: usize = 128;

/// Elements of a head, padded to whole tiles.
fn pad_tiles(dim: usize) -> usize {
    dim.next_multiple_of(32)
}

/// f32 of a thread's scratch: see [`Scratch`].
pub fn slot_len(dim: usize) -> usize {
    let pad = pad_tiles(dim);
    // Halves of 16 bits of queries, keys and values: 4 bytes an element.
    let halves = (QUERIES + 2 * KEYS) * pad;
    let floats = KEYS * pad + QUERIES * pad + ROWS * KEYS;
    halves + floats + ROWS * KEYS + 2 * QUERIES
}

/// A thread's scratch. Tiles come twice: first all upper halves, then the lower.
struct Scratch {
    /// A tiles `[QUERIES/16][pad/32]`.
    queries: *mut u8,
    /// B tiles `[KEYS/16][pad/32]`: pairs of elements by keys.
    keys: *mut u8,
    /// B tiles `[pad/16][KEYS/32]`: pairs of keys by elements.
    values: *mut u8,
    /// A tiles `[2][KEYS/32]`.
    weights: *mut u8,
    /// Decoded rows.
    decoded: *mut f32,
    /// Weighted sums `[QUERIES][pad]`.
    outputs: *mut f32,
    /// `[ROWS][KEYS]`.
    scores: *mut f32,
    /// Maximum and sum of each query.
    max: *mut f32,
    sum: *mut f32,
}

impl Scratch {
    fn of(slot: *mut f32, pad: usize) -> Scratch {
        let mut at = slot;
        let mut take = |len: usize| {
            let from = at;
            at = at.wrapping_add(len);
            from
        };
        Scratch {
            queries: take(QUERIES * pad).cast(),
            keys: take(KEYS * pad).cast(),
            values: take(KEYS * pad).cast(),
            weights: take(ROWS * KEYS).cast(),
            decoded: take(KEYS * pad),
            outputs: take(QUERIES * pad),
            scores: take(ROWS * KEYS),
            max: take(QUERIES),
            sum: take(QUERIES),
        }
    }
}

/// Two vectors, neighbours along K, as upper and lower halves.
///
/// # Safety
/// AVX-512 with BF16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
unsafe fn halves(v: [__m512; 2]) -> [__m512i; 2] {
    // SAFETY: as the caller promises; both types are 512 plain bits.
    unsafe {
        let mask = _mm512_set1_epi32(0xffff_0000u32 as i32);
        let half = _mm512_set1_epi32(0x8000);
        // Rounded, so that the lower half, of either sign, is half as large. What is
        // not a number stays so in the lower half.
        let cut = |v| {
            let rounded = _mm512_add_epi32(_mm512_castps_si512(v), half);
            _mm512_castsi512_ps(_mm512_and_si512(rounded, mask))
        };
        let upper = [cut(v[0]), cut(v[1])];
        let lower = [_mm512_sub_ps(v[0], upper[0]), _mm512_sub_ps(v[1], upper[1])];
        [
            std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(upper[1], upper[0])),
            std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(lower[1], lower[0])),
        ]
    }
}

/// Swaps rows and columns of 16 × 16 words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    let mut a = rows;
    for i in 0..8 {
        a[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    let mut b = a;
    for i in 0..4 {
        for j in 0..2 {
            b[4 * i + 2 * j] = _mm512_unpacklo_epi64(a[4 * i + j], a[4 * i + 2 + j]);
            b[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(a[4 * i + j], a[4 * i + 2 + j]);
        }
    }
    // b[4i + c] holds column c of each quarter for rows 4i to 4i + 3.
    let mut out = b;
    for c in 0..4 {
        let x = _mm512_shuffle_i32x4::<0x88>(b[c], b[4 + c]);
        let y = _mm512_shuffle_i32x4::<0x88>(b[8 + c], b[12 + c]);
        out[c] = _mm512_shuffle_i32x4::<0x88>(x, y);
        out[8 + c] = _mm512_shuffle_i32x4::<0xdd>(x, y);
        let x = _mm512_shuffle_i32x4::<0xdd>(b[c], b[4 + c]);
        let y = _mm512_shuffle_i32x4::<0xdd>(b[8 + c], b[12 + c]);
        out[4 + c] = _mm512_shuffle_i32x4::<0x88>(x, y);
        out[12 + c] = _mm512_shuffle_i32x4::<0xdd>(x, y);
    }
    out
}

/// Tiles whose products are summed: two of rows, two of columns.
#[derive(Clone, Copy)]
struct Factors {
    a: [*const u8; 2],
    b: [*const u8; 2],
}

/// Adds `steps` products to the four tiles of sums; tiles of both sides follow each
/// other along K.
///
/// # Safety
/// Tiles are configured; `steps` ≥ 1 tiles are readable at each address.
#[inline(always)]
unsafe fn multiply(f: Factors, steps: usize) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!(
            "2:",
            "tileloadd tmm4, [{a0} + {stride}*1]",
            "tileloadd tmm6, [{b0} + {stride}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b1} + {stride}*1]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a1} + {stride}*1]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a0}, 1024",
            "add {a1}, 1024",
            "add {b0}, 1024",
            "add {b1}, 1024",
            "dec {steps}",
            "jnz 2b",
            a0 = inout(reg) f.a[0] => _,
            a1 = inout(reg) f.a[1] => _,
            b0 = inout(reg) f.b[0] => _,
            b1 = inout(reg) f.b[1] => _,
            steps = inout(reg) steps => _,
            stride = in(reg) 64usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, readonly),
        );
    }
}

/// The four tiles of sums at `at`, rows `stride` f32 apart.
///
/// # Safety
/// Tiles are configured; 32 rows of 32 f32 are readable.
#[inline(always)]
unsafe fn load(at: *const f32, stride: usize) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!(
            "tileloadd tmm0, [{a} + {stride}*1]",
            "tileloadd tmm1, [{a} + {stride}*1 + 64]",
            "tileloadd tmm2, [{b} + {stride}*1]",
            "tileloadd tmm3, [{b} + {stride}*1 + 64]",
            a = in(reg) at,
            b = in(reg) at.wrapping_add(16 * stride),
            stride = in(reg) 4 * stride,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(nostack, readonly),
        );
    }
}

/// As [`load`], to memory.
///
/// # Safety
/// As [`load`], writable.
#[inline(always)]
unsafe fn store(at: *mut f32, stride: usize) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!(
            "tilestored [{a} + {stride}*1], tmm0",
            "tilestored [{a} + {stride}*1 + 64], tmm1",
            "tilestored [{b} + {stride}*1], tmm2",
            "tilestored [{b} + {stride}*1 + 64], tmm3",
            a = in(reg) at,
            b = in(reg) at.wrapping_add(16 * stride),
            stride = in(reg) 4 * stride,
            options(nostack),
        );
    }
}

/// # Safety
/// Tiles are configured.
#[inline(always)]
unsafe fn zero() {
    // SAFETY: touches tile registers only.
    unsafe {
        asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(nostack, nomem),
        );
    }
}

/// Positions that one query sees, and where it lies.
#[derive(Clone, Copy)]
struct Query {
    row: usize,
    head: usize,
    low: usize,
    last: usize,
}

impl Attend {
    /// Softmax attention of up to [`QUERIES`] queries of kv head `head`, from query
    /// `first` of the span on.
    ///
    /// # Safety
    /// AVX-512 with BF16, AMX. `slot` is this thread's scratch of [`slot_len`]; the
    /// outputs of the queries are this thread's own.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    pub unsafe fn tiles(
        &self,
        view: &StepView<'_>,
        (span, head): (usize, usize),
        (first, count): (usize, usize),
        slot: *mut f32,
    ) {
        // SAFETY: as the caller promises, here and below.
        let s = unsafe { Avx512Bf16::new() };
        let (dim, pad, group) = (self.dim, pad_tiles(self.dim), self.group());
        let row0 = view.span_rows(span).start;
        let table = view.table(self.cache.view.group, span);
        let at = Scratch::of(slot, pad);
        let query = |i: usize| {
            let (row, head) = (
                row0 + (first + i) / group,
                head * group + (first + i) % group,
            );
            let last = view.position(row);
            Query {
                row,
                head,
                low: self.lowest(last),
                last,
            }
        };
        // SAFETY: as above; arrays of the scratch.
        unsafe {
            self.split_queries(s, &at, count, query);
            for i in (0..QUERIES * pad).step_by(LANES) {
                s.store(at.outputs.add(i), s.zero());
            }
            for i in 0..QUERIES {
                *at.max.add(i) = NOTHING;
                *at.sum.add(i) = 0.0;
            }
            configure();
        }
        let (low, high) = (query(0).low, query(count - 1).last + 1);
        for block in (low / KEYS * KEYS..high).step_by(KEYS) {
            let (start, end) = (block.max(low), high.min(block + KEYS));
            // Tiles of keys beyond are not even filled.
            let steps = (end - block).div_ceil(32);
            // SAFETY: as above.
            unsafe {
                // Keys before `start` are masked for every query; theirs are zeros.
                let skipped = start - block;
                self.fetch(
                    s,
                    table,
                    (0, head),
                    (start, end),
                    at.decoded.add(skipped * pad_dim(dim)),
                );
                self.split_keys(&at, (skipped, end - block));
                self.fetch(
                    s,
                    table,
                    (1, head),
                    (start, end),
                    at.decoded.add(skipped * pad_dim(dim)),
                );
                self.split_values(&at, (skipped, end - block));
                for part in (0..count).step_by(ROWS) {
                    let rows = (count - part).min(ROWS);
                    let of = |i: usize| query(part + i);
                    if of(rows - 1).last < block || of(0).low >= block + KEYS.min(end - block) {
                        continue;
                    }
                    self.score(&at, part, pad, steps);
                    for i in 0..rows {
                        self.soften(s, &at, (part, i), block, of(i));
                    }
                    for i in rows..ROWS {
                        clear_weights(&at, i);
                    }
                    self.weigh(&at, part, pad, steps);
                }
            }
        }
        // SAFETY: as above; outputs are this thread's own.
        unsafe {
            release();
            for i in 0..count {
                let q = query(i);
                let (max, sum) = (*at.max.add(i), *at.sum.add(i));
                let sink = self.sink(q.head);
                let top = max.max(sink);
                let own = first_lane(s, exp(s, s.splat(max - top)));
                let all = sum * own + first_lane(s, exp(s, s.splat(sink - top)));
                let scale = s.splat(own / all);
                let y = self.out.at(q.row).add(q.head * dim);
                for d in (0..dim).step_by(LANES) {
                    let v = s.mul(s.load(at.outputs.add(i * pad + d)), scale);
                    s.store_n(y.add(d), v, dim - d);
                }
            }
        }
    }

    /// Queries, scaled, to tiles; those beyond `count` are zeros.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    unsafe fn split_queries(
        &self,
        s: Avx512Bf16,
        at: &Scratch,
        count: usize,
        query: impl Fn(usize) -> Query,
    ) {
        let (dim, pad) = (self.dim, pad_tiles(self.dim));
        let scale = s.splat(self.scale);
        for i in 0..count.next_multiple_of(ROWS) {
            // SAFETY: elements of the query's head; lines of its tiles.
            unsafe {
                let q = (i < count).then(|| {
                    let q = query(i);
                    self.q.at(q.row).add(q.head * dim).cast_const()
                });
                for d in (0..pad).step_by(32) {
                    let part = |d: usize| match q {
                        Some(q) if d < dim => s.mul(s.load_n(q.add(d), dim - d), scale),
                        _ => s.zero(),
                    };
                    let pair = halves([part(d), part(d + LANES)]);
                    let line = (i / 16 * (pad / 32) + d / 32) * TILE + i % 16 * 64;
                    let to = at.queries.add(line);
                    _mm512_storeu_si512(to.cast(), pair[0]);
                    _mm512_storeu_si512(to.add(QUERIES * pad * 2).cast(), pair[1]);
                }
            }
        }
    }

    /// A decoded block's keys `from..to` to tiles, others of its last tiles as zeros.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    unsafe fn split_keys(&self, at: &Scratch, (from, to): (usize, usize)) {
        let (row, pad) = (pad_dim(self.dim), pad_tiles(self.dim));
        for tile in 0..to.next_multiple_of(32) / 16 {
            for d in (0..pad).step_by(32) {
                // SAFETY: decoded rows from..to; whole tiles of the block.
                unsafe {
                    let mut upper = [_mm512_setzero_si512(); 16];
                    let mut lower = upper;
                    for j in 0..16 {
                        let key = tile * 16 + j;
                        if key < from || key >= to {
                            continue;
                        }
                        let k = at.decoded.add(key * row + d);
                        let second = match d + LANES < row {
                            true => _mm512_loadu_ps(k.add(LANES)),
                            false => _mm512_setzero_ps(),
                        };
                        [upper[j], lower[j]] = halves([_mm512_loadu_ps(k), second]);
                    }
                    let line = at.keys.add((tile * (pad / 32) + d / 32) * TILE);
                    let (upper, lower) = (transpose(upper), transpose(lower));
                    for j in 0..16 {
                        _mm512_storeu_si512(line.add(64 * j).cast(), upper[j]);
                        let line = line.add(KEYS * pad * 2);
                        _mm512_storeu_si512(line.add(64 * j).cast(), lower[j]);
                    }
                }
            }
        }
    }

    /// The same for values.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    unsafe fn split_values(&self, at: &Scratch, (from, to): (usize, usize)) {
        let (row, pad) = (pad_dim(self.dim), pad_tiles(self.dim));
        for key in (0..to.next_multiple_of(32)).step_by(2) {
            for d in (0..pad).step_by(LANES) {
                // SAFETY: as for keys.
                unsafe {
                    let value = |key: usize| match key >= from && key < to && d < row {
                        true => _mm512_loadu_ps(at.decoded.add(key * row + d)),
                        false => _mm512_setzero_ps(),
                    };
                    let pair = halves([value(key), value(key + 1)]);
                    let tile = d / LANES * (KEYS / 32) + key / 32;
                    let line = at.values.add(tile * TILE + key % 32 / 2 * 64);
                    for (i, half) in pair.into_iter().enumerate() {
                        // From 16 elements of one key and 16 of the next to pairs.
                        let low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(half));
                        let high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64::<1>(half));
                        let both = _mm512_or_si512(low, _mm512_slli_epi32::<16>(high));
                        _mm512_storeu_si512(line.add(i * KEYS * pad * 2).cast(), both);
                    }
                }
            }
        }
    }

    /// Scores of ROWS queries from `part` on with the block's keys, 32 at a time.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    unsafe fn score(&self, at: &Scratch, part: usize, pad: usize, key_steps: usize) {
        let steps = pad / 32;
        let a = at
            .queries
            .wrapping_add(part / 16 * steps * TILE)
            .cast_const();
        let a = [a, a.wrapping_add(steps * TILE)];
        let lower_a = a.map(|a| a.wrapping_add(QUERIES * pad * 2));
        for keys in (0..key_steps * 32).step_by(32) {
            let b = at.keys.wrapping_add(keys / 16 * steps * TILE).cast_const();
            let b = [b, b.wrapping_add(steps * TILE)];
            let lower_b = b.map(|b| b.wrapping_add(KEYS * pad * 2));
            // SAFETY: tiles of the scratch.
            unsafe {
                zero();
                // Scores are exponents: the smallest product shows in large ones.
                multiply(
                    Factors {
                        a: lower_a,
                        b: lower_b,
                    },
                    steps,
                );
                multiply(Factors { a: lower_a, b }, steps);
                multiply(Factors { a, b: lower_b }, steps);
                multiply(Factors { a, b }, steps);
                store(at.scores.add(keys), KEYS);
            }
        }
    }

    /// Row `i`'s scores to weights, and what was summed so far to the new maximum.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    unsafe fn soften(
        &self,
        s: Avx512Bf16,
        at: &Scratch,
        (part, i): (usize, usize),
        block: usize,
        query: Query,
    ) {
        // SAFETY: a row of the scratch's arrays.
        unsafe {
            let scores = at.scores.add(i * KEYS);
            let (max, sum) = (at.max.add(part + i), at.sum.add(part + i));
            // Columns of this block that the query sees.
            let from = query.low.saturating_sub(block);
            let to = (query.last + 1).saturating_sub(block).min(KEYS);
            let whole = from == 0 && to == KEYS;
            let mut x = [s.zero(); KEYS / LANES];
            let mut top = s.splat(*max);
            for (c, x) in x.iter_mut().enumerate() {
                *x = s.load(scores.add(c * LANES));
                if let Some(cap) = self.softcap {
                    *x = softcap(s, *x, cap);
                }
                if !whole {
                    let bits = |n: usize| (1u32 << n.saturating_sub(c * LANES).min(LANES)) - 1;
                    let seen = (bits(to) & !bits(from)) as __mmask16;
                    *x = _mm512_mask_mov_ps(s.splat(f32::NEG_INFINITY), seen, *x);
                }
                top = s.max(*x, top);
            }
            let top = s.max_lane(top);
            let shrink = first_lane(s, exp(s, s.splat(*max - top)));
            *max = top;
            let top = s.splat(top);
            let mut total = s.zero();
            let tile = at.weights.add(i / 16 * (KEYS / 32) * TILE + i % 16 * 64);
            for (c, pair) in x.as_chunks::<2>().0.iter().enumerate() {
                // No `map`: its closure would not get this function's instructions.
                let e = [exp(s, s.sub(pair[0], top)), exp(s, s.sub(pair[1], top))];
                total = s.add(total, s.add(e[0], e[1]));
                let pair = halves(e);
                let line = tile.add(c * TILE);
                _mm512_storeu_si512(line.cast(), pair[0]);
                _mm512_storeu_si512(line.add(ROWS * KEYS * 2).cast(), pair[1]);
            }
            *sum = *sum * shrink + s.sum(total);
            if shrink != 1.0 {
                let pad = pad_tiles(self.dim);
                let by = s.splat(shrink);
                for d in (0..pad).step_by(LANES) {
                    let y = at.outputs.add((part + i) * pad + d);
                    s.store(y, s.mul(s.load(y), by));
                }
            }
        }
    }

    /// Adds the weighted values to the outputs of ROWS queries.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    unsafe fn weigh(&self, at: &Scratch, part: usize, pad: usize, steps: usize) {
        const STEPS: usize = KEYS / 32;
        let a = at.weights.cast_const();
        let a = [a, a.wrapping_add(STEPS * TILE)];
        let lower_a = a.map(|a| a.wrapping_add(ROWS * KEYS * 2));
        for d in (0..pad).step_by(32) {
            let b = at.values.wrapping_add(d / 16 * STEPS * TILE).cast_const();
            let b = [b, b.wrapping_add(STEPS * TILE)];
            let lower_b = b.map(|b| b.wrapping_add(KEYS * pad * 2));
            let y = at.outputs.wrapping_add(part * pad + d);
            // SAFETY: tiles of the scratch.
            unsafe {
                load(y, pad);
                multiply(Factors { a: lower_a, b }, steps);
                multiply(Factors { a, b: lower_b }, steps);
                multiply(Factors { a, b }, steps);
                store(y, pad);
            }
        }
    }
}

/// A row without a query weighs nothing.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
unsafe fn clear_weights(at: &Scratch, i: usize) {
    let line = at
        .weights
        .wrapping_add(i / 16 * (KEYS / 32) * TILE + i % 16 * 64);
    for c in 0..KEYS / 32 {
        // SAFETY: lines of the scratch's tiles.
        unsafe {
            let line = line.add(c * TILE);
            _mm512_storeu_si512(line.cast(), _mm512_setzero_si512());
            _mm512_storeu_si512(line.add(ROWS * KEYS * 2).cast(), _mm512_setzero_si512());
        }
    }
}

#[inline(always)]
fn first_lane(s: Avx512Bf16, v: __m512) -> f32 {
    s.to_array(v)[0]
}
