//! w4_paro: four bits against a zero point and a scale for each 128 inputs, as ParoQuant keeps
//! them. The weights belong to rotated inputs; the rotation is not part of the scheme.
//!
//! | bytes of a block | element |
//! |---|---|
//! | s f16, z u8 (0 to 15), 0, 4 × 16 × nibbles | (q − z) · s |
//!
//! Nibbles lie as in four blocks of 32: byte i of the j-th 16 holds element 32j + i below and
//! element 32j + 16 + i above.

use super::blocks32::nibbles;
use super::half_at;

/// Elements of a block.
pub(crate) const PARO_GROUP: usize = 128;

/// How a block is put together.
pub(crate) struct ParoBlock;

impl ParoBlock {
    pub(crate) const BYTES: usize = 4 + PARO_GROUP / 2;

    /// A block whose elements are all q = 0.
    pub(crate) fn empty(scale: [u8; 2], zero: u8) -> [u8; Self::BYTES] {
        let mut block = [0; Self::BYTES];
        block[..2].copy_from_slice(&scale);
        block[2] = zero;
        block
    }

    /// Puts q, at most 15, as element `at` of a block that has q = 0 there.
    pub(crate) fn set(block: &mut [u8; Self::BYTES], at: usize, q: u8) {
        block[4 + at / 32 * 16 + at % 16] |= q << (at % 32 / 16 * 4);
    }
}

pub(super) fn decode_w4_paro(block: &[u8; ParoBlock::BYTES], out: &mut [f32; PARO_GROUP]) {
    let (scale, zero) = (half_at(block, 0), i16::from(block[2]));
    let parts = block[4..].as_chunks::<16>().0.iter();
    for (bytes, out) in parts.zip(out.as_chunks_mut::<32>().0) {
        nibbles(bytes, |i, q| {
            out[i] = f32::from(i16::from(q) - zero) * scale;
        });
    }
}
