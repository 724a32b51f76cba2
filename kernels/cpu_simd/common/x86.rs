//! [`Simd`] with AVX2 (two registers a vector) and AVX-512 (one).

use super::intrinsics::{intrinsics, memory_intrinsics};
use super::simd::{Body, LANES, Simd};
use hal::cpu::TaskCtx;
use std::arch::x86_64::*;

/// AVX-512 F, BW, VL, DQ.
#[derive(Clone, Copy)]
pub struct Avx512(());

impl Avx512 {
    /// # Safety
    /// The CPU has AVX-512 F, BW, VL, DQ.
    #[inline(always)]
    pub unsafe fn new() -> Self {
        Avx512(())
    }
}

/// As [`Avx512`], with VNNI.
#[derive(Clone, Copy)]
pub struct Avx512Vnni(());

impl Avx512Vnni {
    /// # Safety
    /// The CPU has AVX-512 F, BW, VL, DQ, VNNI.
    #[inline(always)]
    pub unsafe fn new() -> Self {
        Avx512Vnni(())
    }
}

/// As [`Avx512`], with the BF16 conversions: subnormal numbers become zero, as
/// they do in the products that follow.
#[derive(Clone, Copy)]
pub struct Avx512Bf16(());

impl Avx512Bf16 {
    /// # Safety
    /// The CPU has AVX-512 F, BW, VL, DQ, BF16.
    #[inline(always)]
    pub unsafe fn new() -> Self {
        Avx512Bf16(())
    }
}

/// Rounds to bf16, to nearest even.
#[inline(always)]
unsafe fn round_bf16_512(v: __m512) -> __m256i {
    // SAFETY: called with AVX-512 only.
    unsafe {
        let bits = _mm512_castps_si512(v);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
        let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, bias));
        // The carry must not turn a NaN into something else.
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
        let quiet = _mm512_or_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(0x40));
        _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, quiet))
    }
}

/// The same in one instruction.
#[inline(always)]
unsafe fn convert_bf16_512(v: __m512) -> __m256i {
    // SAFETY: called with AVX512_BF16 only; both types are 256 plain bits.
    unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v)) }
}

/// Sums of neighbours' lanes: one step of `sums`.
#[inline(always)]
unsafe fn add_pairs(x: __m512, y: __m512) -> __m512 {
    // SAFETY: called with AVX-512 only.
    unsafe { _mm512_add_ps(_mm512_unpacklo_ps(x, y), _mm512_unpackhi_ps(x, y)) }
}

/// Quarter j of the result holds a part of the sums of the four vectors.
#[inline(always)]
unsafe fn add_fours(a: [__m512; 4]) -> __m512 {
    // SAFETY: called with AVX-512 only.
    unsafe {
        let x = _mm512_castps_pd(add_pairs(a[0], a[1]));
        let y = _mm512_castps_pd(add_pairs(a[2], a[3]));
        let (lo, hi) = (_mm512_unpacklo_pd(x, y), _mm512_unpackhi_pd(x, y));
        _mm512_add_ps(_mm512_castpd_ps(lo), _mm512_castpd_ps(hi))
    }
}

/// Adds quarters 0 and 1, and 2 and 3, of both.
#[inline(always)]
unsafe fn add_quarters(x: __m512, y: __m512) -> __m512 {
    // SAFETY: called with AVX-512 only.
    unsafe {
        let (even, odd) = (
            _mm512_shuffle_f32x4::<0x88>(x, y),
            _mm512_shuffle_f32x4::<0xdd>(x, y),
        );
        _mm512_add_ps(even, odd)
    }
}

