//! Blocks of the schemes that the product only reads: scales by the largest element,
//! then for each element the nearest of what its code can say. Which bits are an
//! element's code is found by asking the decoder, so nothing here knows how a scheme
//! packs them.

use formats::{StoredType, decode_row};
use half::f16;

/// Encodes whole blocks.
pub fn encode(stored: StoredType, values: &[f32]) -> Vec<u8> {
    let codes = Codes::find(stored);
    let blocks = values.chunks_exact(stored.block_elements());
    blocks.flat_map(|x| codes.nearest(x)).collect()
}

/// The places of the codes' bits.
struct Codes {
    stored: StoredType,
    /// For each element its bits, as places in the block.
    bits: Vec<Vec<usize>>,
}

impl Codes {
    fn find(stored: StoredType) -> Codes {
        let n = stored.block_elements();
        let ramp: Vec<f32> = (0..n).map(|i| 1.0 + i as f32 / n as f32).collect();
        let mut block = scales(stored, &ramp);
        let mut bits = vec![Vec::new(); n];
        // A sign changes nothing beside a zero: once more with all bits set.
        for _ in 0..2 {
            let base = decoded(stored, &block);
            for bit in 0..8 * block.len() {
                let mut other = block.clone();
                other[bit / 8] ^= 1 << (bit % 8);
                let other = decoded(stored, &other);
                let changed: Vec<usize> = (0..n).filter(|i| other[*i] != base[*i]).collect();
                if let [element] = changed[..]
                    && !bits[element].contains(&bit)
                {
                    bits[element].push(bit);
                }
            }
            for bit in bits.iter().flatten() {
                block[bit / 8] |= 1 << (bit % 8);
            }
        }
        let width = bits[0].len();
        assert!(
            (2..=5).contains(&width) && bits.iter().all(|b| b.len() == width),
            "{stored}: {width} bits"
        );
        Codes { stored, bits }
    }

    fn nearest(&self, x: &[f32]) -> Vec<u8> {
        let plain = scales(self.stored, x);
        let set = |block: &mut Vec<u8>, element: usize, code: usize| {
            for (i, bit) in self.bits[element].iter().enumerate() {
                let mask = 1 << (bit % 8);
                block[bit / 8] &= !mask;
                block[bit / 8] |= if code >> i & 1 == 1 { mask } else { 0 };
            }
        };
        let mut best = vec![(f32::INFINITY, 0); x.len()];
        for code in 0..1 << self.bits[0].len() {
            let mut block = plain.clone();
            for i in 0..x.len() {
                set(&mut block, i, code);
            }
            for ((best, x), y) in best.iter_mut().zip(x).zip(decoded(self.stored, &block)) {
                if (x - y).abs() < best.0 {
                    *best = ((x - y).abs(), code);
                }
            }
        }
        let mut block = plain;
        for (i, (_, code)) in best.into_iter().enumerate() {
            set(&mut block, i, code);
        }
        block
    }
}

fn decoded(stored: StoredType, block: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; stored.block_elements()];
    decode_row(stored, block, &mut out).expect("a block");
    out
}

fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |m, v| m.max(v.abs()))
}

/// How far below zero elements reach.
fn lowest(x: &[f32]) -> f32 {
    x.iter().fold(0.0f32, |m, v| m.max(-v))
}

fn put(block: &mut [u8], at: usize, x: f32) {
    block[at..at + 2].copy_from_slice(&f16::from_f32(x).to_le_bytes());
}

/// `x / unit` as a whole number up to `most`, no smaller than 1.
fn times(x: f32, unit: f32, most: f32) -> u8 {
    match unit > 0.0 {
        true => (x / unit).ceil().clamp(1.0, most) as u8,
        false => 1,
    }
}

/// A block with its scales, all codes zero.
fn scales(stored: StoredType, x: &[f32]) -> Vec<u8> {
    let mut block = vec![0; stored.block_bytes()];
    let (top, low) = (largest(x), lowest(x));
    let subs = |n: usize, f: fn(&[f32]) -> f32| x.chunks_exact(n).map(f).collect::<Vec<f32>>();
    match stored {
        StoredType::Q4_1 | StoredType::Q5_1 => {
            let levels = if stored == StoredType::Q4_1 {
                15.0
            } else {
                31.0
            };
            put(&mut block, 0, (top + low) / levels);
            put(&mut block, 2, -low);
        }
        StoredType::Q5_0 => put(&mut block, 0, top / 15.0),
        StoredType::IQ4_NL => put(&mut block, 0, top / 113.0),
        StoredType::MXFP4 => {
            // The largest code is 12 · 2^(e − 128).
            let e = 128.0 + (top / 12.0).max(1e-30).log2().ceil();
            block[0] = e.clamp(1.0, 254.0) as u8;
        }
        StoredType::Q2_K => {
            let (spans, mins) = (subs(16, |x| largest(x) + lowest(x)), subs(16, lowest));
            let (d, dmin) = (largest(&spans) / 3.0 / 15.0, largest(&mins) / 15.0);
            for (i, (span, min)) in spans.iter().zip(&mins).enumerate() {
                block[i] = times(span / 3.0, d, 15.0) | times(*min, dmin, 15.0) << 4;
            }
            put(&mut block, 80, d);
            put(&mut block, 82, dmin);
        }
        StoredType::Q3_K => {
            let tops = subs(16, largest);
            let d = largest(&tops) / 3.0 / 31.0;
            for (i, top) in tops.iter().enumerate() {
                let scale = times(top / 3.0, d, 31.0) + 32;
                block[96 + i % 8] |= (scale & 15) << (i / 8 * 4);
                block[104 + i % 4] |= scale >> 4 << (i / 4 * 2);
            }
            put(&mut block, 108, d);
        }
        StoredType::Q5_K => {
            let (spans, mins) = (subs(32, |x| largest(x) + lowest(x)), subs(32, lowest));
            let (d, dmin) = (largest(&spans) / 31.0 / 63.0, largest(&mins) / 63.0);
            for i in 0..8 {
                let scale = times(spans[i] / 31.0, d, 63.0);
                let min = times(mins[i], dmin, 63.0);
                if i < 4 {
                    block[4 + i] |= scale;
                    block[8 + i] |= min;
                } else {
                    block[8 + i] = scale & 15 | min << 4;
                    block[i] |= scale >> 4 << 6;
                    block[4 + i] |= min >> 4 << 6;
                }
            }
            put(&mut block, 0, d);
            put(&mut block, 2, dmin);
        }
        StoredType::IQ4_XS => {
            let tops = subs(32, largest);
            let d = largest(&tops) / 113.0 / 31.0;
            let mut high = 0u16;
            for (i, top) in tops.iter().enumerate() {
                let scale = times(top / 113.0, d, 31.0) + 32;
                block[4 + i / 2] |= (scale & 15) << (i % 2 * 4);
                high |= u16::from(scale >> 4) << (2 * i);
            }
            block[2..4].copy_from_slice(&high.to_le_bytes());
            put(&mut block, 0, d);
        }
        _ => panic!("{stored} has an encoder of its own"),
    }
    block
}
