//! The block schemes of GGUF files and w4_paro: which codes and sides a panel keeps, and how
//! a row's block comes apart into them. What each byte of a block means is
//! written in `formats`' codecs.
//!
//! `simd_q16`: a panel is 16 rows. First come the codes, step after step
//! ([`super::q_codes`]), then the sides, span after span ([`super::q_sides`]);
//! whole cache lines, padding is zero. It takes as many bytes as the file, but
//! for scales of six bits, which become bytes (at most 4 % more).

use super::layout::PANEL;
use super::q_codes::{C2, C3, C4, C5, C6, C8, Codes, E2m1, Iq4, STEP};
use super::q_sides::{
    Exponent, Half, HalfPlus, Nibbles, ScalesAndMins, Side, Sides, Signed16, Signed32, ZeroPoint,
};
use registry::{WeightLayout, WeightShape};

pub const Q16: &str = "simd_q16";

/// Bytes of the largest span's side.
const MOST_SIDE: usize = ScalesAndMins::BYTES;

/// What a row keeps in one span.
pub struct Span {
    pub codes: [u8; 256],
    pub side: Side,
}

/// A block scheme: an element is `scale · (code − ZERO) − min`.
pub trait BlockScheme: Copy + Send + Sync + 'static {
    type Codes: Codes;
    type Sides: Sides;
    /// Bytes of a row's block, which is one span.
    const BLOCK: usize;
    const ZERO: i32;
    /// Whether codes, looked up where they are, stay below 128.
    const NARROW: bool;

    /// Takes a row's block apart.
    fn split(block: &[u8], span: &mut Span);

    /// Puts row `n`'s block where a panel keeps its codes and its side.
    fn pack(block: &[u8], n: usize, codes: &mut [u8], side: &mut [u8], span: &mut Span) {
        Self::split(block, span);
        Self::Sides::put(side, n, &span.side);
        let all = span.codes.as_chunks::<STEP>().0;
        let steps = codes.chunks_exact_mut(Self::Codes::BYTES);
        for (step, values) in steps.zip(all) {
            Self::Codes::put(step, n, values);
        }
    }
}

macro_rules! schemes {
    ($($kind:ident $name:literal: $codes:ty, $sides:ty, block $block:literal,
       zero $zero:literal, narrow $narrow:literal, $split:expr
       $(, quickly $beside:expr, $put:expr)?;)+) => {
        /// The block schemes that the tree multiplies.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind {
            $($kind,)+
        }

        impl Kind {
            pub fn of(scheme: &str) -> Option<Kind> {
                match scheme {
                    $($name => Some(Kind::$kind),)+
                    _ => None,
                }
            }
        }

        $(
            #[derive(Clone, Copy)]
            pub struct $kind;

            impl BlockScheme for $kind {
                type Codes = $codes;
                type Sides = $sides;
                const BLOCK: usize = $block;
                const ZERO: i32 = $zero;
                const NARROW: bool = $narrow;
                fn split(block: &[u8], span: &mut Span) {
                    let split: fn(&[u8], &mut Span) = $split;
                    split(block, span);
                }
                $(
                    // Codes go over without being taken apart one by one: most of
                    // the time of loading a model is here.
                    fn pack(
                        block: &[u8],
                        n: usize,
                        codes: &mut [u8],
                        side: &mut [u8],
                        span: &mut Span,
                    ) {
                        let sides: fn(&[u8], &mut Side) = $beside;
                        let put: fn(&[u8], usize, &mut [u8]) = $put;
                        sides(block, &mut span.side);
                        Self::Sides::put(side, n, &span.side);
                        put(block, n, codes);
                    }
                )?
            }
        )+

        /// Gives `$body` the type of a [`Kind`] as `$w`.
        macro_rules! with_scheme {
            ($value:expr, $w:ident => $body:expr) => {
                match $value {
                    $($crate::common::q_scheme::Kind::$kind => {
                        type $w = $crate::common::q_scheme::$kind;
                        $body
                    })+
                }
            };
        }
        pub(crate) use with_scheme;

        const NAMES: &[&str] = &[$($name),+];
    };
}

