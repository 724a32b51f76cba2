//! Products with f32 activations and f32, f16 or bf16 panels, on any
//! instruction set.

use super::matmul::{Group, Job, PackAs};
use super::matmul_sink::Sink;
use super::plumbing::{Result, Step};
use super::simd::{Body, Simd};
use hal::cpu::TaskCtx;
use std::marker::PhantomData;
use std::ops::Range;

/// How a panel keeps two neighbours of K for its 16 rows.
pub trait Weights: Send + Sync + 'static {
    /// Bytes of such a pair.
    const BYTES: usize;

    /// # Safety
    /// `BYTES` readable bytes.
    unsafe fn pair<S: Simd>(s: S, p: *const u8) -> (S::V, S::V);
}

pub struct F32;
pub struct F16;
pub struct Bf16;

impl Weights for F32 {
    const BYTES: usize = 128;
    #[inline(always)]
    unsafe fn pair<S: Simd>(s: S, p: *const u8) -> (S::V, S::V) {
        // SAFETY: as the caller promises.
        unsafe { (s.load(p.cast()), s.load(p.add(64).cast())) }
    }
}

impl Weights for F16 {
    const BYTES: usize = 64;
    #[inline(always)]
    unsafe fn pair<S: Simd>(s: S, p: *const u8) -> (S::V, S::V) {
        // SAFETY: as the caller promises.
        unsafe { (s.load_f16(p.cast()), s.load_f16(p.add(32).cast())) }
    }
}

impl Weights for Bf16 {
    const BYTES: usize = 64;
    #[inline(always)]
    unsafe fn pair<S: Simd>(s: S, p: *const u8) -> (S::V, S::V) {
        // SAFETY: as the caller promises.
        unsafe { s.load_bf16_pairs(p.cast()) }
    }
}

/// Bytes ahead of the stream of weights that are fetched early.
pub const PREFETCH: usize = 2048;

/// One row: a panel at a time, because weights then stream from memory in
/// order, in four sums over K so that no chain of additions waits for itself.
struct Gemv<W> {
    job: Job,
    pairs: usize,
    weights: PhantomData<W>,
}

impl<W: Weights> Body for Gemv<W> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, ctx: &TaskCtx) {
        let rows = self.job.rows();
        let a = self.job.packed(s, ctx, rows).cast::<f32>();
        for (range, group) in self.job.items(ctx, rows) {
            let sink = self.job.sink(s, group);
            for row in range {
                let mut c = [s.zero(); 2];
                // SAFETY: `pairs` pairs lie in each panel and the packed row;
                // outputs are this thread's own.
                unsafe {
                    let a = a.add(row * self.job.kpad);
                    for (i, c) in c.iter_mut().enumerate().take(group.count) {
                        *c = dot::<W, S>(s, a, self.job.panel(group, i), self.pairs);
                    }
                    sink.put(s, row, c);
                }
            }
        }
    }
}

/// A row times the 16 rows of a panel, in four sums over K.
///
/// # Safety
/// `pairs` pairs lie in the panel and the packed row.
#[inline(always)]
pub unsafe fn dot<W: Weights, S: Simd>(s: S, a: *const f32, w: *const u8, pairs: usize) -> S::V {
    let mut acc = [s.zero(); 4];
    let mut kp = 0;
    // SAFETY: as the caller promises.
    unsafe {
        while kp + 2 <= pairs {
            for j in 0..2 {
                let at = w.add((kp + j) * W::BYTES);
                s.prefetch(at.wrapping_add(PREFETCH));
                let (even, odd) = W::pair(s, at);
                let a = a.add(2 * (kp + j));
                acc[2 * j] = s.fma(s.splat(*a), even, acc[2 * j]);
                acc[2 * j + 1] = s.fma(s.splat(*a.add(1)), odd, acc[2 * j + 1]);
            }
            kp += 2;
        }
        if kp < pairs {
            let (even, odd) = W::pair(s, w.add(kp * W::BYTES));
            let a = a.add(2 * kp);
            acc[0] = s.fma(s.splat(*a), even, acc[0]);
            acc[1] = s.fma(s.splat(*a.add(1)), odd, acc[1]);
        }
    }
    s.add(s.add(acc[0], acc[2]), s.add(acc[1], acc[3]))
}

