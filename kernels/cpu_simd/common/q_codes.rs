//! Codes of block schemes in panels: small unsigned numbers of 2 to 8 bits, 32
//! neighbours of K for each of 16 rows at a time.
//!
//! Four neighbours of K and 16 rows make a *quad*, a vector of 64 bytes `[16 n]
//! [4 k]`; eight quads follow each other along K. They are kept in planes of 64
//! bytes, one above the other: nibbles of quads 2i and 2i + 1 in plane i, four
//! quads' pairs of bits in a plane, single bits of all eight in one.

use super::int::IntSimd;
use super::layout::PANEL;

/// Elements of K whose codes lie together.
pub const STEP: usize = 32;
/// Quads of a step.
pub const QUADS: usize = STEP / 4;
/// Bytes of a plane.
const PLANE: usize = 4 * PANEL;

pub trait Codes: Copy + Send + Sync + 'static {
    /// Bytes of a step.
    const BYTES: usize;
    /// The byte that stands for a code where codes are looked up.
    const TABLE: Option<&'static [u8; 16]> = None;

    /// The eight quads of a step.
    ///
    /// # Safety
    /// `BYTES` readable bytes.
    unsafe fn quads<S: IntSimd>(s: S, p: *const u8) -> [S::B; QUADS];

    /// Stores row `n`'s codes in a step that is all zeros there.
    fn put(step: &mut [u8], n: usize, codes: &[u8; STEP]);

    /// What `put` stored.
    fn get(step: &[u8], n: usize, k: usize) -> u8;
}

/// Place of an element in its quad.
fn place(n: usize, k: usize) -> usize {
    n * 4 + k % 4
}

/// The pieces that wider codes are put together from, each from byte `at` on: of
/// every code the lowest `BITS` bits after the first `FROM`, in as many quads of a
/// plane as a byte has room for.
fn put_bits<const FROM: u32, const BITS: u32>(
    step: &mut [u8],
    at: usize,
    n: usize,
    codes: &[u8; STEP],
) {
    let mask = u32::from_ne_bytes([(((1u32 << BITS) - 1) & 0xff) as u8; 4]);
    let quads = codes.as_chunks::<4>().0;
    for (plane, quads) in quads.chunks_exact(8 / BITS as usize).enumerate() {
        let word = quads.iter().rev().fold(0, |word, quad| {
            let bits = u32::from_ne_bytes(*quad) >> FROM & mask;
            // Whole bytes are not shifted: there is one quad of them.
            if BITS == 8 { bits } else { word << BITS | bits }
        });
        step[at + plane * PLANE + n * 4..][..4].copy_from_slice(&word.to_ne_bytes());
    }
}

fn get_bits<const BITS: u32>(step: &[u8], at: usize, n: usize, k: usize) -> u8 {
    let (quad, each) = (k / 4, 8 / BITS as usize);
    let byte = step[at + quad / each * PLANE + place(n, k)];
    byte >> (quad % each * BITS as usize) & ((1u32 << BITS) - 1) as u8
}

#[inline(always)]
unsafe fn nibbles<S: IntSimd>(s: S, p: *const u8) -> [S::B; QUADS] {
    let low = |b| s.field::<0, 4, 0>(b);
    let high = |b| s.field::<4, 4, 0>(b);
    // SAFETY: the caller vouches for four planes.
    unsafe {
        let a = s.load_bytes(p);
        let b = s.load_bytes(p.add(PLANE));
        let c = s.load_bytes(p.add(2 * PLANE));
        let d = s.load_bytes(p.add(3 * PLANE));
        [
            low(a),
            high(a),
            low(b),
            high(b),
            low(c),
            high(c),
            low(d),
            high(d),
        ]
    }
}

