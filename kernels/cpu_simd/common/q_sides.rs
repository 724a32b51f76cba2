//! Scales of block schemes in panels: what 16 rows keep beside their codes for
//! one *span* of K, the elements that share an f16 scale.

use super::int::IntSimd;
use super::layout::PANEL;
use half::f16;

/// What one row of one span keeps beside its codes.
#[derive(Clone, Copy, Default)]
pub struct Side {
    /// Bits of the f16 scale and of the f16 min; the exponent of mxfp4.
    pub halves: [u16; 2],
    /// Small scales of sub-blocks.
    pub scales: [u8; 16],
    /// Small mins of sub-blocks.
    pub mins: [u8; 16],
}

/// An element is `d · scale(i) · q − dmin · min(i)` in sub-block i of the span, or
/// `d · q − dmin` in flat schemes.
pub trait Sides: Copy + Send + Sync + 'static {
    /// Bytes of a span.
    const BYTES: usize;
    /// Steps of 32 elements in a span.
    const STEPS: usize;
    /// Whether there are no sub-blocks.
    const FLAT: bool;
    /// Whether sub-blocks have 16 elements instead of 32.
    const HALVES: bool;
    const MINS: bool;

    /// d and dmin.
    ///
    /// # Safety
    /// `BYTES` readable bytes.
    unsafe fn factors<S: IntSimd>(s: S, p: *const u8) -> (S::V, S::V);
    /// # Safety
    /// `BYTES` readable bytes; sub-block `i` is in the span.
    unsafe fn scale<S: IntSimd>(s: S, p: *const u8, i: usize) -> S::V;
    /// # Safety
    /// As [`Sides::scale`].
    unsafe fn min<S: IntSimd>(s: S, p: *const u8, i: usize) -> S::V;

    /// Stores row `n`'s numbers.
    fn put(span: &mut [u8], n: usize, side: &Side);
    /// Row `n`'s scale and min of sub-block `i`, rounded as the scheme has it.
    fn get(span: &[u8], n: usize, i: usize) -> (f32, f32);
}

/// Bytes of sixteen f16.
const HALF: usize = 2 * PANEL;

fn put_half(span: &mut [u8], at: usize, n: usize, bits: u16) {
    span[at + 2 * n..][..2].copy_from_slice(&bits.to_le_bytes());
}

fn half(span: &[u8], at: usize, n: usize) -> f32 {
    let at = at + 2 * n;
    f16::from_le_bytes([span[at], span[at + 1]]).to_f32()
}

/// An f16 scale.
#[derive(Clone, Copy)]
pub struct Half;
/// An f16 scale and an f16 that is added.
#[derive(Clone, Copy)]
pub struct HalfPlus;
/// A power of two, 2^(e − 128).
#[derive(Clone, Copy)]
pub struct Exponent;
/// An f16 scale and a zero point for each 128 elements.
#[derive(Clone, Copy)]
pub struct ZeroPoint;
/// q4_k and q5_k: two f16, and for each 32 elements a scale and a min.
#[derive(Clone, Copy)]
pub struct ScalesAndMins;
/// q2_k: two f16, and for each 16 elements a scale and a min of four bits.
#[derive(Clone, Copy)]
pub struct Nibbles;
/// q3_k and q6_k: an f16, and for each 16 elements a signed scale.
#[derive(Clone, Copy)]
pub struct Signed16;
/// iq4_xs: an f16, and for each 32 elements a signed scale.
#[derive(Clone, Copy)]
pub struct Signed32;

