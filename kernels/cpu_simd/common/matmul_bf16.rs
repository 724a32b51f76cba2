//! Products of bf16 activations with bf16 panels by VDPBF16PS. Sums are f32;
//! subnormal numbers count as zero.

use super::matmul::{Group, Job, PackAs};
use super::matmul_f32::PREFETCH;
use super::matmul_sink::Sink;
use super::plumbing::{Result, Step};
use super::x86::Avx512Bf16;
use hal::cpu::TaskCtx;
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
        let a = std::array::from_fn(|m| a.wrapping_add((row + m) * stride));
        let w = [self.job.panel(group, 0), self.job.panel(group, 1)];
        // SAFETY: kpad/2 pairs lie in both panels (the same one twice if the
        // group has one) and in M packed rows.
        unsafe {
            for (m, c) in dots::<M>(a, w, stride).into_iter().enumerate() {
                sink.put(s, row + m, c);
            }
        }
    }
}

/// M packed rows times two panels, one sum over K for each output.
///
/// # Safety
/// `count` pairs lie in both panels and in each row.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub unsafe fn dots<const M: usize>(
    a: [*const u32; M],
    w: [*const u8; 2],
    count: usize,
) -> [[__m512; 2]; M] {
    let mut acc = [[_mm512_setzero_ps(); 2]; M];
    // SAFETY: as the caller promises.
    unsafe {
        for kp in 0..count {
            let w0 = pairs(w[0].add(kp * 64));
            let w1 = pairs(w[1].add(kp * 64));
            for (a, acc) in a.into_iter().zip(&mut acc) {
                let x = broadcast(a.add(kp));
                acc[0] = _mm512_dpbf16_ps(acc[0], w0, x);
                acc[1] = _mm512_dpbf16_ps(acc[1], w1, x);
            }
        }
    }
    acc
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
///
/// # Safety
/// `count`, a multiple of 16, pairs lie in the row and the panel.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub unsafe fn dot_row(a: *const u32, w: *const u8, count: usize) -> __m512 {
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