schemes! {
    Q4_0 "q4_0": C4, Half, block 18, zero 8, narrow true,
        |b, s| { halves(b, &[0], &mut s.side); nibbles(&b[2..18], &mut s.codes); },
        quickly |b, side| halves(b, &[0], side), |b, n, codes| nibble_words(&b[2..18], n, codes);
    Q4_1 "q4_1": C4, HalfPlus, block 20, zero 0, narrow true,
        |b, s| { halves(b, &[0, 2], &mut s.side); nibbles(&b[4..20], &mut s.codes); };
    Q5_0 "q5_0": C5, Half, block 22, zero 16, narrow true,
        |b, s| { halves(b, &[0], &mut s.side); fives(&b[2..22], &mut s.codes); };
    Q5_1 "q5_1": C5, HalfPlus, block 24, zero 0, narrow true,
        |b, s| { halves(b, &[0, 2], &mut s.side); fives(&b[4..24], &mut s.codes); };
    Q8_0 "q8_0": C8, Half, block 34, zero 128, narrow false,
        |b, s| {
            halves(b, &[0], &mut s.side);
            each(&mut s.codes[..32], |k| b[2 + k] ^ 0x80);
        };
    Q2K "q2_k": C2, Nibbles, block 84, zero 0, narrow true,
        |b, s| {
            halves(b, &[80, 82], &mut s.side);
            each(&mut s.side.scales, |i| b[i] & 15);
            each(&mut s.side.mins, |i| b[i] >> 4);
            each(&mut s.codes, |k| pair(&b[16..80], k));
        };
    Q3K "q3_k": C3, Signed16, block 110, zero 4, narrow true,
        |b, s| {
            halves(b, &[108], &mut s.side);
            let packed = &b[96..108];
            each(&mut s.side.scales, |i| {
                let low = packed[i % 8] >> (i / 8 * 4) & 15;
                let high = packed[8 + i % 4] >> (i / 4 * 2) & 3;
                (low | high << 4).wrapping_sub(32)
            });
            each(&mut s.codes, |k| pair(&b[32..96], k) | high_bit(&b[..32], k) << 2);
        };
    Q4K "q4_k": C4, ScalesAndMins, block 144, zero 0, narrow true,
        |b, s| {
            halves(b, &[0, 2], &mut s.side);
            scales_and_mins(&b[4..16], &mut s.side);
            each(&mut s.codes, |k| nibble(&b[16..144], k));
        },
        quickly |b, side| { halves(b, &[0, 2], side); scales_and_mins(&b[4..16], side); },
        |b, n, codes| nibble_pair_words(&b[16..144], n, codes);
    Q5K "q5_k": C5, ScalesAndMins, block 176, zero 0, narrow true,
        |b, s| {
            halves(b, &[0, 2], &mut s.side);
            scales_and_mins(&b[4..16], &mut s.side);
            each(&mut s.codes, |k| nibble(&b[48..176], k) | high_bit(&b[16..48], k) << 4);
        };
    Q6K "q6_k": C6, Signed16, block 210, zero 32, narrow true,
        |b, s| {
            halves(b, &[208], &mut s.side);
            s.side.scales.copy_from_slice(&b[192..208]);
            each(&mut s.codes, |k| {
                let low = b[k / 128 * 64 + k % 64] >> (k / 64 % 2 * 4) & 15;
                low | pair(&b[128..192], k) << 4
            });
        };
    Iq4Nl "iq4_nl": Iq4, Half, block 18, zero 128, narrow false,
        |b, s| { halves(b, &[0], &mut s.side); nibbles(&b[2..18], &mut s.codes); };
    Iq4Xs "iq4_xs": Iq4, Signed32, block 136, zero 128, narrow false,
        |b, s| {
            halves(b, &[0], &mut s.side);
            let high = u16::from_le_bytes([b[2], b[3]]);
            each(&mut s.side.scales[..8], |i| {
                let low = b[4 + i / 2] >> (i % 2 * 4) & 15;
                (low | ((high >> (2 * i) & 3) as u8) << 4).wrapping_sub(32)
            });
            let (codes, bytes) = (s.codes.as_chunks_mut::<32>().0, b[8..].chunks_exact(16));
            codes.iter_mut().zip(bytes).for_each(|(c, b)| nibbles(b, c));
        };
    Mxfp4 "mxfp4": E2m1, Exponent, block 17, zero 12, narrow true,
        |b, s| {
            s.side.halves[0] = u16::from(b[0]);
            nibbles(&b[1..17], &mut s.codes);
        };
    W4Paro "w4_paro": C4, ZeroPoint, block 68, zero 0, narrow true,
        |b, s| {
            halves(b, &[0], &mut s.side);
            s.side.mins[0] = b[2];
            let (codes, bytes) = (s.codes.as_chunks_mut::<32>().0, b[4..].chunks_exact(16));
            codes.iter_mut().zip(bytes).for_each(|(c, b)| nibbles(b, c));
        };
}

