//! Decoders of the schemes with 256 elements in sub-blocks of 16 or 32, whose own small scales are
//! multiples of one or two f16: q2_k, q3_k, q4_k, q5_k, q6_k.
//!
//! | scheme | bytes of a block | sub-block | element |
//! |---|---|---|---|
//! | q2_k | 16 × (scale 4 bits, min 4 bits), 64 × four of 2 bits, d f16, dmin f16 | 16 | d·sc·q − dmin·m |
//! | q3_k | 32 × high bits, 64 × four of 2 bits, 12 bytes of 6-bit scales, d f16 | 16 | d·(sc − 32)·(q − 4) |
//! | q4_k | d f16, dmin f16, 12 bytes of 6-bit scales and mins, 128 × nibbles | 32 | d·sc·q − dmin·m |
//! | q5_k | d f16, dmin f16, the same 12 bytes, 32 × high bits, 128 × nibbles | 32 | d·sc·q − dmin·m |
//! | q6_k | 128 × nibbles, 64 × four high pairs, 16 × i8 scales, d f16 | 16 | d·sc·(q − 32) |
//!
//! Products are taken in the order d·sc, then times q: rounding is part of the format.

use super::half_at;

/// Element `e`'s two bits in 64 bytes: halves of 128 elements lie in 32 bytes each, four layers of
/// 32 elements one above the other.
fn pair(bytes: &[u8], e: usize) -> u8 {
    bytes[e / 128 * 32 + e % 32] >> (e / 32 % 4 * 2) & 3
}

/// Bit `e / 32` of byte `e % 32`.
fn high_bit(bytes: &[u8], e: usize) -> u8 {
    bytes[e % 32] >> (e / 32) & 1
}

/// Element `e`'s nibble in 128 bytes: pairs of 32-element sub-blocks share 32 bytes.
fn nibble(bytes: &[u8], e: usize) -> u8 {
    bytes[e / 64 * 32 + e % 32] >> (e / 32 % 2 * 4) & 15
}

pub(super) fn decode_q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 80), half_at(block, 82));
    for (s, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(block[s] & 15);
        let min = dmin * f32::from(block[s] >> 4);
        for (i, out) in out.iter_mut().enumerate() {
            *out = scale * f32::from(pair(&block[16..80], s * 16 + i)) - min;
        }
    }
}

pub(super) fn decode_q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let d = half_at(block, 108);
    let packed = &block[96..108];
    for (s, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let low = packed[s % 8] >> (s / 8 * 4) & 15;
        let high = packed[8 + s % 4] >> (s / 4 * 2) & 3;
        let scale = d * f32::from((low | high << 4) as i8 - 32);
        for (i, out) in out.iter_mut().enumerate() {
            let e = s * 16 + i;
            let q = pair(&block[32..96], e) as i8 - 4 + 4 * high_bit(&block[..32], e) as i8;
            *out = scale * f32::from(q);
        }
    }
}

/// Sub-block `s`'s scale and min, six bits each, out of the 12 bytes of q4_k and q5_k: the first
/// four of either lie in bytes 0–3 and 4–7, the others' low bits in bytes 8–11 and their two high
/// bits above the first four.
pub(super) fn scale_and_min(packed: &[u8], s: usize) -> (u8, u8) {
    if s < 4 {
        return (packed[s] & 63, packed[s + 4] & 63);
    }
    let low = packed[s + 4];
    (
        low & 15 | packed[s - 4] >> 6 << 4,
        low >> 4 | packed[s] >> 6 << 4,
    )
}

/// Undoes [`scale_and_min`].
pub(super) fn pack_scales_and_mins(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    let mut packed = [0; 12];
    for s in 0..4 {
        packed[s] = scales[s] & 63 | scales[s + 4] >> 4 << 6;
        packed[s + 4] = mins[s] & 63 | mins[s + 4] >> 4 << 6;
        packed[s + 8] = scales[s + 4] & 15 | mins[s + 4] << 4;
    }
    packed
}

pub(super) fn decode_q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    for (s, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_and_min(&block[4..16], s);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        for (i, out) in out.iter_mut().enumerate() {
            *out = scale * f32::from(nibble(&block[16..], s * 32 + i)) - min;
        }
    }
}

pub(super) fn decode_q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    for (s, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_and_min(&block[4..16], s);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        for (i, out) in out.iter_mut().enumerate() {
            let e = s * 32 + i;
            let q = nibble(&block[48..], e) | high_bit(&block[16..48], e) << 4;
            *out = scale * f32::from(q) - min;
        }
    }
}

pub(super) fn decode_q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = half_at(block, 208);
    for (s, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(block[192 + s] as i8);
        for (i, out) in out.iter_mut().enumerate() {
            let e = s * 16 + i;
            let low = block[e / 128 * 64 + e % 64] >> (e / 64 % 2 * 4) & 15;
            let q = low | pair(&block[128..192], e) << 4;
            *out = scale * f32::from(q as i8 - 32);
        }
    }
}
