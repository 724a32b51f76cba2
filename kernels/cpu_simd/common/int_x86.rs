//! [`IntSimd`] with AVX2 (two registers a vector) and AVX-512 (one), each with and
//! without VNNI.

use super::int::{IntBody, IntSimd, field_mask};
use super::x86::{Avx2, Avx512, Avx512Vnni};
use hal::cpu::TaskCtx;
use std::arch::x86_64::*;

/// Sums of byte products without VNNI. Pairs are added in i16, which holds two
/// products of at most 127 · 127 each but not two of 255 · 127.
#[inline(always)]
unsafe fn dot_512(acc: __m512i, w: __m512i, x: __m512i, narrow: bool) -> __m512i {
    // SAFETY: called with AVX-512 BW only.
    unsafe {
        if narrow {
            let pairs = _mm512_maddubs_epi16(w, x);
            return _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
        }
        let even = _mm512_and_si512(w, _mm512_set1_epi16(0xff));
        let odd = _mm512_srli_epi16::<8>(w);
        let x_even = _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(x));
        let x_odd = _mm512_srai_epi16::<8>(x);
        let even = _mm512_madd_epi16(even, x_even);
        let odd = _mm512_madd_epi16(odd, x_odd);
        _mm512_add_epi32(acc, _mm512_add_epi32(even, odd))
    }
}

/// As [`dot_512`].
#[inline(always)]
unsafe fn dot_256(acc: __m256i, w: __m256i, x: __m256i, narrow: bool) -> __m256i {
    // SAFETY: called with AVX2 only.
    unsafe {
        if narrow {
            let pairs = _mm256_maddubs_epi16(w, x);
            return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        }
        let even = _mm256_and_si256(w, _mm256_set1_epi16(0xff));
        let odd = _mm256_srli_epi16::<8>(w);
        let x_even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x));
        let x_odd = _mm256_srai_epi16::<8>(x);
        let even = _mm256_madd_epi16(even, x_even);
        let odd = _mm256_madd_epi16(odd, x_odd);
        _mm256_add_epi32(acc, _mm256_add_epi32(even, odd))
    }
}

macro_rules! avx512 {
    ($name:ident, |$acc:ident, $w:ident, $x:ident, $narrow:ident| $dot:expr) => {
        impl IntSimd for $name {
            type B = __m512i;
            type I = __m512i;

            #[inline(always)]
            fn splat_i32(self, x: i32) -> __m512i {
                // SAFETY: here and below, `self` exists only where the CPU has
                // the instructions; callers vouch for the memory.
                unsafe { _mm512_set1_epi32(x) }
            }
            #[inline(always)]
            fn to_f32(self, a: __m512i) -> __m512 {
                // SAFETY: as above.
                unsafe { _mm512_cvtepi32_ps(a) }
            }
            #[inline(always)]
            fn dot(self, $acc: __m512i, $w: __m512i, $x: __m512i, $narrow: bool) -> __m512i {
                // SAFETY: as above.
                unsafe { $dot }
            }
            #[inline(always)]
            fn or(self, a: __m512i, b: __m512i) -> __m512i {
                // SAFETY: as above.
                unsafe { _mm512_or_si512(a, b) }
            }
            #[inline(always)]
            fn field<const FROM: u32, const BITS: u32, const TO: u32>(self, a: __m512i) -> __m512i {
                // SAFETY: as above.
                unsafe {
                    let by = _mm_cvtsi32_si128(FROM.abs_diff(TO) as i32);
                    let moved = match FROM >= TO {
                        true => _mm512_srl_epi16(a, by),
                        false => _mm512_sll_epi16(a, by),
                    };
                    _mm512_and_si512(moved, _mm512_set1_epi8(field_mask(BITS, TO) as i8))
                }
            }
            #[inline(always)]
            fn lookup(self, table: &[u8; 16], index: __m512i) -> __m512i {
                // SAFETY: as above; the table has 16 bytes.
                unsafe {
                    let table = _mm_loadu_si128(table.as_ptr().cast());
                    _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), index)
                }
            }
            #[inline(always)]
            unsafe fn load_bytes(self, p: *const u8) -> __m512i {
                // SAFETY: as above.
                unsafe { _mm512_loadu_si512(p.cast()) }
            }
            #[inline(always)]
            unsafe fn store_bytes(self, p: *mut u8, v: __m512i) {
                // SAFETY: as above.
                unsafe { _mm512_storeu_si512(p.cast(), v) }
            }
            #[inline(always)]
            unsafe fn repeat(self, p: *const u8) -> __m512i {
                // SAFETY: as above.
                unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
            }
            #[inline(always)]
            unsafe fn load_u8(self, p: *const u8) -> __m512 {
                // SAFETY: as above.
                unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))) }
            }
        }
    };
}

avx512!(Avx512, |acc, w, x, narrow| dot_512(acc, w, x, narrow));
avx512!(Avx512Vnni, |acc, w, x, _narrow| _mm512_dpbusd_epi32(
    acc, w, x
));

