//! Products of bf16 activations with bf16 panels: VDPBF16PS and AMX tiles. Both
//! sum in f32 and treat subnormal numbers as zero.

use super::matmul::{Group, Job, PackAs, Sink};
use super::matmul_f32::PREFETCH;
use super::plumbing::{Result, Step};
use super::x86::Avx512Bf16;
use hal::cpu::TaskCtx;
use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

/// VDPBF16PS: a panel vector is a k pair of 16 rows, the activations' pair is
/// broadcast.
struct Dot {
    job: Job,
    /// Whether the bucket has a single row.
    single: bool,
}

impl Dot {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    unsafe fn run(&self, ctx: &TaskCtx) {
        // SAFETY: the caller has seen the features.
        let s = unsafe { Avx512Bf16::new() };
        let rows = self.job.rows();
        let a = self.job.packed(s, ctx, rows).cast::<u32>();
        let stride = self.job.kpad / 2;
        for (range, group) in self.job.items(ctx, rows) {
            let sink = self.job.sink(s, group);
            let Range {
                start: mut row,
                end,
            } = range;
            // SAFETY: rows of the packed activations; outputs are this
            // thread's own.
            unsafe {
                if self.single {
                    let mut c = [_mm512_setzero_ps(); 2];
                    for (i, c) in c.iter_mut().enumerate().take(group.count) {
                        *c = dot_row(a.add(row * stride), self.job.panel(group, i), stride);
                    }
                    sink.put(s, row, c);
                    continue;
                }
                while end - row >= 8 {
                    self.tile::<8>(s, a, row, group, &sink);
                    row += 8;
                }
                if end - row >= 4 {
                    self.tile::<4>(s, a, row, group, &sink);
                    row += 4;
                }
                if end - row >= 2 {
                    self.tile::<2>(s, a, row, group, &sink);
                    row += 2;
                }
                if end > row {
                    self.tile::<1>(s, a, row, group, &sink);
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    unsafe fn tile<const M: usize>(
        &self,
        s: Avx512Bf16,
        a: *const u32,
        row: usize,
        group: &Group,
        sink: &Sink<Avx512Bf16>,
    ) {
        let stride = self.job.kpad / 2;
        let a = a.wrapping_add(row * stride);
        let w = [self.job.panel(group, 0), self.job.panel(group, 1)];
        let mut acc = [[_mm512_setzero_ps(); 2]; M];
        // SAFETY: kpad/2 pairs lie in both panels (the same one twice if the
        // group has one) and in M packed rows.
        unsafe {
            for kp in 0..stride {
                let w0 = pairs(w[0].add(kp * 64));
                let w1 = pairs(w[1].add(kp * 64));
                for (m, acc) in acc.iter_mut().enumerate() {
                    let x = broadcast(a.add(m * stride + kp));
                    acc[0] = _mm512_dpbf16_ps(acc[0], w0, x);
                    acc[1] = _mm512_dpbf16_ps(acc[1], w1, x);
                }
            }
            for (m, c) in acc.into_iter().enumerate() {
                sink.put(s, row + m, c);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn pairs(p: *const u8) -> __m512bh {
    // SAFETY: 64 readable bytes; both types are 512 plain bits.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(p.cast())) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn broadcast(p: *const u32) -> __m512bh {
    // SAFETY: a readable pair; both types are 512 plain bits.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(*p as i32)) }
}

/// One row and panel, in four sums over K.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn dot_row(a: *const u32, w: *const u8, count: usize) -> __m512 {
    let mut acc = [_mm512_setzero_ps(); 4];
    // SAFETY: `count`, a multiple of 16, pairs lie in the row and the panel.
    unsafe {
        for kp in (0..count).step_by(4) {
            for (j, acc) in acc.iter_mut().enumerate() {
                let at = w.add((kp + j) * 64);
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(PREFETCH).cast());
                *acc = _mm512_dpbf16_ps(*acc, pairs(at), broadcast(a.add(kp + j)));
            }
        }
    }
    _mm512_add_ps(_mm512_add_ps(acc[0], acc[1]), _mm512_add_ps(acc[2], acc[3]))
}

pub fn record_dot(step: &mut Step<'_>) -> Result<()> {
    let body = Dot {
        job: Job::of(step, PackAs::Bf16)?,
        single: step.problem.rows.max == 1,
    };
    // SAFETY: `fits` asked for avx512bf16.
    step.task(move |ctx| unsafe { body.run(ctx) })
}

/// AMX: 32 rows by 32 columns in four tiles of sums, K in steps of 32.
struct Tiles {
    job: Job,
}

/// Tile configuration, palette 1: eight tiles of 16 rows by 64 bytes.
#[repr(C, align(64))]
struct TileConfig([u8; 64]);

const CONFIG: TileConfig = {
    let mut c = [0u8; 64];
    c[0] = 1;
    let mut i = 0;
    while i < 8 {
        c[16 + 2 * i] = 64;
        c[48 + i] = 16;
        i += 1;
    }
    TileConfig(c)
};

/// Four 16 × 16 tiles of sums: (rows 0–15, panel 0), (0–15, 1), (16–31, 0),
/// (16–31, 1).
#[repr(C, align(64))]
struct Sums([[[f32; 16]; 16]; 4]);

impl Tiles {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    unsafe fn run(&self, ctx: &TaskCtx) {
        // SAFETY: the caller has seen the features.
        let s = unsafe { Avx512Bf16::new() };
        let rows = self.job.rows();
        let a = self.job.packed(s, ctx, rows);
        let steps = self.job.kpad / 32;
        let mut sums = Sums([[[0.0; 16]; 16]; 4]);
        // SAFETY: configures the tiles of this thread; the compiler uses none.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &CONFIG, options(nostack, readonly)) };
        for (range, group) in self.job.items(ctx, rows) {
            let sink = self.job.sink(s, group);
            let b = [self.job.panel(group, 0), self.job.panel(group, 1)];
            for first in range.clone().step_by(32) {
                let a0 = a.wrapping_add(first / 16 * steps * 1024);
                let left = range.end - first;
                // SAFETY: `steps` tiles of 1 KiB lie at all four addresses (the
                // scratch holds whole blocks of 32 rows), and `sums` takes four
                // tiles; the outputs are this thread's own.
                unsafe {
                    if left > 16 {
                        let a1 = a0.wrapping_add(steps * 1024);
                        product([a0, a1], b, steps, &mut sums);
                    } else {
                        narrow_product(a0, b, steps, &mut sums);
                    }
                    for m in 0..left.min(32) {
                        let tile = m / 16 * 2;
                        let c = [
                            _mm512_load_ps(sums.0[tile][m % 16].as_ptr()),
                            _mm512_load_ps(sums.0[tile + 1][m % 16].as_ptr()),
                        ];
                        sink.put(s, first + m, c);
                    }
                }
            }
        }
        // SAFETY: back to the initial state, which is cheap to switch.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Calls for the sixteen lines of the tile that lies `$ahead` bytes after `$at`.
macro_rules! prefetch_tile {
    ($at:literal, $ahead:literal) => {
        concat!(
            ".irp line, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n",
            "prefetcht0 [",
            $at,
            " + ",
            $ahead,
            " + 64*\\line]\n",
            ".endr"
        )
    };
}

/// 32 rows by two panels, which the first block of rows finds far away.
///
/// # Safety
/// Tiles are configured; `steps` ≥ 1 tiles of 1 KiB are readable at each address.
#[inline(always)]
unsafe fn product(a: [*const u8; 2], b: [*const u8; 2], steps: usize, sums: &mut Sums) {
    // SAFETY: reads and writes only what the caller vouches for; every tile
    // register is declared.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{a0} + {stride}*1]",
            "tileloadd tmm6, [{b0} + {stride}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b1} + {stride}*1]",
            prefetch_tile!("{b0}", "2048"),
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a1} + {stride}*1]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            prefetch_tile!("{b1}", "2048"),
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a0}, 1024",
            "add {a1}, 1024",
            "add {b0}, 1024",
            "add {b1}, 1024",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c} + {stride}*1], tmm0",
            "tilestored [{c} + {stride}*1 + 1024], tmm1",
            "tilestored [{c} + {stride}*1 + 2048], tmm2",
            "tilestored [{c} + {stride}*1 + 3072], tmm3",
            a0 = inout(reg) a[0] => _,
            a1 = inout(reg) a[1] => _,
            b0 = inout(reg) b[0] => _,
            b1 = inout(reg) b[1] => _,
            steps = inout(reg) steps => _,
            c = in(reg) sums,
            stride = in(reg) 64usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// 16 rows by two panels, which come from memory faster than they are used up:
/// the weights are called for early.
///
/// # Safety
/// As [`product`].
#[inline(always)]
unsafe fn narrow_product(a: *const u8, b: [*const u8; 2], steps: usize, sums: &mut Sums) {
    // SAFETY: as in `product`.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "2:",
            "tileloadd tmm4, [{a} + {stride}*1]",
            prefetch_tile!("{b0}", "2048"),
            "tileloadd tmm6, [{b0} + {stride}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            prefetch_tile!("{b1}", "2048"),
            "tileloadd tmm7, [{b1} + {stride}*1]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "add {a}, 1024",
            "add {b0}, 1024",
            "add {b1}, 1024",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c} + {stride}*1], tmm0",
            "tilestored [{c} + {stride}*1 + 1024], tmm1",
            a = inout(reg) a => _,
            b0 = inout(reg) b[0] => _,
            b1 = inout(reg) b[1] => _,
            steps = inout(reg) steps => _,
            c = in(reg) sums,
            stride = in(reg) 64usize,
            out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

pub fn record_tiles(step: &mut Step<'_>) -> Result<()> {
    let body = Tiles {
        job: Job::of(step, PackAs::Bf16Tiles)?,
    };
    // SAFETY: `fits` asked for amx, which includes AVX-512.
    step.task(move |ctx| unsafe { body.run(ctx) })
}
