//! Activation formats: what a linear's activations, or the queries of an attention,
//! become before they are multiplied.

use half::{bf16, f16};

/// Writes `x` as the format represents it, in f32.
pub type Round = fn(x: &[f32], out: &mut [f32]);

/// What a product's factors become before they are multiplied.
#[derive(Clone, Copy)]
pub struct Format {
    pub x: Round,
    /// Decoded weights, in place.
    pub w: fn(&mut [f32]),
}

/// Both factors in bf16: units that multiply it take nothing finer.
pub const BF16: Format = Format {
    x: to_bf16,
    w: |w| {
        for v in w {
            *v = bf16::from_f32(*v).to_f32();
        }
    },
};

impl Format {
    /// Activations in a format beside weights as they are.
    pub const fn of(x: Round) -> Format {
        Format { x, w: |_| () }
    }
}

/// bf16, to nearest, ties to even.
pub fn to_bf16(x: &[f32], out: &mut [f32]) {
    for (o, v) in out.iter_mut().zip(x) {
        *o = bf16::from_f32(*v).to_f32();
    }
}

/// f16, to nearest, ties to even; beyond 65504 infinite, as in any f16 kernel.
pub fn to_f16(x: &[f32], out: &mut [f32]) {
    for (o, v) in out.iter_mut().zip(x) {
        *o = f16::from_f32(*v).to_f32();
    }
}

/// int8 with one f32 scale for each `BLOCK` elements, whole blocks: the scale is
/// the largest magnitude / 127, an element the whole number nearest to x / scale,
/// ties to even, taken as x · (1 / scale). What is written is number · scale. A
/// block whose scale would be subnormal is zero.
pub fn to_q8<const BLOCK: usize>(x: &[f32], out: &mut [f32]) {
    let blocks = x.as_chunks::<BLOCK>().0.iter();
    for (x, out) in blocks.zip(out.as_chunks_mut::<BLOCK>().0) {
        let scale = x.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0;
        let inverse = match scale >= f32::MIN_POSITIVE {
            true => 1.0 / scale,
            false => 0.0,
        };
        for (o, v) in out.iter_mut().zip(x) {
            *o = (v * inverse).round_ties_even() * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn int8_rounds_to_even_by_the_blocks_own_scale() {
        let mut x = [0f32; 64];
        x[..5].copy_from_slice(&[127.0, 0.5, 1.5, -2.5, 62.4]);
        x[40] = -0.254;
        x[41] = 0.0032;
        let mut out = [9f32; 64];
        to_q8::<32>(&x, &mut out);
        assert_eq!(out[..6], [127.0, 0.0, 2.0, -2.0, 62.0, 0.0]);
        assert!((out[40] + 0.254).abs() < 1e-7 && (out[41] - 0.004).abs() < 1e-7);
        let mut wide = [9f32; 256];
        let mut all = [0f32; 256];
        all[0] = 254.0;
        all[255] = 3.1;
        to_q8::<256>(&all, &mut wide);
        assert_eq!((wide[0], wide[255], wide[7]), (254.0, 4.0, 0.0));
        to_q8::<32>(&[1e-37; 32], &mut out[..32]);
        assert_eq!(out[..32], [0.0; 32]);
    }
}
