//! Elements of stored operands: f32, f16, bf16 and the codes of caches in int8, read
//! and written as f32.

use super::simd::{LANES, Simd};
use registry::Scheme;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elem {
    F32,
    F16,
    Bf16,
    /// Whole numbers, whose scales the cache keeps elsewhere.
    Int8,
}

impl Elem {
    /// Elements of a cache.
    pub fn of_cache(scheme: Scheme) -> Option<Elem> {
        match scheme {
            Scheme::INT8_KV => Some(Elem::Int8),
            _ => Elem::of(scheme),
        }
    }

    /// Elements that stand for themselves.
    pub fn of(scheme: Scheme) -> Option<Elem> {
        match scheme {
            Scheme::F32 => Some(Elem::F32),
            Scheme::F16 => Some(Elem::F16),
            Scheme::BF16 => Some(Elem::Bf16),
            _ => None,
        }
    }

    pub const fn bytes(self) -> usize {
        match self {
            Elem::F32 => 4,
            Elem::F16 | Elem::Bf16 => 2,
            Elem::Int8 => 1,
        }
    }

    /// Sixteen elements.
    ///
    /// # Safety
    /// They are readable.
    #[inline(always)]
    pub unsafe fn load<S: Simd>(self, s: S, p: *const u8) -> S::V {
        // SAFETY: as the caller promises.
        unsafe {
            match self {
                Elem::F32 => s.load(p.cast()),
                Elem::F16 => s.load_f16(p.cast()),
                Elem::Bf16 => s.load_bf16(p.cast()),
                Elem::Int8 => s.load_i8(p),
            }
        }
    }

    /// The first `n` ≤ 16 elements, zeros above.
    ///
    /// # Safety
    /// They are readable.
    #[inline(always)]
    pub unsafe fn load_n<S: Simd>(self, s: S, p: *const u8, n: usize) -> S::V {
        if n >= LANES {
            // SAFETY: as the caller promises.
            return unsafe { self.load(s, p) };
        }
        let mut part = [0u8; 4 * LANES];
        // SAFETY: n elements are readable and fit the array, which holds 16.
        unsafe {
            std::ptr::copy_nonoverlapping(p, part.as_mut_ptr(), n * self.bytes());
            self.load(s, part.as_ptr())
        }
    }

    /// Stores the first `n` ≤ 16 lanes, rounded to nearest even.
    ///
    /// # Safety
    /// They are writable.
    #[inline(always)]
    pub unsafe fn store_n<S: Simd>(self, s: S, p: *mut u8, v: S::V, n: usize) {
        let mut part = [0u8; 4 * LANES];
        let to = if n >= LANES { p } else { part.as_mut_ptr() };
        // SAFETY: sixteen elements fit the array; n are writable at `p`.
        unsafe {
            match self {
                Elem::F32 => s.store(to.cast(), v),
                Elem::F16 => s.store_f16(to.cast(), v),
                Elem::Bf16 => s.store_bf16(to.cast(), v),
                Elem::Int8 => s.store_i8(to, v),
            }
            if n < LANES {
                std::ptr::copy_nonoverlapping(part.as_ptr(), p, n * self.bytes());
            }
        }
    }

    /// Decodes `len` elements; `dst` is filled up to a multiple of 16 with zeros.
    ///
    /// # Safety
    /// `src` holds `len` elements, `dst` has room for the rounded length.
    #[inline(always)]
    pub unsafe fn decode_row<S: Simd>(self, s: S, src: *const u8, dst: *mut f32, len: usize) {
        let mut i = 0;
        while i < len {
            // SAFETY: as the caller promises.
            unsafe {
                let v = self.load_n(s, src.add(i * self.bytes()), len - i);
                s.store(dst.add(i), v);
            }
            i += LANES;
        }
    }

    /// Encodes `len` elements.
    ///
    /// # Safety
    /// `src` and `dst` hold `len` elements.
    #[inline(always)]
    pub unsafe fn encode_row<S: Simd>(self, s: S, src: *const f32, dst: *mut u8, len: usize) {
        let mut i = 0;
        while i < len {
            // SAFETY: as the caller promises.
            unsafe {
                let v = s.load_n(src.add(i), len - i);
                self.store_n(s, dst.add(i * self.bytes()), v, len - i);
            }
            i += LANES;
        }
    }
}