/// Pairs of bits of two planes, moved to begin at `TO`.
#[inline(always)]
unsafe fn pairs<S: IntSimd, const TO: u32>(s: S, p: *const u8) -> [S::B; QUADS] {
    // SAFETY: the caller vouches for two planes.
    unsafe {
        let (a, b) = (s.load_bytes(p), s.load_bytes(p.add(PLANE)));
        [
            s.field::<0, 2, TO>(a),
            s.field::<2, 2, TO>(a),
            s.field::<4, 2, TO>(a),
            s.field::<6, 2, TO>(a),
            s.field::<0, 2, TO>(b),
            s.field::<2, 2, TO>(b),
            s.field::<4, 2, TO>(b),
            s.field::<6, 2, TO>(b),
        ]
    }
}

/// Single bits of a plane, moved to `TO`.
#[inline(always)]
unsafe fn bits<S: IntSimd, const TO: u32>(s: S, p: *const u8) -> [S::B; QUADS] {
    // SAFETY: the caller vouches for a plane.
    let a = unsafe { s.load_bytes(p) };
    [
        s.field::<0, 1, TO>(a),
        s.field::<1, 1, TO>(a),
        s.field::<2, 1, TO>(a),
        s.field::<3, 1, TO>(a),
        s.field::<4, 1, TO>(a),
        s.field::<5, 1, TO>(a),
        s.field::<6, 1, TO>(a),
        s.field::<7, 1, TO>(a),
    ]
}

#[inline(always)]
fn join<S: IntSimd>(s: S, low: [S::B; QUADS], high: [S::B; QUADS]) -> [S::B; QUADS] {
    let mut out = low;
    for i in 0..QUADS {
        out[i] = s.or(low[i], high[i]);
    }
    out
}

/// Two bits.
#[derive(Clone, Copy)]
pub struct C2;
/// Two bits and a third.
#[derive(Clone, Copy)]
pub struct C3;
#[derive(Clone, Copy)]
pub struct C4;
/// Four bits and a fifth.
#[derive(Clone, Copy)]
pub struct C5;
/// Four bits and two more.
#[derive(Clone, Copy)]
pub struct C6;
#[derive(Clone, Copy)]
pub struct C8;
/// Four bits that pick from the levels of iq4_nl and iq4_xs, plus 128.
#[derive(Clone, Copy)]
pub struct Iq4;
/// Four bits that pick from twice the values of E2M1, plus 12.
#[derive(Clone, Copy)]
pub struct E2m1;

/// −127, −104, −83, −65, −49, −35, −22, −10, 1, 13, 25, 38, 53, 69, 89, 113.
const IQ4: [u8; 16] = [
    1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241,
];

/// 0, 1, 2, 3, 4, 6, 8, 12 and their negatives.
const E2M1: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

impl Codes for C2 {
    const BYTES: usize = 2 * PLANE;
    #[inline(always)]
    unsafe fn quads<S: IntSimd>(s: S, p: *const u8) -> [S::B; QUADS] {
        // SAFETY: as the caller promises, here and below.
        unsafe { pairs::<S, 0>(s, p) }
    }
    fn put(step: &mut [u8], n: usize, codes: &[u8; STEP]) {
        put_bits::<0, 2>(step, 0, n, codes);
    }
    fn get(step: &[u8], n: usize, k: usize) -> u8 {
        get_bits::<2>(step, 0, n, k)
    }
}

impl Codes for C3 {
    const BYTES: usize = 3 * PLANE;
    #[inline(always)]
    unsafe fn quads<S: IntSimd>(s: S, p: *const u8) -> [S::B; QUADS] {
        // SAFETY: as above.
        unsafe { join(s, pairs::<S, 0>(s, p), bits::<S, 2>(s, p.add(2 * PLANE))) }
    }
    fn put(step: &mut [u8], n: usize, codes: &[u8; STEP]) {
        put_bits::<0, 2>(step, 0, n, codes);
        put_bits::<2, 1>(step, 2 * PLANE, n, codes);
    }
    fn get(step: &[u8], n: usize, k: usize) -> u8 {
        get_bits::<2>(step, 0, n, k) | get_bits::<1>(step, 2 * PLANE, n, k) << 2
    }
}

