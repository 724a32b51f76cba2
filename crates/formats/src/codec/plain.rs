//! f32, f16, bf16: one number an element.

use half::{bf16, f16};

pub(super) fn decode_f32(bytes: &[u8], out: &mut [f32]) {
    for (out, b) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = f32::from_le_bytes(*b);
    }
}

pub(super) fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    for (out, b) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = f16::from_le_bytes(*b).to_f32();
    }
}

pub(super) fn decode_bf16(bytes: &[u8], out: &mut [f32]) {
    for (out, b) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = bf16::from_le_bytes(*b).to_f32();
    }
}

pub(super) fn encode_f32(values: &[f32], out: &mut [u8]) {
    for (v, out) in values.iter().zip(out.as_chunks_mut().0) {
        *out = v.to_le_bytes();
    }
}

/// To nearest, ties to even.
pub(super) fn encode_f16(values: &[f32], out: &mut [u8]) {
    for (v, out) in values.iter().zip(out.as_chunks_mut().0) {
        *out = f16::from_f32(*v).to_le_bytes();
    }
}

/// To nearest, ties to even.
pub(super) fn encode_bf16(values: &[f32], out: &mut [u8]) {
    for (v, out) in values.iter().zip(out.as_chunks_mut().0) {
        *out = bf16::from_f32(*v).to_le_bytes();
    }
}
