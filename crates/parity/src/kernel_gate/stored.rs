//! Writing random values in storage schemes.

use half::{bf16, f16};
use registry::Scheme;

/// `values` in a scheme, row-major; `None` if the gate cannot write the scheme.
pub fn encode(scheme: Scheme, values: &[f32]) -> Option<Vec<u8>> {
    Some(match scheme {
        Scheme::F32 => each(values, f32::to_le_bytes),
        Scheme::F16 => each(values, |v| f16::from_f32(v).to_le_bytes()),
        Scheme::BF16 => each(values, |v| bf16::from_f32(v).to_le_bytes()),
        _ => return None,
    })
}

fn each<const N: usize>(values: &[f32], f: impl Fn(f32) -> [u8; N]) -> Vec<u8> {
    let numbers: Vec<[u8; N]> = values.iter().map(|v| f(*v)).collect();
    numbers.into_flattened()
}

/// The values that `bytes` stand for.
pub fn decode(scheme: Scheme, bytes: &[u8]) -> Option<Vec<f32>> {
    let halves = || bytes.as_chunks().0.iter().map(|b| u16::from_le_bytes(*b));
    Some(match scheme {
        Scheme::F32 => (bytes.as_chunks().0.iter())
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        Scheme::F16 => halves().map(|h| f16::from_bits(h).to_f32()).collect(),
        Scheme::BF16 => halves().map(|h| bf16::from_bits(h).to_f32()).collect(),
        _ => return None,
    })
}

/// `value` as the scheme would hold it.
pub fn rounded(scheme: Scheme, value: f32) -> f32 {
    match scheme {
        Scheme::F16 => f16::from_f32(value).to_f32(),
        Scheme::BF16 => bf16::from_f32(value).to_f32(),
        _ => value,
    }
}
