//! Schemes of four bits that pick from a table: iq4_nl, iq4_xs, mxfp4.
//!
//! | scheme | bytes of a block | element |
//! |---|---|---|
//! | iq4_nl | d f16, 16 × nibbles | d · IQ4[q], 32 elements |
//! | iq4_xs | d f16, high scale bits u16, 4 × low scale nibbles, 8 × 16 × nibbles | d · (sc − 32) · IQ4[q], 8 sub-blocks of 32 |
//! | mxfp4 | exponent e, 16 × nibbles | 2^(e − 128) · E2M1[q], 32 elements |
//!
//! Within 16 bytes of nibbles, byte i holds element i below and element 16 + i above.

use super::blocks32::nibbles;
use super::half_at;

/// Levels that lie closer together around zero, as weights do.
const IQ4: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// Twice the values of the OCP microscaling format's four-bit floats (sign, two exponent bits, one
/// mantissa bit), so that they are whole.
const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

pub(super) fn decode_iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    nibbles(&block[2..], |i, q| out[i] = d * f32::from(IQ4[q as usize]));
}

pub(super) fn decode_iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let d = half_at(block, 0);
    let high = u16::from_le_bytes([block[2], block[3]]);
    for (s, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let low = block[4 + s / 2] >> (s % 2 * 4) & 15;
        let scale = low | ((high >> (2 * s) & 3) as u8) << 4;
        let scale = d * f32::from(scale as i8 - 32);
        let bytes = &block[8 + 16 * s..24 + 16 * s];
        nibbles(bytes, |i, q| out[i] = scale * f32::from(IQ4[q as usize]));
    }
}

pub(super) fn decode_mxfp4(block: &[u8; 17], out: &mut [f32; 32]) {
    let d = half_of_e8m0(block[0]);
    nibbles(&block[1..], |i, q| out[i] = d * f32::from(E2M1[q as usize]));
}

/// 2^(e − 128): half of what the exponent means, because [`E2M1`] is doubled. The two smallest are
/// subnormal.
fn half_of_e8m0(e: u8) -> f32 {
    let e = u32::from(e);
    f32::from_bits(if e < 2 {
        0x0020_0000 << e
    } else {
        (e - 1) << 23
    })
}
