//! Block codecs: stored weights to f32 and back.
//!
//! A block scheme stores 32 or 256 neighbouring elements of a row together: small integers and the
//! scales that they share. What each byte means is written beside its decoder. Decoding is exact:
//! the same f32 bits as the reference dequantiser of the PyPI package `gguf`
//! (tests/golden/blocks.py). Encoding searches for the scales with the least squared error, each
//! element counting alike; a row is encoded without looking at any other.

mod blocks32;
mod fit;
mod k_encode;
mod k_quants;
mod nonlinear;
mod paro;
mod plain;

use crate::dtype::StoredType;
pub(crate) use paro::{PARO_GROUP, ParoBlock};

/// Why a row cannot be decoded or encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    #[error("{0} does not hold real numbers of at most 32 bits; wanted a float or block scheme")]
    NotReal(StoredType),
    #[error("there is no encoder for {0}; wanted f32, f16, bf16, q8_0, q4_0, q4_k or q6_k")]
    NoEncoder(StoredType),
    #[error(
        "{stored}: {elements} elements take whole blocks of {block} and {needed} bytes, found {bytes} bytes"
    )]
    Length {
        stored: StoredType,
        elements: usize,
        block: usize,
        needed: u64,
        bytes: usize,
    },
    #[error("element {at} is not finite, so it cannot be stored as {stored}")]
    NotFinite { stored: StoredType, at: usize },
    #[error(
        "element {at} is too large to be stored as {stored}, whose scales end at 65504; use bf16"
    )]
    TooLarge { stored: StoredType, at: usize },
}

/// Decodes `bytes`, whole blocks of `stored`, into as many f32 as they hold: `out.len()`.
///
/// Exact; a scale that is not finite in a damaged file gives elements that are not. Errors: a type
/// without real numbers, lengths that do not fit each other.
pub fn decode_row(stored: StoredType, bytes: &[u8], out: &mut [f32]) -> Result<(), CodecError> {
    check_lengths(stored, out.len(), bytes.len())?;
    match stored {
        StoredType::F32 => plain::decode_f32(bytes, out),
        StoredType::F16 => plain::decode_f16(bytes, out),
        StoredType::BF16 => plain::decode_bf16(bytes, out),
        StoredType::Q4_0 => each(bytes, out, blocks32::decode_q4_0),
        StoredType::Q4_1 => each(bytes, out, blocks32::decode_q4_1),
        StoredType::Q5_0 => each(bytes, out, blocks32::decode_q5_0),
        StoredType::Q5_1 => each(bytes, out, blocks32::decode_q5_1),
        StoredType::Q8_0 => each(bytes, out, blocks32::decode_q8_0),
        StoredType::Q2_K => each(bytes, out, k_quants::decode_q2_k),
        StoredType::Q3_K => each(bytes, out, k_quants::decode_q3_k),
        StoredType::Q4_K => each(bytes, out, k_quants::decode_q4_k),
        StoredType::Q5_K => each(bytes, out, k_quants::decode_q5_k),
        StoredType::Q6_K => each(bytes, out, k_quants::decode_q6_k),
        StoredType::IQ4_NL => each(bytes, out, nonlinear::decode_iq4_nl),
        StoredType::IQ4_XS => each(bytes, out, nonlinear::decode_iq4_xs),
        StoredType::MXFP4 => each(bytes, out, nonlinear::decode_mxfp4),
        StoredType::W4_PARO => each(bytes, out, paro::decode_w4_paro),
        _ => return Err(CodecError::NotReal(stored)),
    }
    Ok(())
}

/// Encodes `values`, whole blocks, into `out`, which is as long as they need.
///
/// The same values give the same bytes on every machine. Errors: a type without an encoder (see
/// [`can_encode`]), lengths that do not fit each other, a value that is not finite or whose block
/// needs a scale beyond f16.
pub fn encode_row(stored: StoredType, values: &[f32], out: &mut [u8]) -> Result<(), CodecError> {
    if !can_encode(stored) {
        return Err(CodecError::NoEncoder(stored));
    }
    check_lengths(stored, values.len(), out.len())?;
    if let Some(at) = values.iter().position(|v| !v.is_finite()) {
        return Err(CodecError::NotFinite { stored, at });
    }
    let largest = encodable_magnitude(stored);
    if let Some(at) = values.iter().position(|v| v.abs() > largest) {
        return Err(CodecError::TooLarge { stored, at });
    }
    match stored {
        StoredType::F32 => plain::encode_f32(values, out),
        StoredType::F16 => plain::encode_f16(values, out),
        StoredType::BF16 => plain::encode_bf16(values, out),
        StoredType::Q4_0 => each_back(values, out, blocks32::encode_q4_0),
        StoredType::Q8_0 => each_back(values, out, blocks32::encode_q8_0),
        StoredType::Q4_K => each_back(values, out, k_encode::encode_q4_k),
        StoredType::Q6_K => each_back(values, out, k_encode::encode_q6_k),
        // `can_encode` lists exactly the types above.
        _ => return Err(CodecError::NoEncoder(stored)),
    }
    Ok(())
}

/// Whether [`encode_row`] writes this type.
pub const fn can_encode(stored: StoredType) -> bool {
    matches!(
        stored,
        StoredType::F32
            | StoredType::F16
            | StoredType::BF16
            | StoredType::Q4_0
            | StoredType::Q8_0
            | StoredType::Q4_K
            | StoredType::Q6_K
    )
}

/// The largest magnitude that a scheme surely represents, its scale being an f16 below infinity.
fn encodable_magnitude(stored: StoredType) -> f32 {
    const F16_MAX: f32 = 65504.0;
    match stored {
        StoredType::F16 => F16_MAX,
        StoredType::Q4_0 => F16_MAX * 7.0,
        StoredType::Q8_0 => F16_MAX * 127.0,
        // 6-bit and 8-bit scales of sub-blocks; nothing in practice comes near.
        StoredType::Q4_K | StoredType::Q6_K => F16_MAX * 63.0,
        // bf16 rounds the topmost f32 to infinity.
        StoredType::BF16 => half::bf16::MAX.to_f32(),
        _ => f32::MAX,
    }
}

fn check_lengths(stored: StoredType, elements: usize, bytes: usize) -> Result<(), CodecError> {
    if stored.bytes_for(&[elements]) == Some(bytes as u64) {
        return Ok(());
    }
    let block = stored.block_elements();
    Err(CodecError::Length {
        stored,
        elements,
        block,
        needed: (elements.div_ceil(block) as u64).saturating_mul(stored.block_bytes() as u64),
        bytes,
    })
}

fn each<const B: usize, const N: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; B], &mut [f32; N]),
) {
    let blocks = bytes.as_chunks().0.iter();
    for (block, out) in blocks.zip(out.as_chunks_mut().0) {
        decode(block, out);
    }
}

fn each_back<const B: usize, const N: usize>(
    values: &[f32],
    out: &mut [u8],
    encode: impl Fn(&[f32; N]) -> [u8; B],
) {
    let blocks = values.as_chunks().0.iter();
    for (values, out) in blocks.zip(out.as_chunks_mut().0) {
        *out = encode(values);
    }
}

/// The f16 whose bytes start at `at`.
fn half_at(block: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

#[cfg(test)]
mod tests;
