//! Sixteen f32 lanes on any CPU.
//!
//! A kernel body is written once over [`Simd`] and compiled for each
//! instruction set by [`Level::run`]. A value of a `Simd` type is a proof that
//! the CPU has its instructions, so only memory accesses are unsafe. Everything
//! is `inline(always)`: an intrinsic becomes an instruction only inside the
//! `target_feature` function that `Level::run` enters.

use hal::DeviceInfo;
use hal::cpu::TaskCtx;
use half::{bf16, f16};

/// Lanes of every vector, and rows of a weight panel.
pub const LANES: usize = 16;

pub trait Simd: Copy + Send + Sync + 'static {
    /// Sixteen f32.
    type V: Copy;
    /// Whether a vector is one register of 32: tiles may hold about 24 of them.
    const WIDE: bool;

    fn splat(self, x: f32) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// a·b + c, fused where the instruction set can.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; b where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; b where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// 2^n for integral n in [-127, 128]; 0 for -127, infinite for 128.
    fn pow2(self, n: Self::V) -> Self::V;
    /// `yes` in the lanes where a ≤ b, `no` elsewhere.
    fn select_le(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// Sum of the lanes, folded 8, 4, 2, 1 apart.
    fn sum(self, a: Self::V) -> f32;
    fn to_array(self, a: Self::V) -> [f32; LANES];
    /// Lane i is the sum of the lanes of `a[i]`.
    fn sums(self, a: [Self::V; LANES]) -> Self::V;

    /// # Safety
    /// 16 readable f32.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// # Safety
    /// 16 writable f32.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// # Safety
    /// 16 readable halves.
    unsafe fn load_f16(self, p: *const u16) -> Self::V;
    /// Rounds to nearest even.
    /// # Safety
    /// 16 writable halves.
    unsafe fn store_f16(self, p: *mut u16, v: Self::V);
    /// # Safety
    /// 16 readable bf16.
    unsafe fn load_bf16(self, p: *const u16) -> Self::V;
    /// Rounds to nearest even.
    /// # Safety
    /// 16 writable bf16.
    unsafe fn store_bf16(self, p: *mut u16, v: Self::V);
    /// Sixteen pairs of bf16, split into the first and the second of each.
    /// # Safety
    /// 32 readable bf16.
    unsafe fn load_bf16_pairs(self, p: *const u16) -> (Self::V, Self::V);
    /// Sixteen signed bytes.
    /// # Safety
    /// 16 readable bytes.
    unsafe fn load_i8(self, p: *const u8) -> Self::V;
    /// Magnitudes of 127.5 at most, rounded to nearest even.
    /// # Safety
    /// 16 writable bytes.
    unsafe fn store_i8(self, p: *mut u8, v: Self::V);
    /// # Safety
    /// None: an address that is not mapped is ignored.
    unsafe fn prefetch(self, p: *const u8);

    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }

    /// The first `n` lanes from memory, zeros above.
    /// # Safety
    /// `n` readable f32, n ≤ 16.
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> Self::V {
        if n >= LANES {
            // SAFETY: 16 are readable.
            return unsafe { self.load(p) };
        }
        let mut part = [0f32; LANES];
        // SAFETY: n < 16 elements, all readable as the caller says.
        unsafe {
            std::ptr::copy_nonoverlapping(p, part.as_mut_ptr(), n);
            self.load(part.as_ptr())
        }
    }

    /// # Safety
    /// `n` writable f32, n ≤ 16.
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, v: Self::V, n: usize) {
        if n >= LANES {
            // SAFETY: 16 are writable.
            return unsafe { self.store(p, v) };
        }
        let part = self.to_array(v);
        // SAFETY: n < 16 elements, all writable as the caller says.
        unsafe { std::ptr::copy_nonoverlapping(part.as_ptr(), p, n) }
    }

    /// The largest lane; lanes must not be NaN for a meaningful answer.
    #[inline(always)]
    fn max_lane(self, a: Self::V) -> f32 {
        let a = self.to_array(a);
        a.iter().fold(f32::NEG_INFINITY, |m, &x| m.max(x))
    }
}

/// Folds in the order of [`Simd::sum`].
#[inline(always)]
pub fn fold(mut a: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            a[i] += a[i + width];
        }
        width /= 2;
    }
    a[0]
}

/// Every case is computed and one is chosen, so that sixteen of them become
/// vector code.
#[inline(always)]
pub fn f16_to_f32(h: u16) -> f32 {
    let magnitude = u32::from(h & 0x7fff);
    // The exponent moves from bias 15 to bias 127; subnormal halves are integers
    // of 2^-24; all ones stay all ones.
    let normal = (magnitude << 13) + (112 << 23);
    let subnormal = (magnitude as f32 * f32::from_bits(103 << 23)).to_bits();
    let special = (magnitude << 13) | 0x7f80_0000;
    let finite = if magnitude < 0x400 { subnormal } else { normal };
    let bits = if magnitude < 0x7c00 { finite } else { special };
    f32::from_bits(bits | u32::from(h & 0x8000) << 16)
}

/// Plain arrays: what runs where nothing better is known.
#[derive(Clone, Copy)]
pub struct Portable;

