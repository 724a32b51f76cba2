//! [`Simd`] with NEON: a vector is four registers of 32, so tiles are those of
//! AVX2, which has half as many registers of twice the width.

use super::intrinsics::{intrinsics, memory_intrinsics};
use super::simd::{Body, LANES, Simd};
use hal::cpu::TaskCtx;
use std::arch::aarch64::*;
use std::arch::asm;

/// How [`Neon`] multiplies bytes: widening products, always there.
pub const PLAIN: u8 = 0;
/// SDOT: dot products of signed bytes.
pub const DOTPROD: u8 = 1;
/// USDOT: dot products of unsigned by signed bytes, and SDOT.
pub const I8MM: u8 = 2;

/// NEON with the byte products of `BYTES`.
#[derive(Clone, Copy)]
pub struct Neon<const BYTES: u8 = PLAIN>(());

impl<const BYTES: u8> Neon<BYTES> {
    /// # Safety
    /// The CPU has NEON and what `BYTES` names.
    #[inline(always)]
    pub unsafe fn new() -> Self {
        Neon(())
    }
}

pub type Four = [float32x4_t; 4];

/// One intrinsic over the four registers. Written out: closures of intrinsics
/// are not always compiled into their caller.
macro_rules! four {
    ($f:expr, $($a:expr),+) => {
        [$f($($a[0]),+), $f($($a[1]),+), $f($($a[2]),+), $f($($a[3]),+)]
    };
}
pub(crate) use four;

#[inline]
#[target_feature(enable = "neon")]
fn larger(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    vbslq_f32(vcgtq_f32(a, b), a, b)
}

#[inline]
#[target_feature(enable = "neon")]
fn smaller(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    vbslq_f32(vcltq_f32(a, b), a, b)
}

#[inline]
#[target_feature(enable = "neon")]
fn power(n: float32x4_t) -> float32x4_t {
    let exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
    vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent))
}

#[inline]
#[target_feature(enable = "neon")]
fn choose(a: float32x4_t, b: float32x4_t, yes: float32x4_t, no: float32x4_t) -> float32x4_t {
    vbslq_f32(vcleq_f32(a, b), yes, no)
}

/// Lanes 8 and 4 apart.
#[inline]
#[target_feature(enable = "neon")]
fn fold4(a: Four) -> float32x4_t {
    vaddq_f32(vaddq_f32(a[0], a[2]), vaddq_f32(a[1], a[3]))
}

/// Lanes 2 apart: two sums of x, then two of y.
#[inline]
#[target_feature(enable = "neon")]
fn sums2(x: float32x4_t, y: float32x4_t) -> float32x4_t {
    let (x, y) = (vreinterpretq_f64_f32(x), vreinterpretq_f64_f32(y));
    let low = vreinterpretq_f32_f64(vzip1q_f64(x, y));
    vaddq_f32(low, vreinterpretq_f32_f64(vzip2q_f64(x, y)))
}

/// Lane i is the sum of the lanes of `a[i]`.
#[inline]
#[target_feature(enable = "neon")]
fn sums4(a: [Four; 4]) -> float32x4_t {
    let (ab, cd) = (
        sums2(fold4(a[0]), fold4(a[1])),
        sums2(fold4(a[2]), fold4(a[3])),
    );
    vpaddq_f32(ab, cd)
}

/// Rounds to bf16, to nearest even, in the low half of each lane.
#[inline]
#[target_feature(enable = "neon")]
fn round_bf16(v: float32x4_t) -> uint32x4_t {
    let bits = vreinterpretq_u32_f32(v);
    let high = vshrq_n_u32::<16>(bits);
    let bias = vaddq_u32(vandq_u32(high, vdupq_n_u32(1)), vdupq_n_u32(0x7fff));
    let rounded = vshrq_n_u32::<16>(vaddq_u32(bits, bias));
    // The carry must not turn a NaN into something else.
    vbslq_u32(vceqq_f32(v, v), rounded, vorrq_u32(high, vdupq_n_u32(0x40)))
}

#[inline]
#[target_feature(enable = "neon")]
fn pack_words(low: uint32x4_t, high: uint32x4_t) -> uint16x8_t {
    vmovn_high_u32(vmovn_u32(low), high)
}

