//! Tensors of random numbers: real shapes and schemes without a file, to measure with.
//!
//! A pool of units of [`UNIT`] elements is drawn once; the tensor is a row of units picked from it
//! by a hash of their place. So any part of it is made at the speed of a copy, the same for
//! everyone who asks.

use half::f16;

use crate::codec::{decode_row, encode_row};
use crate::dtype::StoredType;

/// Elements picked together: whole blocks of every scheme.
const UNIT: usize = 256;
/// Most units of a pool: enough that the rows of a matrix do not depend on each other.
const MOST_UNITS: usize = 256;

#[derive(Debug)]
pub(super) struct Random {
    pool: Vec<u8>,
    /// Bytes of a unit.
    unit: usize,
    seed: u64,
}

impl Random {
    /// `elements` numbers with that mean and standard deviation; block schemes have mean 0. `None`
    /// for a type that is not made.
    pub(super) fn new(
        stored: StoredType,
        elements: usize,
        mean: f32,
        deviation: f32,
        seed: u64,
    ) -> Option<Self> {
        let units = elements.div_ceil(UNIT).clamp(1, MOST_UNITS);
        let count = units * UNIT;
        let bytes = stored.bytes_for(&[count])?;
        let mut pool = vec![0; usize::try_from(bytes).ok()?];
        match stored.block_elements() {
            1 => {
                let mut values = vec![0.0; count];
                for (i, v) in values.iter_mut().enumerate() {
                    *v = mean + deviation * normal(mix(seed, i as u64));
                }
                encode_row(stored, &values, &mut pool).ok()?;
            }
            _ if mean == 0.0 => blocks(stored, deviation, seed, &mut pool)?,
            _ => return None,
        }
        Some(Self {
            unit: pool.len() / units,
            pool,
            seed,
        })
    }

    /// Writes the bytes from `at` on, as many as `out` has.
    pub(super) fn copy(&self, at: usize, out: &mut [u8]) {
        let units = (self.pool.len() / self.unit) as u64;
        let mut done = 0;
        while done < out.len() {
            let (index, within) = ((at + done) / self.unit, (at + done) % self.unit);
            let pick = (mix(!self.seed, index as u64) % units) as usize * self.unit;
            let count = (self.unit - within).min(out.len() - done);
            out[done..done + count].copy_from_slice(&self.pool[pick + within..][..count]);
            done += count;
        }
    }
}

/// Where a block keeps its f16 scale, and where its f16 minimum and what that must be over the
/// scale for a mean of 0; all other bits may be anything. `None` for a scheme that is otherwise.
fn scale_of(stored: StoredType) -> Option<(usize, Option<(usize, f32)>)> {
    Some(match stored {
        StoredType::Q4_0 | StoredType::Q5_0 | StoredType::Q8_0 => (0, None),
        StoredType::IQ4_NL | StoredType::IQ4_XS => (0, None),
        StoredType::Q4_1 => (0, Some((2, -7.5))),
        StoredType::Q5_1 => (0, Some((2, -15.5))),
        StoredType::Q2_K => (80, Some((82, 1.5))),
        StoredType::Q3_K => (108, None),
        StoredType::Q4_K => (0, Some((2, 7.5))),
        StoredType::Q5_K => (0, Some((2, 15.5))),
        StoredType::Q6_K => (208, None),
        _ => return None,
    })
}

/// Random blocks, scaled so that their elements have that standard deviation.
fn blocks(stored: StoredType, deviation: f32, seed: u64, pool: &mut [u8]) -> Option<()> {
    for (i, word) in pool.chunks_mut(8).enumerate() {
        let random = mix(seed, i as u64).to_le_bytes();
        word.copy_from_slice(&random[..word.len()]);
    }
    let size = stored.block_bytes();
    if stored == StoredType::MXFP4 {
        // Powers of two are all the scales there are.
        set_exponents(pool, size, 127);
        let steps = (deviation / rms(stored, pool)?).log2().round();
        set_exponents(pool, size, (127.0 + steps).clamp(1.0, 253.0) as u8);
        return Some(());
    }
    let (at, minimum) = scale_of(stored)?;
    let mut set = |scale: f32| {
        for (i, block) in pool.chunks_exact_mut(size).enumerate() {
            // Either sign: what is left of a mean goes with it.
            let scale = match mix(seed ^ 1, i as u64) & 1 {
                0 => scale,
                _ => -scale,
            };
            block[at..at + 2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
            if let Some((at, ratio)) = minimum {
                let minimum = f16::from_f32(scale * ratio);
                block[at..at + 2].copy_from_slice(&minimum.to_le_bytes());
            }
        }
        rms(stored, pool)
    };
    let unscaled = set(1.0)?;
    set(deviation / unscaled)?;
    Some(())
}

fn set_exponents(pool: &mut [u8], size: usize, exponent: u8) {
    for block in pool.chunks_exact_mut(size) {
        block[0] = exponent;
    }
}

fn rms(stored: StoredType, pool: &[u8]) -> Option<f32> {
    let mut values = vec![0.0; pool.len() / stored.block_bytes() * stored.block_elements()];
    decode_row(stored, pool, &mut values).ok()?;
    let squares: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
    Some((squares / values.len() as f64).sqrt() as f32)
}

/// The hash of an index (splitmix64's finaliser).
fn mix(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Nearly normal: a sum of four uniform numbers, the same on every machine.
fn normal(bits: u64) -> f32 {
    let sum: u32 = (0..4).map(|i| u32::from((bits >> (16 * i)) as u16)).sum();
    // Mean 2·65535; each has the variance 65536²/12.
    (sum as f32 - 131_070.0) / 37_837.2
}
