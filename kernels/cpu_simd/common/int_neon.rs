//! [`IntSimd`] with NEON: widening products, SDOT, or USDOT.
//!
//! `w` has no sign and may reach 255, which only USDOT takes as it is. The
//! others multiply w − 128, a signed byte, and add 128 times the sum of the
//! activations: that part is the same for all panels of a tile, so the compiler
//! keeps it.

use super::int::{IntBody, IntSimd, field_mask};
use super::intrinsics::{intrinsics, memory_intrinsics};
use super::neon::{DOTPROD, Four, I8MM, Neon, PLAIN, four};
use hal::cpu::TaskCtx;
use std::arch::aarch64::*;
use std::arch::asm;

type Bytes = [uint8x16_t; 4];
type Ints = [int32x4_t; 4];

/// Adds to each lane the products of its four signed bytes. The intrinsic is not
/// in stable Rust yet.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot(mut acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the CPU has the instruction; it only touches registers.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {a:v}.16b, {b:v}.16b",
            acc = inlateout(vreg) acc,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

/// As [`sdot`], of bytes without a sign by bytes with one.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn usdot(mut acc: int32x4_t, a: uint8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: as above.
    unsafe {
        asm!(
            "usdot {acc:v}.4s, {a:v}.16b, {b:v}.16b",
            acc = inlateout(vreg) acc,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

/// As [`sdot`] without it. Pairs are added in i16, which holds two products of at
/// most 128 · 127.
#[inline]
#[target_feature(enable = "neon")]
fn widening_dot(acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    let low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
    vpadalq_s16(acc, vpaddq_s16(low, vmull_high_s8(a, b)))
}

/// Adds to each lane the products of its four signed bytes, of `x` none −128.
#[inline(always)]
unsafe fn signed<const BYTES: u8>(acc: int32x4_t, a: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: called with what `BYTES` names only.
    unsafe {
        match BYTES {
            PLAIN => widening_dot(acc, a, x),
            _ => sdot(acc, a, x),
        }
    }
}

/// [`IntSimd::dot`] for one register.
#[inline(always)]
unsafe fn dot<const BYTES: u8>(
    acc: int32x4_t,
    w: uint8x16_t,
    x: uint8x16_t,
    narrow: bool,
) -> int32x4_t {
    // SAFETY: called with what `BYTES` names only.
    unsafe {
        let x = vreinterpretq_s8_u8(x);
        if BYTES == I8MM {
            return usdot(acc, w, x);
        }
        if narrow {
            return signed::<BYTES>(acc, vreinterpretq_s8_u8(w), x);
        }
        let rest = if BYTES == DOTPROD {
            let half = vdupq_n_s8(64);
            sdot(sdot(vdupq_n_s32(0), half, x), half, x)
        } else {
            vshlq_n_s32::<7>(vpaddlq_s16(vpaddlq_s8(x)))
        };
        let less = vreinterpretq_s8_u8(veorq_u8(w, vdupq_n_u8(0x80)));
        vaddq_s32(signed::<BYTES>(acc, less, x), rest)
    }
}

impl<const BYTES: u8> IntSimd for Neon<BYTES> {
    type B = Bytes;
    type I = Ints;

    intrinsics! {
        splat_i32(x: i32) -> Ints { [vdupq_n_s32(x); 4] }
        to_f32(a: Ints) -> Four { four!(vcvtq_f32_s32, a) }
        dot(acc: Ints, w: Bytes, x: Bytes, narrow: bool) -> Ints {
            [
                dot::<BYTES>(acc[0], w[0], x[0], narrow),
                dot::<BYTES>(acc[1], w[1], x[1], narrow),
                dot::<BYTES>(acc[2], w[2], x[2], narrow),
                dot::<BYTES>(acc[3], w[3], x[3], narrow),
            ]
        }
        or(a: Bytes, b: Bytes) -> Bytes { four!(vorrq_u8, a, b) }
        lookup(table: &[u8; 16], index: Bytes) -> Bytes {
            let table = [vld1q_u8(table.as_ptr()); 4];
            four!(vqtbl1q_u8, table, index)
        }
    }

    #[inline(always)]
    fn field<const FROM: u32, const BITS: u32, const TO: u32>(self, a: Bytes) -> Bytes {
        // SAFETY: `self` exists only where the CPU has the instructions.
        unsafe {
            // To the left by TO − FROM, to the right where that is negative.
            let by = [vdupq_n_s8(TO as i8 - FROM as i8); 4];
            let mask = [vdupq_n_u8(field_mask(BITS, TO)); 4];
            let moved = four!(vshlq_u8, a, by);
            four!(vandq_u8, moved, mask)
        }
    }

    memory_intrinsics! {
        load_bytes(p: *const u8) -> Bytes {
            [
                vld1q_u8(p),
                vld1q_u8(p.add(16)),
                vld1q_u8(p.add(32)),
                vld1q_u8(p.add(48)),
            ]
        }
        store_bytes(p: *mut u8, v: Bytes) {
            vst1q_u8(p, v[0]);
            vst1q_u8(p.add(16), v[1]);
            vst1q_u8(p.add(32), v[2]);
            vst1q_u8(p.add(48), v[3]);
        }
        repeat(p: *const u8) -> Bytes {
            let four = vdupq_n_u32(p.cast::<u32>().read_unaligned());
            [vreinterpretq_u8_u32(four); 4]
        }
        load_u8(p: *const u8) -> Four {
            let bytes = vld1q_u8(p);
            let (low, high) = (vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes));
            let words = [
                vmovl_u16(vget_low_u16(low)),
                vmovl_high_u16(low),
                vmovl_u16(vget_low_u16(high)),
                vmovl_high_u16(high),
            ];
            four!(vcvtq_f32_u32, words)
        }
    }
}

/// # Safety
/// The CPU has NEON.
#[target_feature(enable = "neon")]
pub unsafe fn run_neon<B: IntBody>(body: &B, ctx: &TaskCtx) {
    // SAFETY: as the caller promises, here and below.
    body.run(unsafe { Neon::<PLAIN>::new() }, ctx);
}

/// # Safety
/// The CPU has NEON and its dot products of signed bytes.
#[target_feature(enable = "neon,dotprod")]
pub unsafe fn run_dotprod<B: IntBody>(body: &B, ctx: &TaskCtx) {
    // SAFETY: as above.
    body.run(unsafe { Neon::<DOTPROD>::new() }, ctx);
}

/// # Safety
/// As [`run_dotprod`], and those of unsigned by signed bytes.
#[target_feature(enable = "neon,dotprod,i8mm")]
pub unsafe fn run_i8mm<B: IntBody>(body: &B, ctx: &TaskCtx) {
    // SAFETY: as above.
    body.run(unsafe { Neon::<I8MM>::new() }, ctx);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::agrees;
    use hal::cpu::IsaLevel;

    #[test]
    fn every_instruction_set_gives_the_portable_bytes() {
        let have = hal::cpu::detect();
        // SAFETY: each is made where the CPU has its instructions.
        unsafe {
            agrees::bytes(Neon::<PLAIN>::new());
            if have >= IsaLevel::Dotprod {
                agrees::bytes(Neon::<DOTPROD>::new());
            }
            if have >= IsaLevel::I8mm {
                agrees::bytes(Neon::<I8MM>::new());
            }
        }
    }
}