fn each(out: &mut [u8], f: impl Fn(usize) -> u8) {
    for (i, out) in out.iter_mut().enumerate() {
        *out = f(i);
    }
}

fn halves(block: &[u8], at: &[usize], side: &mut Side) {
    for (half, at) in side.halves.iter_mut().zip(at) {
        *half = u16::from_le_bytes([block[*at], block[at + 1]]);
    }
}

/// Byte i holds element i below and element 16 + i above.
fn nibbles(bytes: &[u8], codes: &mut [u8]) {
    for (i, b) in bytes.iter().enumerate() {
        codes[i] = b & 15;
        codes[16 + i] = b >> 4;
    }
}

/// Eight codes, a byte each, as [`Codes::put`] keeps two quads: the first four below.
fn word(eight: u64) -> [u8; 4] {
    (eight as u32 | ((eight >> 32) as u32) << 4).to_le_bytes()
}

const LOW: u64 = 0x0f0f_0f0f_0f0f_0f0f;

/// [`nibbles`] of sixteen bytes, straight to row `n` of a step.
fn nibble_words(bytes: &[u8], n: usize, step: &mut [u8]) {
    for (i, eight) in bytes.as_chunks::<8>().0.iter().enumerate() {
        let eight = u64::from_le_bytes(*eight);
        for (plane, codes) in [(i, eight & LOW), (i + 2, eight >> 4 & LOW)] {
            step[plane * 64 + 4 * n..][..4].copy_from_slice(&word(codes));
        }
    }
}

/// What [`nibble`] finds, straight to row `n` of the steps of a block.
fn nibble_pair_words(bytes: &[u8], n: usize, steps: &mut [u8]) {
    let pairs = steps.chunks_exact_mut(2 * C4::BYTES);
    for (pair, bytes) in pairs.zip(bytes.as_chunks::<32>().0) {
        let (low, high) = pair.split_at_mut(C4::BYTES);
        for (plane, eight) in bytes.as_chunks::<8>().0.iter().enumerate() {
            let eight = u64::from_le_bytes(*eight);
            let at = plane * 64 + 4 * n;
            low[at..][..4].copy_from_slice(&word(eight & LOW));
            high[at..][..4].copy_from_slice(&word(eight >> 4 & LOW));
        }
    }
}

/// Four bytes of fifth bits, then nibbles.
fn fives(bytes: &[u8], codes: &mut [u8]) {
    nibbles(&bytes[4..], codes);
    let high = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    for (i, code) in codes.iter_mut().take(32).enumerate() {
        *code |= ((high >> i & 1) as u8) << 4;
    }
}

/// Halves of 128 elements in 32 bytes each, four layers of 32 elements.
fn pair(bytes: &[u8], k: usize) -> u8 {
    bytes[k / 128 * 32 + k % 32] >> (k / 32 % 4 * 2) & 3
}

fn high_bit(bytes: &[u8], k: usize) -> u8 {
    bytes[k % 32] >> (k / 32) & 1
}