/// The sides without sub-blocks.
macro_rules! flat {
    ($name:ident, $bytes:expr, steps $steps:literal, mins $mins:literal, |$s:ident, $p:ident| $factors:expr,
     put |$span:ident, $n:ident, $side:ident| $put:expr,
     get |$from:ident, $row:ident| $get:expr) => {
        impl Sides for $name {
            const BYTES: usize = $bytes;
            const STEPS: usize = $steps;
            const FLAT: bool = true;
            const HALVES: bool = false;
            const MINS: bool = $mins;
            #[inline(always)]
            unsafe fn factors<S: IntSimd>($s: S, $p: *const u8) -> (S::V, S::V) {
                // SAFETY: as the caller promises.
                unsafe { $factors }
            }
            #[inline(always)]
            unsafe fn scale<S: IntSimd>(s: S, _: *const u8, _: usize) -> S::V {
                s.splat(1.0)
            }
            #[inline(always)]
            unsafe fn min<S: IntSimd>(s: S, _: *const u8, _: usize) -> S::V {
                s.splat(1.0)
            }
            fn put($span: &mut [u8], $n: usize, $side: &Side) {
                $put
            }
            fn get($from: &[u8], $row: usize, _: usize) -> (f32, f32) {
                $get
            }
        }
    };
}

flat!(
    Half, HALF, steps 1, mins false,
    |s, p| (s.load_f16(p.cast()), s.zero()),
    put |span, n, side| put_half(span, 0, n, side.halves[0]),
    get |span, n| (half(span, 0, n), 0.0)
);
flat!(
    HalfPlus, 2 * HALF, steps 1, mins true,
    |s, p| (
        s.load_f16(p.cast()),
        s.sub(s.zero(), s.load_f16(p.add(HALF).cast())),
    ),
    put |span, n, side| {
        put_half(span, 0, n, side.halves[0]);
        put_half(span, HALF, n, side.halves[1]);
    },
    get |span, n| (half(span, 0, n), -half(span, HALF, n))
);
// In products the two smallest powers, which are subnormal, count as zero.
flat!(
    Exponent, PANEL, steps 1, mins false,
    |s, p| (
        s.pow2(s.max(s.sub(s.load_u8(p), s.splat(128.0)), s.splat(-127.0))),
        s.zero(),
    ),
    put |span, n, side| span[n] = side.halves[0] as u8,
    get |span, n| {
        let e = u32::from(span[n]);
        let bits = if e < 2 { 0x0020_0000 << e } else { (e - 1) << 23 };
        (f32::from_bits(bits), 0.0)
    }
);

flat!(
    ZeroPoint, HALF + PANEL, steps 4, mins true,
    |s, p| {
        let d = s.load_f16(p.cast());
        (d, s.mul(d, s.load_u8(p.add(HALF))))
    },
    put |span, n, side| {
        put_half(span, 0, n, side.halves[0]);
        span[HALF + n] = side.mins[0];
    },
    get |span, n| (half(span, 0, n), half(span, 0, n) * f32::from(span[HALF + n]))
);

impl Sides for ScalesAndMins {
    const BYTES: usize = 2 * HALF + 16 * PANEL;
    const STEPS: usize = 8;
    const FLAT: bool = false;
    const HALVES: bool = false;
    const MINS: bool = true;
    #[inline(always)]
    unsafe fn factors<S: IntSimd>(s: S, p: *const u8) -> (S::V, S::V) {
        // SAFETY: as the caller promises, here and below.
        unsafe { (s.load_f16(p.cast()), s.load_f16(p.add(HALF).cast())) }
    }
    #[inline(always)]
    unsafe fn scale<S: IntSimd>(s: S, p: *const u8, i: usize) -> S::V {
        // SAFETY: as above.
        unsafe { s.load_u8(p.add(2 * HALF + 2 * i * PANEL)) }
    }
    #[inline(always)]
    unsafe fn min<S: IntSimd>(s: S, p: *const u8, i: usize) -> S::V {
        // SAFETY: as above.
        unsafe { s.load_u8(p.add(2 * HALF + (2 * i + 1) * PANEL)) }
    }
    fn put(span: &mut [u8], n: usize, side: &Side) {
        put_half(span, 0, n, side.halves[0]);
        put_half(span, HALF, n, side.halves[1]);
        for i in 0..8 {
            span[2 * HALF + 2 * i * PANEL + n] = side.scales[i];
            span[2 * HALF + (2 * i + 1) * PANEL + n] = side.mins[i];
        }
    }
    fn get(span: &[u8], n: usize, i: usize) -> (f32, f32) {
        let at = 2 * HALF + 2 * i * PANEL + n;
        (
            half(span, 0, n) * f32::from(span[at]),
            half(span, HALF, n) * f32::from(span[at + PANEL]),
        )
    }
}

