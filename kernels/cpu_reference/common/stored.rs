//! Storage schemes of weights and caches: bytes to f32 and back.

use half::{bf16, f16};
use registry::Scheme;

/// How the elements of a scheme are read and written, little-endian. Bytes need
/// no alignment, so weights may lie anywhere in a mapped file.
#[derive(Clone, Copy)]
pub struct Codec {
    /// Bytes of an element.
    pub bytes: usize,
    /// Decodes `src` into as many f32 as `dst` has.
    pub decode: fn(src: &[u8], dst: &mut [f32]),
    /// Encodes, rounding to nearest, ties to even.
    pub encode: fn(src: &[f32], dst: &mut [u8]),
}

/// The codec of a scheme, if the tree has it.
pub fn codec(scheme: Scheme) -> Option<Codec> {
    match scheme {
        Scheme::F32 => Some(Codec {
            bytes: 4,
            decode: |src, dst| {
                for (d, s) in dst.iter_mut().zip(src.as_chunks().0) {
                    *d = f32::from_le_bytes(*s);
                }
            },
            encode: |src, dst| {
                for (d, s) in dst.as_chunks_mut().0.iter_mut().zip(src) {
                    *d = s.to_le_bytes();
                }
            },
        }),
        Scheme::F16 => Some(Codec {
            bytes: 2,
            decode: |src, dst| {
                for (d, s) in dst.iter_mut().zip(src.as_chunks().0) {
                    *d = f16_to_f32(u16::from_le_bytes(*s));
                }
            },
            encode: |src, dst| {
                for (d, s) in dst.as_chunks_mut().0.iter_mut().zip(src) {
                    *d = f16::from_f32(*s).to_le_bytes();
                }
            },
        }),
        Scheme::BF16 => Some(Codec {
            bytes: 2,
            decode: |src, dst| {
                for (d, s) in dst.iter_mut().zip(src.as_chunks().0) {
                    *d = f32::from_bits(u32::from(u16::from_le_bytes(*s)) << 16);
                }
            },
            encode: |src, dst| {
                for (d, s) in dst.as_chunks_mut().0.iter_mut().zip(src) {
                    *d = bf16::from_f32(*s).to_le_bytes();
                }
            },
        }),
        _ => None,
    }
}

/// All three cases are computed and one is selected, so that loops over this
/// become vector code.
fn f16_to_f32(h: u16) -> f32 {
    let magnitude = u32::from(h & 0x7fff);
    let normal = (magnitude << 13) + (112 << 23);
    let subnormal = (magnitude as f32 * (1.0 / 16_777_216.0)).to_bits();
    let special = (magnitude << 13) | 0x7f80_0000;
    let bits = match magnitude {
        0..0x0400 => subnormal,
        0x0400..0x7c00 => normal,
        _ => special,
    };
    f32::from_bits(bits | u32::from(h & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_decodes_to_its_value() {
        for h in 0..=u16::MAX {
            let (ours, exact) = (f16_to_f32(h), f16::from_bits(h).to_f32());
            if exact.is_nan() {
                assert!(ours.is_nan(), "{h:#06x}");
            } else {
                assert_eq!(ours.to_bits(), exact.to_bits(), "{h:#06x}");
            }
        }
    }

    #[test]
    fn encoding_rounds_to_nearest_even() {
        let cases = [
            (Scheme::BF16, 1.0 + 1.0 / 256.0, 1.0),
            (Scheme::BF16, 1.0 + 3.0 / 256.0, 1.0 + 4.0 / 256.0),
            (Scheme::F16, 1.0 + 1.0 / 2048.0, 1.0),
            (Scheme::F16, 1.0 + 3.0 / 2048.0, 1.0 + 4.0 / 2048.0),
            (Scheme::F32, 0.1, 0.1),
        ];
        for (scheme, value, stored) in cases {
            let c = codec(scheme).expect("a scheme of the tree");
            let mut bytes = vec![0; c.bytes];
            (c.encode)(&[value], &mut bytes);
            let mut back = [0.0];
            (c.decode)(&bytes, &mut back);
            assert_eq!(back[0], stored, "{scheme} {value}");
        }
        assert!(codec(Scheme("q9_9")).is_none());
    }
}