/// The first and the second bf16 of each lane.
#[inline]
#[target_feature(enable = "neon")]
fn first_half(a: uint32x4_t) -> float32x4_t {
    vreinterpretq_f32_u32(vshlq_n_u32::<16>(a))
}

#[inline]
#[target_feature(enable = "neon")]
fn second_half(a: uint32x4_t) -> float32x4_t {
    vreinterpretq_f32_u32(vandq_u32(a, vdupq_n_u32(0xffff_0000)))
}

/// Eight bf16 as f32: zeros below.
#[inline]
#[target_feature(enable = "neon")]
fn widen_bf16(h: uint16x8_t) -> [float32x4_t; 2] {
    let zero = vdupq_n_u16(0);
    [
        vreinterpretq_f32_u16(vzip1q_u16(zero, h)),
        vreinterpretq_f32_u16(vzip2q_u16(zero, h)),
    ]
}

/// Eight halves as f32. The intrinsics came to Rust later than the instructions'
/// names.
#[inline]
#[target_feature(enable = "neon")]
fn widen_f16(h: uint16x8_t) -> [float32x4_t; 2] {
    let (low, high): (float32x4_t, float32x4_t);
    // SAFETY: base NEON, from registers to registers.
    unsafe {
        asm!(
            "fcvtl {low:v}.4s, {h:v}.4h",
            "fcvtl2 {high:v}.4s, {h:v}.8h",
            low = out(vreg) low,
            high = lateout(vreg) high,
            h = in(vreg) h,
            options(pure, nomem, nostack),
        );
    }
    [low, high]
}

/// Rounds to halves, to nearest even: the mode that Rust code runs in.
#[inline]
#[target_feature(enable = "neon")]
fn round_f16(low: float32x4_t, high: float32x4_t) -> uint16x8_t {
    let h: uint16x8_t;
    // SAFETY: base NEON, from registers to registers.
    unsafe {
        asm!(
            "fcvtn {h:v}.4h, {low:v}.4s",
            "fcvtn2 {h:v}.8h, {high:v}.4s",
            h = out(vreg) h,
            low = in(vreg) low,
            high = in(vreg) high,
            options(pure, nomem, nostack),
        );
    }
    h
}

/// 64 bytes of f32.
#[inline(always)]
unsafe fn read_f32(p: *const f32) -> Four {
    // SAFETY: as the caller promises.
    unsafe {
        [
            vld1q_f32(p),
            vld1q_f32(p.add(4)),
            vld1q_f32(p.add(8)),
            vld1q_f32(p.add(12)),
        ]
    }
}

#[inline(always)]
unsafe fn write_f32(p: *mut f32, v: Four) {
    // SAFETY: as the caller promises.
    unsafe {
        vst1q_f32(p, v[0]);
        vst1q_f32(p.add(4), v[1]);
        vst1q_f32(p.add(8), v[2]);
        vst1q_f32(p.add(12), v[3]);
    }
}

/// Sixteen 16-bit numbers.
#[inline(always)]
unsafe fn read_u16(p: *const u16) -> [uint16x8_t; 2] {
    // SAFETY: as the caller promises.
    unsafe { [vld1q_u16(p), vld1q_u16(p.add(8))] }
}

#[inline(always)]
unsafe fn write_u16(p: *mut u16, v: [uint16x8_t; 2]) {
    // SAFETY: as the caller promises.
    unsafe {
        vst1q_u16(p, v[0]);
        vst1q_u16(p.add(8), v[1]);
    }
}

impl<const BYTES: u8> Simd for Neon<BYTES> {
    type V = Four;
    const WIDE: bool = false;