/// Pairs of 32 elements share 32 bytes.
fn nibble(bytes: &[u8], k: usize) -> u8 {
    bytes[k / 64 * 32 + k % 32] >> (k / 32 % 2 * 4) & 15
}

/// Eight scales and eight mins of six bits: the first four of either in bytes 0–3
/// and 4–7, with two bits of the others above them; the others' low bits in bytes
/// 8–11.
fn scales_and_mins(packed: &[u8], side: &mut Side) {
    for i in 0..4 {
        side.scales[i] = packed[i] & 63;
        side.mins[i] = packed[i + 4] & 63;
        side.scales[i + 4] = packed[i + 8] & 15 | packed[i] >> 6 << 4;
        side.mins[i + 4] = packed[i + 8] >> 4 | packed[i + 4] >> 6 << 4;
    }
}

/// Where a panel's parts lie, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct PanelParts {
    /// Steps of K.
    pub steps: usize,
    /// Codes of a step.
    pub codes: usize,
    /// The first span's side.
    pub sides: usize,
    /// A span's side.
    pub side: usize,
    /// The panel.
    pub bytes: usize,
}

impl PanelParts {
    pub fn of<W: BlockScheme>(k: usize) -> PanelParts {
        let steps = k / STEP;
        let (codes, side) = (W::Codes::BYTES, W::Sides::BYTES);
        let sides = steps * codes;
        let bytes = sides + steps / W::Sides::STEPS * side;
        PanelParts {
            steps,
            codes,
            sides,
            side,
            bytes: bytes.next_multiple_of(64),
        }
    }

    /// `None` unless K is whole blocks.
    pub fn find(kind: Kind, k: usize) -> Option<PanelParts> {
        with_scheme!(kind, W => {
            let span = <W as BlockScheme>::Sides::STEPS * STEP;
            k.is_multiple_of(span).then(|| PanelParts::of::<W>(k))
        })
    }
}

fn pack<W: BlockScheme>(k: usize, rows: usize, src: &[u8], dst: &mut [u8]) {
    let parts = PanelParts::of::<W>(k);
    dst.fill(0);
    if k == 0 {
        return;
    }
    let (codes, sides) = dst.split_at_mut(parts.sides);
    let mut span = Span {
        codes: [0; 256],
        side: Side::default(),
    };
    let steps = W::Sides::STEPS;
    let row = parts.steps / steps * W::BLOCK;
    for (n, row) in src.chunks_exact(row).take(rows).enumerate() {
        for (b, block) in row.chunks_exact(W::BLOCK).enumerate() {
            let codes = &mut codes[b * steps * parts.codes..][..steps * parts.codes];
            let side = &mut sides[b * parts.side..][..parts.side];
            W::pack(block, n, codes, side, &mut span);
        }
    }
}

/// Elements of row `n` of a panel from step `step` on, as many as `out` holds,
/// each as the scheme's own decoder rounds it.
pub fn decode<W: BlockScheme>(panel: &[u8], k: usize, n: usize, step: usize, out: &mut [f32]) {
    let parts = PanelParts::of::<W>(k);
    let group = if W::Sides::HALVES { 16 } else { 32 };
    for (i, out) in out.chunks_mut(group).enumerate() {
        let k = step * STEP + i * group;
        let (step, first) = (k / STEP, k % STEP);
        let span = &panel[parts.sides + step / W::Sides::STEPS * parts.side..][..parts.side];
        let inside = step % W::Sides::STEPS * STEP + first;
        let (scale, min) = W::Sides::get(span, n, inside / group);
        let codes = &panel[step * parts.codes..][..parts.codes];
        for (i, out) in out.iter_mut().enumerate() {
            let code = W::Codes::get(codes, n, first + i);
            *out = scale * (i32::from(code) - W::ZERO) as f32 - min;
        }
    }
}