impl Sides for Nibbles {
    const BYTES: usize = 2 * HALF + 16 * PANEL;
    const STEPS: usize = 8;
    const FLAT: bool = false;
    const HALVES: bool = true;
    const MINS: bool = true;
    #[inline(always)]
    unsafe fn factors<S: IntSimd>(s: S, p: *const u8) -> (S::V, S::V) {
        // SAFETY: as above.
        unsafe { (s.load_f16(p.cast()), s.load_f16(p.add(HALF).cast())) }
    }
    /// 16·min + scale less 16·min: there is no vector of sixteen bytes to mask.
    #[inline(always)]
    unsafe fn scale<S: IntSimd>(s: S, p: *const u8, i: usize) -> S::V {
        // SAFETY: as above.
        unsafe {
            let both = s.load_u8(p.add(2 * HALF + i * PANEL));
            s.fma(s.splat(-16.0), Self::min(s, p, i), both)
        }
    }
    #[inline(always)]
    unsafe fn min<S: IntSimd>(s: S, p: *const u8, i: usize) -> S::V {
        // 1.5·2^23: adding it rounds to a whole number; 7.5/16 makes that the
        // next one below, and no tie.
        const MAGIC: f32 = 12_582_912.0;
        // SAFETY: as above.
        unsafe {
            let both = s.load_u8(p.add(2 * HALF + i * PANEL));
            let down = s.fma(both, s.splat(1.0 / 16.0), s.splat(-7.5 / 16.0));
            s.sub(s.add(down, s.splat(MAGIC)), s.splat(MAGIC))
        }
    }
    fn put(span: &mut [u8], n: usize, side: &Side) {
        put_half(span, 0, n, side.halves[0]);
        put_half(span, HALF, n, side.halves[1]);
        for i in 0..16 {
            span[2 * HALF + i * PANEL + n] = side.scales[i] | side.mins[i] << 4;
        }
    }
    fn get(span: &[u8], n: usize, i: usize) -> (f32, f32) {
        let both = span[2 * HALF + i * PANEL + n];
        (
            half(span, 0, n) * f32::from(both & 15),
            half(span, HALF, n) * f32::from(both >> 4),
        )
    }
}

macro_rules! signed {
    ($($name:ident, $count:literal, halves $halves:literal;)+) => {
        $(impl Sides for $name {
            const BYTES: usize = HALF + $count * PANEL;
            const STEPS: usize = 8;
            const FLAT: bool = false;
            const HALVES: bool = $halves;
            const MINS: bool = false;
            #[inline(always)]
            unsafe fn factors<S: IntSimd>(s: S, p: *const u8) -> (S::V, S::V) {
                // SAFETY: as above.
                unsafe { (s.load_f16(p.cast()), s.zero()) }
            }
            #[inline(always)]
            unsafe fn scale<S: IntSimd>(s: S, p: *const u8, i: usize) -> S::V {
                // SAFETY: as above.
                unsafe { s.load_i8(p.add(HALF + i * PANEL)) }
            }
            #[inline(always)]
            unsafe fn min<S: IntSimd>(s: S, _: *const u8, _: usize) -> S::V {
                s.zero()
            }
            fn put(span: &mut [u8], n: usize, side: &Side) {
                put_half(span, 0, n, side.halves[0]);
                for i in 0..$count {
                    span[HALF + i * PANEL + n] = side.scales[i];
                }
            }
            fn get(span: &[u8], n: usize, i: usize) -> (f32, f32) {
                let scale = span[HALF + i * PANEL + n] as i8;
                (half(span, 0, n) * f32::from(scale), 0.0)
            }
        })+
    };
}
signed! {
    Signed16, 16, halves true;
    Signed32, 8, halves false;
}
