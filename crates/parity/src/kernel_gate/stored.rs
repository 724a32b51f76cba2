//! Writing random values in storage schemes.

use super::rng::Rng;
use formats::StoredType;
use half::{bf16, f16};
use registry::Scheme;

/// `values` in a scheme, row-major; `None` if the gate cannot write the scheme. In a block scheme
/// they are not rounded to the nearest: blocks are random, of about the size of `values`, so that
/// every code of the scheme occurs.
pub fn encode(scheme: Scheme, values: &[f32]) -> Option<Vec<u8>> {
    Some(match scheme {
        Scheme::F32 => each(values, f32::to_le_bytes),
        Scheme::F16 => each(values, |v| f16::from_f32(v).to_le_bytes()),
        Scheme::BF16 => each(values, |v| bf16::from_f32(v).to_le_bytes()),
        _ => return blocks(block_type(scheme)?, values),
    })
}

/// The type of a block scheme.
fn block_type(scheme: Scheme) -> Option<StoredType> {
    let mut all = StoredType::ALL.iter().copied();
    all.find(|t| t.scheme() == scheme.0 && t.block_elements() > 1)
}

/// Where a block keeps what scales it, and the root mean square of its elements when that is 1.
enum Scales {
    /// Offsets of f16.
    Half(&'static [usize], f32),
    /// A power of two in the first byte, biased by 127.
    Exponent(f32),
}

fn scales(stored: StoredType) -> Option<Scales> {
    use Scales::{Exponent, Half};
    Some(match stored {
        StoredType::Q4_0 => Half(&[0], 4.6),
        StoredType::Q4_1 => Half(&[0, 2], 9.6),
        StoredType::Q5_0 => Half(&[0], 9.2),
        StoredType::Q5_1 => Half(&[0, 2], 18.9),
        StoredType::Q8_0 => Half(&[0], 74.0),
        StoredType::Q2_K => Half(&[80, 82], 16.0),
        StoredType::Q3_K => Half(&[108], 42.0),
        StoredType::Q4_K => Half(&[0, 2], 300.0),
        StoredType::Q5_K => Half(&[0, 2], 600.0),
        StoredType::Q6_K => Half(&[208], 1360.0),
        StoredType::IQ4_NL => Half(&[0], 70.0),
        StoredType::IQ4_XS => Half(&[0], 1300.0),
        StoredType::MXFP4 => Exponent(3.0),
        StoredType::W4_PARO => Half(&[0], 6.5),
        _ => return None,
    })
}

/// Random blocks, of about the size of `values`.
fn blocks(stored: StoredType, values: &[f32]) -> Option<Vec<u8>> {
    let (elements, bytes) = (stored.block_elements(), stored.block_bytes());
    if !values.len().is_multiple_of(elements) {
        return None;
    }
    let scales = scales(stored)?;
    let seed: u64 = values.iter().fold(0, |h, v| {
        (h ^ u64::from(v.to_bits())).wrapping_mul(0x0100_0000_01b3)
    });
    let mut rng = Rng::named(&format!("{stored} {seed}"));
    let mut out = vec![0u8; values.len() / elements * bytes];
    for (block, values) in out.chunks_exact_mut(bytes).zip(values.chunks(elements)) {
        block.fill_with(|| rng.next() as u8);
        if stored == StoredType::W4_PARO {
            // The zero point has four bits too; padding follows it.
            block[2] &= 15;
            block[3] = 0;
        }
        let size = super::compare::rms(values) as f32 * (0.5 + rng.unit());
        match scales {
            Scales::Half(offsets, unit) => {
                for at in offsets {
                    let scale = f16::from_f32(size / unit);
                    block[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
                }
            }
            Scales::Exponent(unit) => {
                let power = (size / unit).max(f32::MIN_POSITIVE).log2();
                block[0] = (power.round() as i32 + 127).clamp(0, 254) as u8;
            }
        }
    }
    Some(out)
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
        _ => {
            let stored = block_type(scheme)?;
            let blocks = bytes.len() / stored.block_bytes();
            let mut out = vec![0.0; blocks * stored.block_elements()];
            formats::decode_row(stored, bytes, &mut out).ok()?;
            out
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_blocks_are_finite_and_of_the_size_asked_for() {
        let values = Rng::named("values").normals(256 * 64, 0.25);
        for stored in StoredType::ALL.iter().filter(|t| t.block_elements() > 1) {
            let scheme = Scheme(stored.scheme());
            let bytes = encode(scheme, &values).expect("a scheme that the gate writes");
            assert_eq!(Some(bytes.len() as u64), stored.bytes_for(&[values.len()]));
            let decoded = decode(scheme, &bytes).expect("a scheme that the gate reads");
            let rms = super::super::compare::rms(&decoded);
            assert!((0.1..0.6).contains(&rms), "{scheme}: {rms}");
            assert!(encode(scheme, &values[..31]).is_none());
        }
    }
}
