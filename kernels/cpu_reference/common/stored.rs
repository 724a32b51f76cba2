//! Storage schemes of weights and caches: bytes to f32 and back.

use formats::StoredType;
use half::{bf16, f16};
use registry::Scheme;

/// How the rows of a weight scheme are read: whole blocks at a time.
#[derive(Clone, Copy)]
pub struct Decoder {
    /// Elements of a block.
    block: usize,
    /// Bytes of a block.
    bytes: usize,
    /// Decodes whole blocks into as many f32 as `dst` has.
    decode: fn(src: &[u8], dst: &mut [f32]),
}

impl Decoder {
    /// Bytes of a row of `k` elements; `None` unless those are whole blocks.
    pub fn row_bytes(&self, k: usize) -> Option<usize> {
        (k.is_multiple_of(self.block)).then(|| k / self.block * self.bytes)
    }

    /// Decodes a row.
    pub fn row(&self, src: &[u8], dst: &mut [f32]) {
        (self.decode)(src, dst);
    }
}

/// Gives `$with` every scheme that weights come in: a name for it and its name in the registry.
/// A new scheme is one more line here; kernels that read weights then register for it too.
macro_rules! for_each_scheme {
    ($with:ident) => {
        $with! {
            F32 "f32",
            F16 "f16",
            BF16 "bf16",
            Q4_0 "q4_0",
            Q4_1 "q4_1",
            Q5_0 "q5_0",
            Q5_1 "q5_1",
            Q8_0 "q8_0",
            Q2_K "q2_k",
            Q3_K "q3_k",
            Q4_K "q4_k",
            Q5_K "q5_k",
            Q6_K "q6_k",
            IQ4_NL "iq4_nl",
            IQ4_XS "iq4_xs",
            MXFP4 "mxfp4",
            W4_PARO "w4_paro",
        }
    };
}
pub(crate) use for_each_scheme;

/// Registers what the `of` beside it makes of each scheme.
macro_rules! register_schemes {
    ($($name:ident $scheme:literal,)+) => {
        $(static $name: Plain = of(&[$scheme]);)+
        registry::register!($($name),+);
    };
}
pub(crate) use register_schemes;

macro_rules! block_decoders {
    ($($name:ident $scheme:literal,)+) => {
        /// The decoder of a weight scheme, if the tree has it.
        pub fn decoder(scheme: Scheme) -> Option<Decoder> {
            if let Some(plain) = codec(scheme) {
                return Some(Decoder { block: 1, bytes: plain.bytes, decode: plain.decode });
            }
            match scheme.0 {
                $($scheme => Some(Decoder {
                    block: StoredType::$name.block_elements(),
                    bytes: StoredType::$name.block_bytes(),
                    decode: |src, dst| {
                        let done = formats::decode_row(StoredType::$name, src, dst);
                        done.expect("rows of whole blocks");
                    },
                }),)+
                _ => None,
            }
        }
    };
}
for_each_scheme!(block_decoders);

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

/// How a cache's heads are read and written.
#[derive(Clone, Copy)]
pub enum CacheCodec {
    /// Element by element.
    Plain(Codec),
    /// [`Scheme::INT8_KV`].
    Int8,
}

impl CacheCodec {
    /// The codec of a cache's scheme, if the tree has it.
    pub fn of(scheme: Scheme) -> Option<Self> {
        match scheme {
            Scheme::INT8_KV => Some(CacheCodec::Int8),
            _ => codec(scheme).map(CacheCodec::Plain),
        }
    }
}

/// Heads in [`Scheme::INT8_KV`].
pub mod int8 {
    use super::f16_to_f32;
    use half::f16;

    /// Writes a head's codes and gives its scale, an f16.
    pub fn encode(x: &[f32], codes: &mut [u8]) -> [u8; 2] {
        let most = x.iter().fold(0f32, |m, v| m.max(v.abs()));
        // No head is so large that its scale has no f16.
        let scale = f16::from_f32((most / 127.0).min(f16::MAX.to_f32()));
        let by = scale.to_f32();
        for (code, v) in codes.iter_mut().zip(x) {
            let n = if by > 0.0 { v / by } else { 0.0 };
            *code = n.round_ties_even().clamp(-127.0, 127.0) as i8 as u8;
        }
        scale.to_le_bytes()
    }

    pub fn decode(scale: [u8; 2], codes: &[u8], out: &mut [f32]) {
        let by = f16_to_f32(u16::from_le_bytes(scale));
        for (x, code) in out.iter_mut().zip(codes) {
            *x = by * f32::from(*code as i8);
        }
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
        assert!(codec(Scheme("q8_0")).is_none(), "a cache has no blocks");
    }

    #[test]
    fn heads_in_int8_keep_their_largest_and_their_zeros() {
        let round = |x: &[f32]| {
            let mut codes = vec![0; x.len()];
            let scale = int8::encode(x, &mut codes);
            let mut back = vec![0.0; x.len()];
            int8::decode(scale, &codes, &mut back);
            (codes, back)
        };
        // A scale of 1: ties go to even numbers.
        let (codes, back) = round(&[127.0, -127.0, 0.5, 1.5, -2.5, 0.0]);
        assert_eq!(
            codes.as_slice(),
            [127i8, -127, 0, 2, -2, 0].map(|c| c as u8)
        );
        assert_eq!(back, [127.0, -127.0, 0.0, 2.0, -2.0, 0.0]);
        assert_eq!(round(&[0.0; 3]), (vec![0; 3], vec![0.0; 3]));
        // Too small, too large: no NaN, no wrong sign.
        assert_eq!(round(&[1e-9, -1e-9]).1, [0.0, 0.0]);
        assert_eq!(round(&[1e9, -1e9]).0, [127i8, -127].map(|c| c as u8));
        // The scale is rounded to f16 and the codes are of what it became.
        let x = [0.3f32, -0.1, 0.2999];
        for (x, y) in x.iter().zip(round(&x).1) {
            assert!((x - y).abs() <= 0.3 / 127.0 * 0.51, "{x} became {y}");
        }
    }

    #[test]
    fn the_registry_and_the_decoders_agree_on_blocks() {
        for name in registry::inventory::iter::<registry::SchemeDesc>().map(|d| d.name) {
            let scheme = Scheme(name);
            match decoder(scheme) {
                Some(d) => {
                    let bytes = d.row_bytes(512).map(|b| b as u64);
                    assert_eq!(bytes, scheme.row_bytes(512), "{name}");
                    assert_eq!(d.row_bytes(13).is_some(), d.block == 1, "{name}");
                }
                // Of caches.
                None if CacheCodec::of(scheme).is_some() => {}
                None => assert_eq!(scheme, Scheme::U32),
            }
        }
    }
}
