//! Rotary embedding of one head, with an RMS norm before it where there is one.

use super::math::{Norm, inverse_rms};
use super::simd::{LANES, Simd};

/// Rotates the first `rotary` elements of a head of `dim` and copies the rest.
/// `table` holds rotary/2 cosines, then as many sines. `x` may be `y`.
///
/// # Safety
/// `x` and `y` are `dim` elements, `table` is `rotary`, rotary ≤ dim.
#[inline(always)]
pub unsafe fn rope_head<S: Simd>(
    s: S,
    x: *const f32,
    table: *const f32,
    rotary: usize,
    dim: usize,
    y: *mut f32,
) {
    let half = rotary / 2;
    let mut i = 0;
    // SAFETY: i + n ≤ half in the first loop and ≤ dim in the second.
    unsafe {
        while i < half {
            let n = half - i;
            let (cos, sin) = (s.load_n(table.add(i), n), s.load_n(table.add(half + i), n));
            let (a, b) = (s.load_n(x.add(i), n), s.load_n(x.add(half + i), n));
            let zero = s.zero();
            let first = s.fma(a, cos, s.sub(zero, s.mul(b, sin)));
            s.store_n(y.add(i), first, n);
            s.store_n(y.add(half + i), s.fma(b, cos, s.mul(a, sin)), n);
            i += LANES;
        }
        if x != y.cast_const() {
            i = rotary;
            while i < dim {
                s.store_n(y.add(i), s.load_n(x.add(i), dim - i), dim - i);
                i += LANES;
            }
        }
    }
}

/// Rotates neighbours: elements 2i and 2i + 1 by angle i. `x` may not be `y`.
///
/// # Safety
/// `x`, `y` and `table` are `rotary` elements.
#[inline(always)]
pub unsafe fn rope_pairs(x: *const f32, table: *const f32, rotary: usize, y: *mut f32) {
    let half = rotary / 2;
    for i in 0..half {
        // SAFETY: 2i + 1 < rotary.
        unsafe {
            let (cos, sin) = (*table.add(i), *table.add(half + i));
            let (a, b) = (*x.add(2 * i), *x.add(2 * i + 1));
            *y.add(2 * i) = a * cos - b * sin;
            *y.add(2 * i + 1) = b * cos + a * sin;
        }
    }
}

/// Copies `len` elements.
///
/// # Safety
/// `x` and `y` are `len` elements.
#[inline(always)]
pub unsafe fn copy<S: Simd>(s: S, x: *const f32, y: *mut f32, len: usize) {
    for i in (0..len).step_by(LANES) {
        // SAFETY: `len − i` elements are left.
        unsafe { s.store_n(y.add(i), s.load_n(x.add(i), len - i), len - i) }
    }
}

/// As [`rope_head`], of the normalised head.
///
/// # Safety
/// As [`rope_head`]; the norm's weight has `dim` elements.
#[inline(always)]
pub unsafe fn norm_rope_head<S: Simd>(
    s: S,
    norm: &Norm,
    x: *const f32,
    table: *const f32,
    rotary: usize,
    dim: usize,
    y: *mut f32,
) {
    // SAFETY: as the caller promises.
    unsafe {
        let inverse = inverse_rms(s, x, dim, norm.eps);
        let mut i = 0;
        while i < dim {
            s.store_n(y.add(i), norm.apply(s, x, i, dim - i, inverse), dim - i);
            i += LANES;
        }
        rope_head(s, y, table, rotary, dim, y);
    }
}