macro_rules! avx512 {
    ($name:ident, $to_bf16:ident) => {

impl Simd for $name {
    type V = __m512;
    const WIDE: bool = true;

    intrinsics! {
        splat(x: f32) -> __m512 { _mm512_set1_ps(x) }
        add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        div(a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
        fma(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        max(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        min(a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
        pow2(n: __m512) -> __m512 {
            let i = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(i))
        }
        select_le(a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
            _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask::<_CMP_LE_OQ>(a, b), yes)
        }
        sum(a: __m512) -> f32 {
            let hi = _mm512_extractf32x8_ps::<1>(a);
            fold8(_mm256_add_ps(_mm512_castps512_ps256(a), hi))
        }
        to_array(a: __m512) -> [f32; LANES] {
            let mut out = [0f32; LANES];
            _mm512_storeu_ps(out.as_mut_ptr(), a);
            out
        }
        max_lane(a: __m512) -> f32 { _mm512_reduce_max_ps(a) }
        sums(a: [__m512; LANES]) -> __m512 {
            let [a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, aa, ab, ac, ad, ae, af] = a;
            let low = add_quarters(add_fours([a0, a1, a2, a3]), add_fours([a4, a5, a6, a7]));
            let high = add_quarters(add_fours([a8, a9, aa, ab]), add_fours([ac, ad, ae, af]));
            add_quarters(low, high)
        }
    }

    memory_intrinsics! {
        load(p: *const f32) -> __m512 { _mm512_loadu_ps(p) }
        store(p: *mut f32, v: __m512) { _mm512_storeu_ps(p, v) }
        load_n(p: *const f32, n: usize) -> __m512 { _mm512_maskz_loadu_ps(mask(n), p) }
        store_n(p: *mut f32, v: __m512, n: usize) { _mm512_mask_storeu_ps(p, mask(n), v) }
        load_f16(p: *const u16) -> __m512 { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
        store_f16(p: *mut u16, v: __m512) {
            _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v))
        }
        load_bf16(p: *const u16) -> __m512 {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
        store_bf16(p: *mut u16, v: __m512) {
            _mm256_storeu_si256(p.cast(), $to_bf16(v))
        }
        load_bf16_pairs(p: *const u16) -> (__m512, __m512) {
            let both = _mm512_loadu_si512(p.cast());
            let second = _mm512_and_si512(both, _mm512_set1_epi32(!0xffff));
            (
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(both)),
                _mm512_castsi512_ps(second),
            )
        }
        load_i8(p: *const u8) -> __m512 {
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())))
        }
        store_i8(p: *mut u8, v: __m512) {
            let bytes = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v));
            _mm_storeu_si128(p.cast(), bytes)
        }
        prefetch(p: *const u8) { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
}
    };
}

avx512!(Avx512, round_bf16_512);
avx512!(Avx512Vnni, round_bf16_512);
avx512!(Avx512Bf16, convert_bf16_512);

#[inline(always)]
fn mask(n: usize) -> __mmask16 {
    if n >= LANES { !0 } else { (1 << n) - 1 }
}

/// Sum of eight lanes, folded 4, 2, 1 apart.
#[inline(always)]
unsafe fn fold8(a: __m256) -> f32 {
    // SAFETY: called with AVX2 or more.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}

/// AVX2, FMA, F16C, and AVX-VNNI where `VNNI` says so.
#[derive(Clone, Copy)]
pub struct Avx2<const VNNI: bool = false>(());

impl<const VNNI: bool> Avx2<VNNI> {
    /// # Safety
    /// The CPU has AVX2, FMA, F16C, and AVX-VNNI if `VNNI`.
    #[inline(always)]
    pub unsafe fn new() -> Self {
        Avx2(())
    }
}

type Two = [__m256; 2];

macro_rules! both {
    ($f:ident, $($a:expr),+) => { [$f($($a[0]),+), $f($($a[1]),+)] };
}

#[inline(always)]
unsafe fn pow2_256(n: __m256) -> __m256 {
    // SAFETY: called with AVX2 only.
    unsafe {
        let i = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(i))
    }
}