/// Several rows: tiles of 8 rows by 2 panels in registers (2 by 2 where there
/// are 16 of them), one sum over K for each output.
struct Gemm<W> {
    job: Job,
    pairs: usize,
    weights: PhantomData<W>,
}

impl<W: Weights> Body for Gemm<W> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, ctx: &TaskCtx) {
        let rows = self.job.rows();
        let a = self.job.packed(s, ctx, rows).cast::<f32>();
        for (range, group) in self.job.items(ctx, rows) {
            let sink = self.job.sink(s, group);
            let Range {
                start: mut row,
                end,
            } = range;
            // SAFETY: rows of the packed activations; outputs are this
            // thread's own.
            unsafe {
                if S::WIDE {
                    while end - row >= 8 {
                        self.tile::<S, 8>(s, a, row, group, &sink);
                        row += 8;
                    }
                    if end - row >= 4 {
                        self.tile::<S, 4>(s, a, row, group, &sink);
                        row += 4;
                    }
                }
                while end - row >= 2 {
                    self.tile::<S, 2>(s, a, row, group, &sink);
                    row += 2;
                }
                if end > row {
                    self.tile::<S, 1>(s, a, row, group, &sink);
                }
            }
        }
    }
}

impl<W: Weights> Gemm<W> {
    #[inline(always)]
    unsafe fn tile<S: Simd, const M: usize>(
        &self,
        s: S,
        a: *const f32,
        row: usize,
        group: &Group,
        sink: &Sink<S>,
    ) {
        let a = std::array::from_fn(|m| a.wrapping_add((row + m) * self.job.kpad));
        let w = [self.job.panel(group, 0), self.job.panel(group, 1)];
        // SAFETY: `pairs` pairs lie in both panels (the same one twice if the
        // group has one) and in M packed rows.
        unsafe {
            let acc = tile::<W, S, M>(s, a, w, self.pairs);
            for (m, c) in acc.into_iter().enumerate() {
                sink.put(s, row + m, c);
            }
        }
    }
}

/// M packed rows times two panels, one sum over K for each output.
///
/// # Safety
/// `pairs` pairs lie in both panels and in each row.
#[inline(always)]
pub unsafe fn tile<W: Weights, S: Simd, const M: usize>(
    s: S,
    a: [*const f32; M],
    w: [*const u8; 2],
    pairs: usize,
) -> [[S::V; 2]; M] {
    let mut acc = [[s.zero(); 2]; M];
    // SAFETY: as the caller promises.
    unsafe {
        for kp in 0..pairs {
            let (e0, o0) = W::pair(s, w[0].add(kp * W::BYTES));
            let (e1, o1) = W::pair(s, w[1].add(kp * W::BYTES));
            for (a, acc) in a.into_iter().zip(&mut acc) {
                let a = a.add(2 * kp);
                let (x, y) = (s.splat(*a), s.splat(*a.add(1)));
                acc[0] = s.fma(x, e0, acc[0]);
                acc[1] = s.fma(x, e1, acc[1]);
                acc[0] = s.fma(y, o0, acc[0]);
                acc[1] = s.fma(y, o1, acc[1]);
            }
        }
    }
    acc
}

fn record<W: Weights>(step: &mut Step<'_>) -> Result<()> {
    let job = Job::of(step, PackAs::F32)?;
    let pairs = job.k().div_ceil(2);
    let weights = PhantomData::<W>;
    if step.problem.rows.max == 1 {
        step.body(Gemv {
            job,
            pairs,
            weights,
        })
    } else {
        step.body(Gemm {
            job,
            pairs,
            weights,
        })
    }
}

pub fn record_f32(step: &mut Step<'_>) -> Result<()> {
    record::<F32>(step)
}

pub fn record_f16(step: &mut Step<'_>) -> Result<()> {
    record::<F16>(step)
}

pub fn record_bf16(step: &mut Step<'_>) -> Result<()> {
    record::<Bf16>(step)
}