/// The elements of a row's block as a file has it, rounded as [`decode`] does.
pub fn decode_block<W: BlockScheme>(block: &[u8], out: &mut [f32]) {
    let mut span = Span {
        codes: [0; 256],
        side: Side::default(),
    };
    W::split(block, &mut span);
    let mut side = [0; MOST_SIDE];
    W::Sides::put(&mut side, 0, &span.side);
    let group = if W::Sides::HALVES { 16 } else { 32 };
    let parts = out.chunks_mut(group).zip(span.codes.chunks(group));
    for (i, (out, codes)) in parts.enumerate() {
        let (scale, min) = W::Sides::get(&side, 0, i);
        for (out, &code) in out.iter_mut().zip(codes) {
            let code = W::Codes::TABLE.map_or(code, |table| table[usize::from(code)]);
            *out = scale * (i32::from(code) - W::ZERO) as f32 - min;
        }
    }
}

registry::inventory::submit! {
    WeightLayout {
        name: Q16,
        schemes: NAMES,
        panel_rows: PANEL,
        panel_bytes: |shape| {
            shape.k.checked_mul(4 * PANEL)?;
            let parts = PanelParts::find(Kind::of(shape.scheme.0)?, shape.k)?;
            Some(parts.bytes as u64)
        },
        pack: |shape: &WeightShape, rows, src, dst| {
            if let Some(kind) = Kind::of(shape.scheme.0) {
                with_scheme!(kind, W => pack::<W>(shape.k, rows, src, dst));
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use formats::StoredType;
    use registry::Scheme;

    fn stored(name: &str) -> StoredType {
        let mut all = StoredType::ALL.iter().copied();
        all.find(|t| t.scheme() == name).expect("a stored type")
    }

    /// Random blocks whose f16 are small numbers.
    fn blocks(bytes: usize) -> Vec<u8> {
        let mut x = 12345u32;
        let mut next = || {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // An f16 ends in such a byte: no exponent of ones.
            (x >> 24) as u8 & 0xbf
        };
        (0..bytes).map(|_| next()).collect()
    }

    #[test]
    fn packed_and_plain_blocks_decode_as_the_file_says() {
        let layout = WeightLayout::find(Q16).expect("registered");
        for name in NAMES {
            let kind = Kind::of(name).expect("a block scheme");
            let scheme = Scheme::find(name).expect("a registered scheme");
            let block = stored(name).block_elements();
            for (rows, k) in [(16, 1024), (3, block), (16, 3 * block)] {
                let shape = WeightShape { scheme, n: rows, k };
                let row = scheme.row_bytes(k).expect("whole blocks") as usize;
                let src = blocks(rows * row);
                let size = (layout.panel_bytes)(&shape).expect("whole blocks");
                let mut panel = vec![0xff; size as usize];
                (layout.pack)(&shape, rows, &src, &mut panel);
                if rows == 16 && k == 1024 {
                    let most = (16 * row) as f64 * 1.05;
                    assert!(size as f64 <= most, "{name}: {size} bytes for {most}");
                }
                for (n, bytes) in src.chunks_exact(row).enumerate() {
                    let mut want = vec![0f32; k];
                    formats::decode_row(stored(name), bytes, &mut want).expect("whole blocks");
                    let mut got = vec![0f32; k];
                    with_scheme!(kind, W => decode::<W>(&panel, k, n, 0, &mut got));
                    assert_eq!(got, want, "{name}, row {n} of {rows}, {k} elements");
                    let mut one = vec![0f32; block];
                    with_scheme!(kind, W => decode_block::<W>(&bytes[..row / (k / block)], &mut one));
                    assert_eq!(one, want[..block], "{name}, a block of row {n}");
                }
                for n in rows..PANEL {
                    let mut none = vec![1f32; 32];
                    with_scheme!(kind, W => decode::<W>(&panel, k, n, 0, &mut none));
                    assert!(none.iter().all(|v| v.abs() < 1e-30), "{name}: padding");
                }
            }
        }
    }

    #[test]
    fn rows_of_partial_blocks_have_no_panel() {
        for (scheme, k) in [("q4_0", 40), ("q4_k", 128), ("w4_paro", 64)] {
            let kind = Kind::of(scheme).expect("a block scheme");
            assert!(PanelParts::find(kind, k).is_none(), "{scheme}");
        }
    }
}