impl Codes for C4 {
    const BYTES: usize = 4 * PLANE;
    #[inline(always)]
    unsafe fn quads<S: IntSimd>(s: S, p: *const u8) -> [S::B; QUADS] {
        // SAFETY: as above.
        unsafe { nibbles(s, p) }
    }
    fn put(step: &mut [u8], n: usize, codes: &[u8; STEP]) {
        put_bits::<0, 4>(step, 0, n, codes);
    }
    fn get(step: &[u8], n: usize, k: usize) -> u8 {
        get_bits::<4>(step, 0, n, k)
    }
}

impl Codes for C5 {
    const BYTES: usize = 5 * PLANE;
    #[inline(always)]
    unsafe fn quads<S: IntSimd>(s: S, p: *const u8) -> [S::B; QUADS] {
        // SAFETY: as above.
        unsafe { join(s, nibbles(s, p), bits::<S, 4>(s, p.add(4 * PLANE))) }
    }
    fn put(step: &mut [u8], n: usize, codes: &[u8; STEP]) {
        put_bits::<0, 4>(step, 0, n, codes);
        put_bits::<4, 1>(step, 4 * PLANE, n, codes);
    }
    fn get(step: &[u8], n: usize, k: usize) -> u8 {
        get_bits::<4>(step, 0, n, k) | get_bits::<1>(step, 4 * PLANE, n, k) << 4
    }
}

impl Codes for C6 {
    const BYTES: usize = 6 * PLANE;
    #[inline(always)]
    unsafe fn quads<S: IntSimd>(s: S, p: *const u8) -> [S::B; QUADS] {
        // SAFETY: as above.
        unsafe { join(s, nibbles(s, p), pairs::<S, 4>(s, p.add(4 * PLANE))) }
    }
    fn put(step: &mut [u8], n: usize, codes: &[u8; STEP]) {
        put_bits::<0, 4>(step, 0, n, codes);
        put_bits::<4, 2>(step, 4 * PLANE, n, codes);
    }
    fn get(step: &[u8], n: usize, k: usize) -> u8 {
        get_bits::<4>(step, 0, n, k) | get_bits::<2>(step, 4 * PLANE, n, k) << 4
    }
}

impl Codes for C8 {
    const BYTES: usize = 8 * PLANE;
    #[inline(always)]
    unsafe fn quads<S: IntSimd>(s: S, p: *const u8) -> [S::B; QUADS] {
        // SAFETY: as above.
        unsafe {
            let mut out = [s.load_bytes(p); QUADS];
            for (i, out) in out.iter_mut().enumerate() {
                *out = s.load_bytes(p.add(i * PLANE));
            }
            out
        }
    }
    fn put(step: &mut [u8], n: usize, codes: &[u8; STEP]) {
        put_bits::<0, 8>(step, 0, n, codes);
    }
    fn get(step: &[u8], n: usize, k: usize) -> u8 {
        get_bits::<8>(step, 0, n, k)
    }
}

macro_rules! looked_up {
    ($($name:ident $table:ident)+) => {
        $(impl Codes for $name {
            const BYTES: usize = C4::BYTES;
            const TABLE: Option<&'static [u8; 16]> = Some(&$table);
            #[inline(always)]
            unsafe fn quads<S: IntSimd>(s: S, p: *const u8) -> [S::B; QUADS] {
                // SAFETY: as above.
                let mut out = unsafe { nibbles(s, p) };
                for out in &mut out {
                    *out = s.lookup(&$table, *out);
                }
                out
            }
            fn put(step: &mut [u8], n: usize, codes: &[u8; STEP]) {
                C4::put(step, n, codes);
            }
            fn get(step: &[u8], n: usize, k: usize) -> u8 {
                $table[usize::from(C4::get(step, n, k))]
            }
        })+
    };
}
looked_up! { Iq4 IQ4 E2m1 E2M1 }