#[inline(always)]
fn map2(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Portable {
    type V = [f32; LANES];
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |x, y| x + y)
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |x, y| x - y)
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |x, y| x * y)
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |x, y| x / y)
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |x, y| if x > y { x } else { y })
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |x, y| if x < y { x } else { y })
    }
    #[inline(always)]
    fn pow2(self, n: Self::V) -> Self::V {
        n.map(|n| f32::from_bits(((n as i32 + 127) << 23) as u32))
    }
    #[inline(always)]
    fn select_le(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] <= b[i] { yes[i] } else { no[i] })
    }
    #[inline(always)]
    fn sum(self, a: Self::V) -> f32 {
        fold(a)
    }
    #[inline(always)]
    fn to_array(self, a: Self::V) -> [f32; LANES] {
        a
    }
    #[inline(always)]
    fn sums(self, a: [Self::V; LANES]) -> Self::V {
        a.map(fold)
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::V {
        // SAFETY: 16 readable f32, alignment not required.
        unsafe { p.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::V) {
        // SAFETY: 16 writable f32.
        unsafe { p.cast::<Self::V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> Self::V {
        // SAFETY: 16 readable halves.
        let h = unsafe { p.cast::<[u16; LANES]>().read_unaligned() };
        h.map(f16_to_f32)
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, v: Self::V) {
        let h = v.map(|x| f16::from_f32(x).to_bits());
        // SAFETY: 16 writable halves.
        unsafe { p.cast::<[u16; LANES]>().write_unaligned(h) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> Self::V {
        // SAFETY: 16 readable bf16.
        let h = unsafe { p.cast::<[u16; LANES]>().read_unaligned() };
        h.map(|h| f32::from_bits(u32::from(h) << 16))
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16, v: Self::V) {
        let h = v.map(|x| bf16::from_f32(x).to_bits());
        // SAFETY: 16 writable bf16.
        unsafe { p.cast::<[u16; LANES]>().write_unaligned(h) }
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs(self, p: *const u16) -> (Self::V, Self::V) {
        // SAFETY: 32 readable bf16.
        let h = unsafe { p.cast::<[[u16; 2]; LANES]>().read_unaligned() };
        let half = |i: usize| h.map(|pair| f32::from_bits(u32::from(pair[i]) << 16));
        (half(0), half(1))
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const u8) -> Self::V {
        // SAFETY: 16 readable bytes.
        unsafe { p.cast::<[i8; LANES]>().read_unaligned() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn store_i8(self, p: *mut u8, v: Self::V) {
        let bytes = v.map(|x| x.round_ties_even() as i8);
        // SAFETY: 16 writable bytes.
        unsafe { p.cast::<[i8; LANES]>().write_unaligned(bytes) }
    }
    #[inline(always)]
    unsafe fn prefetch(self, _: *const u8) {}
}

/// A kernel's entry point over any instruction set.
pub trait Body: Send + Sync + 'static {
    /// Marked `inline(always)` where it is implemented.
    fn run<S: Simd>(&self, s: S, ctx: &TaskCtx);
}

/// The instruction set that a device offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX2; products of bytes by AVX-VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx2Vnni,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-512; products of bytes by VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// The f32 instructions of NEON; products of bytes by SDOT.
    #[cfg(target_arch = "aarch64")]
    NeonDotprod,
    /// The f32 instructions of NEON; products of bytes by USDOT.
    #[cfg(target_arch = "aarch64")]
    NeonI8mm,
}

impl Level {
    /// The best that this device lists. Features are listed only where
    /// `hal::cpu::detect` saw them.
    pub fn of(info: &DeviceInfo) -> Level {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let have = hal::cpu::detect();
            if info.has("avx512") && have >= hal::cpu::IsaLevel::Avx512 {
                return match info.has("avx512vnni") && has!("avx512vnni") {
                    true => Level::Avx512Vnni,
                    false => Level::Avx512,
                };
            }
            if info.has("avx2") && have >= hal::cpu::IsaLevel::Avx2 {
                return match info.has("avxvnni") && has!("avxvnni") {
                    true => Level::Avx2Vnni,
                    false => Level::Avx2,
                };
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            let have = hal::cpu::detect();
            for (isa, level) in [
                (hal::cpu::IsaLevel::I8mm, Level::NeonI8mm),
                (hal::cpu::IsaLevel::Dotprod, Level::NeonDotprod),
                (hal::cpu::IsaLevel::Neon, Level::Neon),
            ] {
                if info.has(isa.name()) && have >= isa {
                    return level;
                }
            }
        }
        let _ = info;
        Level::Portable
    }

    #[inline]
    pub fn run<B: Body>(self, body: &B, ctx: &TaskCtx) {
        match self {
            Level::Portable => body.run(Portable, ctx),
            // SAFETY: `of` gives these levels only where the CPU has them.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Avx2Vnni => unsafe { super::x86::run_avx2(body, ctx) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Vnni => unsafe { super::x86::run_avx512(body, ctx) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Level::Neon | Level::NeonDotprod | Level::NeonI8mm => unsafe {
                super::neon::run_neon(body, ctx)
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_decodes_to_its_value() {
        for h in 0..=u16::MAX {
            let (ours, exact) = (f16_to_f32(h), f16::from_bits(h).to_f32());
            let same = ours.to_bits() == exact.to_bits();
            assert!(same || (ours.is_nan() && exact.is_nan()), "{h:#06x}");
        }
    }
}
