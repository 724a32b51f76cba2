//! Schemes of 32 elements that share one f16 scale: q4_0, q4_1, q5_0, q5_1, q8_0.
//!
//! | scheme | bytes of a block | element |
//! |---|---|---|
//! | q4_0 | d f16, 16 × nibbles | d · (q − 8) |
//! | q4_1 | d f16, m f16, 16 × nibbles | d · q + m |
//! | q5_0 | d f16, fifth bits u32, 16 × nibbles | d · (q − 16) |
//! | q5_1 | d f16, m f16, fifth bits u32, 16 × nibbles | d · q + m |
//! | q8_0 | d f16, 32 × i8 | d · q |
//!
//! Byte i of the nibbles holds element i below and element 16 + i above; bit i of the fifth bits
//! belongs to element i.

use half::f16;

use super::fit::{Symmetric, fit_symmetric};
use super::half_at;

/// Calls `put` with each element's place and its four low bits.
pub(super) fn nibbles(bytes: &[u8], mut put: impl FnMut(usize, u8)) {
    for (i, &b) in bytes.iter().enumerate() {
        put(i, b & 15);
        put(i + bytes.len(), b >> 4);
    }
}

pub(super) fn decode_q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    nibbles(&block[2..], |i, q| out[i] = d * f32::from(q as i8 - 8));
}

pub(super) fn decode_q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    nibbles(&block[4..], |i, q| out[i] = d * f32::from(q) + m);
}

fn fifth_bits(block: &[u8], at: usize) -> impl Fn(usize) -> u8 {
    let bits = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    move |i| ((bits >> i & 1) as u8) << 4
}

pub(super) fn decode_q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let (d, high) = (half_at(block, 0), fifth_bits(block, 2));
    nibbles(&block[6..], |i, q| {
        out[i] = d * f32::from((q | high(i)) as i8 - 16);
    });
}

pub(super) fn decode_q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    let high = fifth_bits(block, 4);
    nibbles(&block[8..], |i, q| {
        out[i] = d * f32::from(q | high(i)) + m;
    });
}

pub(super) fn decode_q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (out, &q) in out.iter_mut().zip(&block[2..]) {
        *out = d * f32::from(q as i8);
    }
}

pub(super) fn encode_q4_0(values: &[f32; 32]) -> [u8; 18] {
    let Symmetric { scale, q } = fit_symmetric(values, -8, 7, round_to_f16);
    let mut block = [0; 18];
    block[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    for i in 0..16 {
        block[2 + i] = (q[i] + 8) as u8 | ((q[i + 16] + 8) as u8) << 4;
    }
    block
}

pub(super) fn encode_q8_0(values: &[f32; 32]) -> [u8; 34] {
    let Symmetric { scale, q } = fit_symmetric(values, -127, 127, round_to_f16);
    let mut block = [0; 34];
    block[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    for (out, &q) in block[2..].iter_mut().zip(&q) {
        *out = q as i8 as u8;
    }
    block
}

/// The nearest finite f16.
pub(super) fn round_to_f16(x: f32) -> f32 {
    f16::from_f32(x.clamp(-65504.0, 65504.0)).to_f32()
}