/// As [`round_bf16_512`], eight 32-bit lanes.
#[inline(always)]
unsafe fn round_bf16_256(v: __m256) -> __m256i {
    // SAFETY: called with AVX2 only.
    unsafe {
        let bits = _mm256_castps_si256(v);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
        let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, bias));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
        let quiet = _mm256_or_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(0x40));
        _mm256_blendv_epi8(rounded, quiet, nan)
    }
}

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type V = Two;
    const WIDE: bool = false;

    intrinsics! {
        splat(x: f32) -> Two { [_mm256_set1_ps(x); 2] }
        add(a: Two, b: Two) -> Two { both!(_mm256_add_ps, a, b) }
        sub(a: Two, b: Two) -> Two { both!(_mm256_sub_ps, a, b) }
        mul(a: Two, b: Two) -> Two { both!(_mm256_mul_ps, a, b) }
        div(a: Two, b: Two) -> Two { both!(_mm256_div_ps, a, b) }
        fma(a: Two, b: Two, c: Two) -> Two { both!(_mm256_fmadd_ps, a, b, c) }
        max(a: Two, b: Two) -> Two { both!(_mm256_max_ps, a, b) }
        min(a: Two, b: Two) -> Two { both!(_mm256_min_ps, a, b) }
        pow2(n: Two) -> Two {
            [pow2_256(n[0]), pow2_256(n[1])]
        }
        select_le(a: Two, b: Two, yes: Two, no: Two) -> Two {
            let low = _mm256_cmp_ps::<_CMP_LE_OQ>(a[0], b[0]);
            let high = _mm256_cmp_ps::<_CMP_LE_OQ>(a[1], b[1]);
            [_mm256_blendv_ps(no[0], yes[0], low), _mm256_blendv_ps(no[1], yes[1], high)]
        }
        sum(a: Two) -> f32 { fold8(_mm256_add_ps(a[0], a[1])) }
        to_array(a: Two) -> [f32; LANES] {
            let mut out = [0f32; LANES];
            _mm256_storeu_ps(out.as_mut_ptr(), a[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), a[1]);
            out
        }
        sums(a: [Two; LANES]) -> Two {
            let mut out = [0f32; LANES];
            for i in 0..LANES {
                out[i] = fold8(_mm256_add_ps(a[i][0], a[i][1]));
            }
            [_mm256_loadu_ps(out.as_ptr()), _mm256_loadu_ps(out.as_ptr().add(8))]
        }
    }

    memory_intrinsics! {
        load(p: *const f32) -> Two { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
        store(p: *mut f32, v: Two) {
            _mm256_storeu_ps(p, v[0]);
            _mm256_storeu_ps(p.add(8), v[1])
        }
        load_f16(p: *const u16) -> Two {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(p.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast())),
            ]
        }
        store_f16(p: *mut u16, v: Two) {
            const RNE: i32 = _MM_FROUND_TO_NEAREST_INT;
            _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<RNE>(v[0]));
            _mm_storeu_si128(p.add(8).cast(), _mm256_cvtps_ph::<RNE>(v[1]))
        }
        load_bf16(p: *const u16) -> Two {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(8).cast()));
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            ]
        }
        store_bf16(p: *mut u16, v: Two) {
            let packed = _mm256_packus_epi32(round_bf16_256(v[0]), round_bf16_256(v[1]));
            // The pack works in halves of 128 bits: put the quarters in order.
            _mm256_storeu_si256(p.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(packed))
        }
        load_bf16_pairs(p: *const u16) -> (Two, Two) {
            let a = _mm256_loadu_si256(p.cast());
            let b = _mm256_loadu_si256(p.add(16).cast());
            let high = _mm256_set1_epi32(!0xffff);
            (
                [
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(a)),
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(b)),
                ],
                [
                    _mm256_castsi256_ps(_mm256_and_si256(a, high)),
                    _mm256_castsi256_ps(_mm256_and_si256(b, high)),
                ],
            )
        }
        load_i8(p: *const u8) -> Two {
            let low = _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()));
            let high = _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.add(8).cast()));
            [_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)]
        }
        store_i8(p: *mut u8, v: Two) {
            let (low, high) = (_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1]));
            // Packs work in halves of 128 bits: put the quarters in order.
            let words = _mm256_packs_epi32(low, high);
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packs_epi16(
                _mm256_castsi256_si128(words),
                _mm256_extracti128_si256::<1>(words),
            );
            _mm_storeu_si128(p.cast(), bytes)
        }
        prefetch(p: *const u8) { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
}

/// # Safety
/// The CPU has AVX2, FMA, F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn run_avx2<B: Body>(body: &B, ctx: &TaskCtx) {
    body.run(Avx2::<false>(()), ctx);
}

/// # Safety
/// The CPU has AVX-512 F, BW, VL, DQ (and AVX2, FMA, F16C with them).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub unsafe fn run_avx512<B: Body>(body: &B, ctx: &TaskCtx) {
    body.run(Avx512(()), ctx);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::agrees;

    #[test]
    fn every_instruction_set_gives_the_portable_bits() {
        let have = hal::cpu::detect();
        if have >= hal::cpu::IsaLevel::Avx2 {
            agrees::lanes(Avx2::<false>(()));
        }
        if have >= hal::cpu::IsaLevel::Avx512 {
            agrees::lanes(Avx512(()));
        }
    }
}
