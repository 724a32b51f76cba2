//! Activations as int8: for each 32 elements of a row one f32 scale, the largest
//! magnitude / 127, elements the whole numbers nearest to x / scale.

use super::int::IntSimd;
use super::q_codes::STEP;
use super::simd::LANES;

/// 32 elements and what products with them need: a cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct Q8Step {
    pub codes: [i8; STEP],
    pub scale: f32,
    /// Sum of the codes.
    pub sum: i32,
    /// Sums of 16 codes.
    pub sums: [i32; 2],
    /// `scale · sum`.
    pub scaled: f32,
    /// `scale · sums`.
    pub scaled_halves: [f32; 2],
    pad: u32,
}

/// Rows whose steps lie beside each other where few rows are multiplied: a kernel
/// finds all of them at fixed distances from one address.
pub const TOGETHER: usize = 8;

/// Index of a row's first step among rows that lie together; the next ones are
/// [`TOGETHER`] apart.
pub const fn first_together(row: usize, steps: usize) -> usize {
    row / TOGETHER * TOGETHER * steps + row % TOGETHER
}

/// Bytes of a row of k elements, whole steps.
pub const fn row_bytes(k: usize) -> usize {
    k / STEP * size_of::<Q8Step>()
}

/// Rounds two vectors, neighbours of K.
///
/// # Safety
/// `to` is writable.
#[inline(always)]
pub unsafe fn quantise<S: IntSimd>(s: S, x: [S::V; 2], to: *mut Q8Step) {
    // 1.5·2^23: adding it rounds to a whole number, ties to even.
    const MAGIC: f32 = 12_582_912.0;
    let magnitude = |v| s.max(v, s.sub(s.zero(), v));
    let largest = s.max_lane(s.max(magnitude(x[0]), magnitude(x[1])));
    let scale = largest / 127.0;
    let inverse = match scale >= f32::MIN_POSITIVE {
        true => 1.0 / scale,
        false => 0.0,
    };
    let round = |v| {
        let v = s.mul(v, s.splat(inverse));
        s.sub(s.add(v, s.splat(MAGIC)), s.splat(MAGIC))
    };
    let codes = [round(x[0]), round(x[1])];
    let sums = [s.sum(codes[0]), s.sum(codes[1])];
    let sum = sums[0] + sums[1];
    // What is not a number stays so, whatever its code.
    let scale = if sum.is_nan() { f32::NAN } else { scale };
    // SAFETY: as the caller promises.
    unsafe {
        let bytes = (&raw mut (*to).codes).cast::<u8>();
        s.store_i8(bytes, codes[0]);
        s.store_i8(bytes.add(LANES), codes[1]);
        (*to).scale = scale;
        (*to).sum = sum as i32;
        (*to).sums = sums.map(|x| x as i32);
        (*to).scaled = scale * sum;
        (*to).scaled_halves = sums.map(|x| scale * x);
        (*to).pad = 0;
    }
}
