//! Activation formats: what a linear's activations become before they are
//! multiplied.

use half::{bf16, f16};

/// Writes `x` as the format represents it, in f32.
pub type Round = fn(x: &[f32], out: &mut [f32]);

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