    intrinsics! {
        splat(x: f32) -> Four { [vdupq_n_f32(x); 4] }
        add(a: Four, b: Four) -> Four { four!(vaddq_f32, a, b) }
        sub(a: Four, b: Four) -> Four { four!(vsubq_f32, a, b) }
        mul(a: Four, b: Four) -> Four { four!(vmulq_f32, a, b) }
        div(a: Four, b: Four) -> Four { four!(vdivq_f32, a, b) }
        fma(a: Four, b: Four, c: Four) -> Four { four!(vfmaq_f32, c, a, b) }
        max(a: Four, b: Four) -> Four { four!(larger, a, b) }
        min(a: Four, b: Four) -> Four { four!(smaller, a, b) }
        pow2(n: Four) -> Four { four!(power, n) }
        select_le(a: Four, b: Four, yes: Four, no: Four) -> Four {
            four!(choose, a, b, yes, no)
        }
        sum(a: Four) -> f32 {
            let four = fold4(a);
            vaddv_f32(vadd_f32(vget_low_f32(four), vget_high_f32(four)))
        }
        to_array(a: Four) -> [f32; LANES] {
            let mut out = [0f32; LANES];
            write_f32(out.as_mut_ptr(), a);
            out
        }
        max_lane(a: Four) -> f32 {
            let (x, y) = (vmaxnmq_f32(a[0], a[1]), vmaxnmq_f32(a[2], a[3]));
            vmaxnmvq_f32(vmaxnmq_f32(x, y))
        }
        sums(a: [Four; LANES]) -> Four {
            let [a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, aa, ab, ac, ad, ae, af] = a;
            [
                sums4([a0, a1, a2, a3]),
                sums4([a4, a5, a6, a7]),
                sums4([a8, a9, aa, ab]),
                sums4([ac, ad, ae, af]),
            ]
        }
    }

    memory_intrinsics! {
        load(p: *const f32) -> Four { read_f32(p) }
        store(p: *mut f32, v: Four) { write_f32(p, v) }
        load_f16(p: *const u16) -> Four {
            let [low, high] = read_u16(p);
            let ([a, b], [c, d]) = (widen_f16(low), widen_f16(high));
            [a, b, c, d]
        }
        store_f16(p: *mut u16, v: Four) {
            write_u16(p, [round_f16(v[0], v[1]), round_f16(v[2], v[3])])
        }
        load_bf16(p: *const u16) -> Four {
            let [low, high] = read_u16(p);
            let ([a, b], [c, d]) = (widen_bf16(low), widen_bf16(high));
            [a, b, c, d]
        }
        store_bf16(p: *mut u16, v: Four) {
            let [a, b, c, d] = four!(round_bf16, v);
            write_u16(p, [pack_words(a, b), pack_words(c, d)])
        }
        load_bf16_pairs(p: *const u16) -> (Four, Four) {
            let pairs = read_f32(p.cast());
            let pairs = four!(vreinterpretq_u32_f32, pairs);
            (four!(first_half, pairs), four!(second_half, pairs))
        }
        load_i8(p: *const u8) -> Four {
            let bytes = vld1q_s8(p.cast());
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            let words = [
                vmovl_s16(vget_low_s16(low)),
                vmovl_high_s16(low),
                vmovl_s16(vget_low_s16(high)),
                vmovl_high_s16(high),
            ];
            four!(vcvtq_f32_s32, words)
        }
        store_i8(p: *mut u8, v: Four) {
            let [a, b, c, d] = four!(vcvtnq_s32_f32, v);
            let low = vqmovn_high_s32(vqmovn_s32(a), b);
            let high = vqmovn_high_s32(vqmovn_s32(c), d);
            vst1q_s8(p.cast(), vqmovn_high_s16(vqmovn_s16(low), high))
        }
        prefetch(p: *const u8) {
            // A hint: it reads nothing and cannot fault.
            asm!(
                "prfm pldl1keep, [{p}]",
                p = in(reg) p,
                options(readonly, nostack, preserves_flags),
            )
        }
    }
}

/// # Safety
/// The CPU has NEON.
#[target_feature(enable = "neon")]
pub unsafe fn run_neon<B: Body>(body: &B, ctx: &TaskCtx) {
    // SAFETY: as the caller promises.
    body.run(unsafe { Neon::<PLAIN>::new() }, ctx);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::agrees;
    use crate::common::simd::Portable;

    #[test]
    fn neon_gives_the_portable_bits() {
        assert!(hal::cpu::detect() >= hal::cpu::IsaLevel::Neon);
        // SAFETY: the CPU has NEON.
        let s = unsafe { Neon::<PLAIN>::new() };
        agrees::lanes(s);
        // Sums of sixteen vectors, too, are in the portable order here.
        let (ours, portable) = (agrees::sums(s), agrees::sums(Portable));
        assert_eq!(ours, portable);
    }
}
