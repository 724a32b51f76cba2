//! Products of f32 or bf16 activations with stacked f32, f16 or bf16 panels: those of
//! [`super::matmul_f32`] and [`super::matmul_bf16`], with rows gathered by part.

use super::experts::{Experts, Item, Tile};
use super::layout::pad_k;
use super::matmul::PackAs;
#[cfg(target_arch = "x86_64")]
use super::matmul_bf16;
use super::matmul_f32::{self, Bf16, F16, F32, Weights};
use super::plumbing::{Result, Step};
use super::simd::{Body, Simd};
#[cfg(target_arch = "x86_64")]
use super::x86::Avx512Bf16;
use hal::cpu::TaskCtx;
use std::marker::PhantomData;

/// f32 activations.
struct Packed<W> {
    job: Experts,
    pairs: usize,
    /// Whether the bucket has a single row.
    single: bool,
    weights: PhantomData<W>,
}

/// Runs `$tile` over the uses of an item with as many of them at a time as `$m`
/// lists, largest first.
macro_rules! in_tiles {
    ($entries:expr, [$($m:literal),+], |$some:ident: $n:ident| $tile:expr) => {
        let mut entries: &[u32] = $entries;
        $(
            while let Some(($some, rest)) = entries.split_first_chunk::<$m>() {
                const $n: usize = $m;
                $tile;
                entries = rest;
            }
        )+
    };
}

impl<W: Weights> Body for Packed<W> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, ctx: &TaskCtx) {
        let rows = self.job.rows();
        let a = self.job.packed(s, ctx, rows).cast::<f32>();
        let uses = self.job.uses(ctx, rows);
        for item in self.job.items(ctx, rows, uses) {
            for t in self.job.tiles(&item) {
                // SAFETY: `pairs` pairs lie in the panels and in each packed row;
                // uses of this item.
                unsafe {
                    match self.single {
                        true => self.single(s, a, &item, &t),
                        false => self.several(s, a, &item, &t),
                    }
                }
            }
        }
    }
}

impl<W: Weights> Packed<W> {
    /// Address of a use's packed row.
    #[inline(always)]
    fn row(&self, a: *const f32, entry: u32) -> *const f32 {
        a.wrapping_add(self.job.packed_row(entry) * pad_k(self.job.k()))
    }

    /// # Safety
    /// `pairs` pairs lie in the tile's panels and in the packed row of each use.
    #[inline(always)]
    unsafe fn single<S: Simd>(&self, s: S, a: *const f32, item: &Item<'_>, t: &Tile) {
        for &entry in item.entries {
            let mut c = [s.zero(); 2];
            // SAFETY: as the caller promises.
            unsafe {
                for (c, panel) in c.iter_mut().zip(t.panels).take(t.count) {
                    *c = matmul_f32::dot::<W, S>(s, self.row(a, entry), panel, self.pairs);
                }
                self.job.put(s, entry, t, c);
            }
        }
    }

    /// # Safety
    /// As [`Packed::single`].
    #[inline(always)]
    unsafe fn several<S: Simd>(&self, s: S, a: *const f32, item: &Item<'_>, t: &Tile) {
        // SAFETY: as the caller promises.
        unsafe {
            if S::WIDE {
                in_tiles!(item.entries, [8, 4, 2, 1], |some: M| self
                    .tile::<S, M>(s, a, some, t));
            } else {
                in_tiles!(item.entries, [2, 1], |some: M| self
                    .tile::<S, M>(s, a, some, t));
            }
        }
    }

    /// # Safety
    /// As [`Packed::single`].
    #[inline(always)]
    unsafe fn tile<S: Simd, const M: usize>(
        &self,
        s: S,
        a: *const f32,
        entries: &[u32; M],
        t: &Tile,
    ) {
        // SAFETY: as the caller promises.
        unsafe {
            let rows = entries.map(|entry| self.row(a, entry));
            let sums = matmul_f32::tile::<W, S, M>(s, rows, t.panels, self.pairs);
            for (entry, c) in entries.iter().zip(sums) {
                self.job.put(s, *entry, t, c);
            }
        }
    }
}

fn record<W: Weights>(step: &mut Step<'_>) -> Result<()> {
    let single = step.problem.rows.max == 1;
    let job = Experts::of(step, PackAs::F32, 0)?;
    let pairs = job.k().div_ceil(2);
    step.body(Packed {
        job,
        pairs,
        single,
        weights: PhantomData::<W>,
    })
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

/// bf16 activations, by VDPBF16PS.
#[cfg(target_arch = "x86_64")]
struct Dot {
    job: Experts,
    single: bool,
}

#[cfg(target_arch = "x86_64")]
impl Dot {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    unsafe fn run(&self, ctx: &TaskCtx) {
        // SAFETY: the caller has seen the features.
        let s = unsafe { Avx512Bf16::new() };
        let rows = self.job.rows();
        let a = self.job.packed(s, ctx, rows).cast::<u32>();
        let uses = self.job.uses(ctx, rows);
        let count = pad_k(self.job.k()) / 2;
        let row = |entry: u32| a.wrapping_add(self.job.packed_row(entry) * count);
        for item in self.job.items(ctx, rows, uses) {
            for t in self.job.tiles(&item) {
                // SAFETY: `count` pairs, a multiple of 16, lie in the panels and in
                // each packed row; uses of this item.
                unsafe {
                    if self.single {
                        for &entry in item.entries {
                            let mut c = [s.zero(); 2];
                            for (c, panel) in c.iter_mut().zip(t.panels).take(t.count) {
                                *c = matmul_bf16::dot_row(row(entry), panel, count);
                            }
                            self.job.put(s, entry, &t, c);
                        }
                        continue;
                    }
                    in_tiles!(item.entries, [8, 4, 2, 1], |some: M| {
                        let sums = matmul_bf16::dots::<M>(some.map(row), t.panels, count);
                        for (entry, c) in some.iter().zip(sums) {
                            self.job.put(s, *entry, &t, c);
                        }
                    });
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub fn record_dot(step: &mut Step<'_>) -> Result<()> {
    let body = Dot {
        single: step.problem.rows.max == 1,
        job: Experts::of(step, PackAs::Bf16, 0)?,
    };
    // SAFETY: `fits` asked for avx512bf16.
    step.task(move |ctx| unsafe { body.run(ctx) })
}
