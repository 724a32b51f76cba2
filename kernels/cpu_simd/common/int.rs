//! Bytes and sums of their products beside [`Simd`]'s sixteen f32: a vector is
//! 64 bytes, four neighbours of K for each of 16 rows.

use super::simd::{LANES, Level, Portable, Simd};
use hal::cpu::TaskCtx;

pub trait IntSimd: Simd {
    /// 64 bytes.
    type B: Copy;
    /// Sixteen i32.
    type I: Copy;

    fn splat_i32(self, x: i32) -> Self::I;
    fn to_f32(self, a: Self::I) -> Self::V;
    /// Adds to each lane of `acc` the products of its four bytes: `w` without a
    /// sign, `x` with one, none of them −128. `narrow` says that no byte of `w`
    /// exceeds 127; it should be known when compiled.
    fn dot(self, acc: Self::I, w: Self::B, x: Self::B, narrow: bool) -> Self::I;
    fn or(self, a: Self::B, b: Self::B) -> Self::B;
    /// Of each byte the `BITS` bits from `FROM` on, moved to begin at `TO`.
    fn field<const FROM: u32, const BITS: u32, const TO: u32>(self, a: Self::B) -> Self::B;
    /// The table's entry for each byte, which is below 16.
    fn lookup(self, table: &[u8; 16], index: Self::B) -> Self::B;

    /// # Safety
    /// 64 readable bytes.
    unsafe fn load_bytes(self, p: *const u8) -> Self::B;
    /// # Safety
    /// 64 writable bytes.
    unsafe fn store_bytes(self, p: *mut u8, v: Self::B);
    /// Four bytes, sixteen times.
    /// # Safety
    /// 4 readable bytes.
    unsafe fn repeat(self, p: *const u8) -> Self::B;
    /// # Safety
    /// 16 readable bytes.
    unsafe fn load_u8(self, p: *const u8) -> Self::V;
}

/// The mask of a field that was moved to begin at `to`.
pub const fn field_mask(bits: u32, to: u32) -> u8 {
    (((1u32 << bits) - 1) << to) as u8
}

impl IntSimd for Portable {
    type B = [u8; 64];
    type I = [i32; LANES];

    #[inline(always)]
    fn splat_i32(self, x: i32) -> Self::I {
        [x; LANES]
    }
    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Self::V {
        a.map(|x| x as f32)
    }
    #[inline(always)]
    fn dot(self, acc: Self::I, w: Self::B, x: Self::B, _: bool) -> Self::I {
        std::array::from_fn(|i| {
            let product = |j: usize| i32::from(w[4 * i + j]) * i32::from(x[4 * i + j] as i8);
            acc[i] + product(0) + product(1) + product(2) + product(3)
        })
    }
    #[inline(always)]
    fn or(self, a: Self::B, b: Self::B) -> Self::B {
        std::array::from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn field<const FROM: u32, const BITS: u32, const TO: u32>(self, a: Self::B) -> Self::B {
        a.map(|x| x >> FROM << TO & field_mask(BITS, TO))
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], index: Self::B) -> Self::B {
        index.map(|i| table[usize::from(i & 15)])
    }
    #[inline(always)]
    unsafe fn load_bytes(self, p: *const u8) -> Self::B {
        // SAFETY: 64 readable bytes.
        unsafe { p.cast::<[u8; 64]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, v: Self::B) {
        // SAFETY: 64 writable bytes.
        unsafe { p.cast::<[u8; 64]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn repeat(self, p: *const u8) -> Self::B {
        // SAFETY: 4 readable bytes.
        let four = unsafe { p.cast::<[u8; 4]>().read_unaligned() };
        std::array::from_fn(|i| four[i % 4])
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> Self::V {
        // SAFETY: 16 readable bytes.
        unsafe { p.cast::<[u8; LANES]>().read_unaligned() }.map(f32::from)
    }
}

/// A kernel's entry point over any instruction set with [`IntSimd`].
pub trait IntBody: Send + Sync + 'static {
    /// Marked `inline(always)` where it is implemented.
    fn run<S: IntSimd>(&self, s: S, ctx: &TaskCtx);
}

impl Level {
    /// As [`Level::run`]; byte products in one instruction where the CPU has it.
    #[inline]
    pub fn run_int<B: IntBody>(self, body: &B, ctx: &TaskCtx) {
        #[cfg(target_arch = "aarch64")]
        use super::int_neon as neon;
        #[cfg(target_arch = "x86_64")]
        use super::int_x86 as x86;
        match self {
            Level::Portable => body.run(Portable, ctx),
            // SAFETY: here and below, `Level::of` gives a level only where the
            // CPU has it.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni => unsafe { x86::run_avx512_vnni(body, ctx) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { x86::run_avx512(body, ctx) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2Vnni => unsafe { x86::run_avx2_vnni(body, ctx) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { x86::run_avx2(body, ctx) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Level::Neon => unsafe { neon::run_neon(body, ctx) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Level::NeonDotprod => unsafe { neon::run_dotprod(body, ctx) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Level::NeonI8mm => unsafe { neon::run_i8mm(body, ctx) },
        }
    }
}