impl<const VNNI: bool> IntSimd for Avx2<VNNI> {
    type B = [__m256i; 2];
    type I = [__m256i; 2];

    #[inline(always)]
    fn splat_i32(self, x: i32) -> Self::I {
        // SAFETY: here and below, `self` exists only where the CPU has the
        // instructions; callers vouch for the memory.
        unsafe { [_mm256_set1_epi32(x); 2] }
    }
    #[inline(always)]
    fn to_f32(self, a: Self::I) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe { [_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])] }
    }
    #[inline(always)]
    fn dot(self, acc: Self::I, w: Self::B, x: Self::B, narrow: bool) -> Self::I {
        // SAFETY: as above.
        unsafe {
            if VNNI {
                return [
                    _mm256_dpbusd_avx_epi32(acc[0], w[0], x[0]),
                    _mm256_dpbusd_avx_epi32(acc[1], w[1], x[1]),
                ];
            }
            [
                dot_256(acc[0], w[0], x[0], narrow),
                dot_256(acc[1], w[1], x[1], narrow),
            ]
        }
    }
    #[inline(always)]
    fn or(self, a: Self::B, b: Self::B) -> Self::B {
        // SAFETY: as above.
        unsafe { [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])] }
    }
    #[inline(always)]
    fn field<const FROM: u32, const BITS: u32, const TO: u32>(self, a: Self::B) -> Self::B {
        // SAFETY: as above.
        unsafe {
            let by = _mm_cvtsi32_si128(FROM.abs_diff(TO) as i32);
            let mask = _mm256_set1_epi8(field_mask(BITS, TO) as i8);
            let moved = match FROM >= TO {
                true => [_mm256_srl_epi16(a[0], by), _mm256_srl_epi16(a[1], by)],
                false => [_mm256_sll_epi16(a[0], by), _mm256_sll_epi16(a[1], by)],
            };
            [
                _mm256_and_si256(moved[0], mask),
                _mm256_and_si256(moved[1], mask),
            ]
        }
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], index: Self::B) -> Self::B {
        // SAFETY: as above; the table has 16 bytes.
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            [
                _mm256_shuffle_epi8(table, index[0]),
                _mm256_shuffle_epi8(table, index[1]),
            ]
        }
    }
    #[inline(always)]
    unsafe fn load_bytes(self, p: *const u8) -> Self::B {
        // SAFETY: as above.
        unsafe {
            [
                _mm256_loadu_si256(p.cast()),
                _mm256_loadu_si256(p.add(32).cast()),
            ]
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, v: Self::B) {
        // SAFETY: as above.
        unsafe {
            _mm256_storeu_si256(p.cast(), v[0]);
            _mm256_storeu_si256(p.add(32).cast(), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn repeat(self, p: *const u8) -> Self::B {
        // SAFETY: as above.
        unsafe { [_mm256_set1_epi32(p.cast::<i32>().read_unaligned()); 2] }
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe {
            let low = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()));
            let high = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.add(8).cast()));
            [_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)]
        }
    }
}

/// # Safety
/// The CPU has AVX2, FMA, F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn run_avx2<B: IntBody>(body: &B, ctx: &TaskCtx) {
    // SAFETY: as the caller promises, here and below.
    body.run(unsafe { Avx2::<false>::new() }, ctx);
}

/// # Safety
/// The CPU has AVX2, FMA, F16C, AVX-VNNI.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub unsafe fn run_avx2_vnni<B: IntBody>(body: &B, ctx: &TaskCtx) {
    // SAFETY: as above.
    body.run(unsafe { Avx2::<true>::new() }, ctx);
}

/// # Safety
/// The CPU has AVX-512 F, BW, VL, DQ (and AVX2, FMA, F16C with them).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub unsafe fn run_avx512<B: IntBody>(body: &B, ctx: &TaskCtx) {
    // SAFETY: as above.
    body.run(unsafe { Avx512::new() }, ctx);
}

/// # Safety
/// As [`run_avx512`], and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub unsafe fn run_avx512_vnni<B: IntBody>(body: &B, ctx: &TaskCtx) {
    // SAFETY: as above.
    body.run(unsafe { Avx512Vnni::new() }, ctx);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::agrees;
    use std::arch::is_x86_feature_detected as has;

    #[test]
    fn every_instruction_set_gives_the_portable_bytes() {
        let have = hal::cpu::detect();
        // SAFETY: each is made where the CPU has its instructions.
        unsafe {
            if have >= hal::cpu::IsaLevel::Avx2 {
                agrees::bytes(Avx2::<false>::new());
            }
            if have >= hal::cpu::IsaLevel::Avx2 && has!("avxvnni") {
                agrees::bytes(Avx2::<true>::new());
            }
            if have >= hal::cpu::IsaLevel::Avx512 {
                agrees::bytes(Avx512::new());
            }
            if have >= hal::cpu::IsaLevel::Avx512 && has!("avx512vnni") {
                agrees::bytes(Avx512Vnni::new());
            }
        }
    }
}
