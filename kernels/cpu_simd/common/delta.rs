//! What the kernels of the gated delta rule share: operands, sizes, the gates.

use super::plumbing::{Fits, Meta, Result, Rows, State, Step};
use super::simd::{LANES, Simd};
use graph::{DeltaSpec, Op};
use hal::cpu::CpuSlice;
use registry::Problem;

/// Added to the sum of squares of a query or key.
const EPS: f32 = 1e-6;

/// Heads and their sizes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub key_heads: usize,
    pub heads: usize,
    pub dk: usize,
    pub dv: usize,
}

impl Sizes {
    pub fn of(p: &Problem) -> Option<Sizes> {
        let head_dims = |i: usize| match p.input(0, i)?.1.shape.as_slice() {
            &[_, heads, dim] => Some((heads, dim)),
            _ => None,
        };
        let ((key_heads, dk), (heads, dv)) = (head_dims(0)?, head_dims(2)?);
        Some(Sizes {
            key_heads,
            heads,
            dk,
            dv,
        })
    }
}

pub fn fits(p: &Problem) -> Fits {
    match Sizes::of(p) {
        Some(z) if z.dk <= 4096 && z.dv <= 4096 => Ok(()),
        Some(z) => Err(format!("heads of up to 4096, not {} and {}", z.dk, z.dv)),
        None => Err("q and v must be [T, heads, head_dim]".into()),
    }
}

pub struct Delta {
    pub q: Rows<f32>,
    pub k: Rows<f32>,
    pub v: Rows<f32>,
    a: Rows<f32>,
    b: Rows<f32>,
    decay: CpuSlice<f32>,
    dt_bias: CpuSlice<f32>,
    pub state: State,
    pub o: Rows<f32>,
    spec: DeltaSpec,
    pub sizes: Sizes,
    scratch: CpuSlice<f32>,
    /// f32 of a thread's scratch.
    slot: usize,
    pub meta: Meta,
}

impl Delta {
    /// The operands, with `slot` f32 of scratch for each thread.
    pub fn of(step: &mut Step<'_>, slot: fn(&Sizes) -> usize) -> Result<Delta> {
        let Op::GatedDelta(spec) = step.problem.ops[0].op else {
            return Err(step.refuse("not a gated_delta"));
        };
        let Some(sizes) = Sizes::of(step.problem) else {
            return Err(step.refuse("q and v must be [T, heads, head_dim]"));
        };
        let slot = slot(&sizes);
        let len = slot * step.threads();
        Ok(Delta {
            q: step.activation(0, 0)?,
            k: step.activation(0, 1)?,
            v: step.activation(0, 2)?,
            a: step.activation(0, 3)?,
            b: step.activation(0, 4)?,
            decay: step.vector(0, 5)?,
            dt_bias: step.vector(0, 6)?,
            state: step.state(0, 7)?,
            o: step.output(0)?,
            spec,
            sizes,
            scratch: step.workspace(len)?,
            slot,
            meta: step.meta()?,
        })
    }

    /// A thread's scratch.
    pub fn scratch(&self, thread: usize) -> *mut f32 {
        assert!((thread + 1) * self.slot <= self.scratch.len());
        self.scratch.as_ptr().wrapping_add(thread * self.slot)
    }

    /// First element of the key head of a value head, in a row of q or k.
    #[inline(always)]
    pub fn key_at(&self, head: usize) -> usize {
        let z = &self.sizes;
        let key_head = match self.spec.tiled {
            true => head % z.key_heads,
            false => head / (z.heads / z.key_heads),
        };
        key_head * z.dk
    }

    /// ln g and β of a row's head.
    ///
    /// # Safety
    /// The row is real and its step declared the reads.
    #[inline(always)]
    pub unsafe fn gates(&self, row: usize, head: usize) -> (f64, f32) {
        // SAFETY: vectors and rows with an element for each head.
        let (decay, dt_bias, a, b) = unsafe {
            let (decay, dt_bias) = (self.decay.get()[head], self.dt_bias.get()[head]);
            (
                decay,
                dt_bias,
                *self.a.at(row).add(head),
                *self.b.at(row).add(head),
            )
        };
        let rate = match self.spec.log_decay {
            true => -f64::from(decay).exp(),
            false => f64::from(decay),
        };
        let beta = 1.0 / (1.0 + (-f64::from(b)).exp());
        (rate * softplus(f64::from(a + dt_bias)), beta as f32)
    }
}

fn softplus(x: f64) -> f64 {
    // Beyond this the exponential no longer changes an f32.
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

/// x over its length, times `scale`.
///
/// # Safety
/// `x` and `to` are `len` elements.
#[inline(always)]
pub unsafe fn unit<S: Simd>(s: S, x: *const f32, len: usize, scale: f32, to: *mut f32) {
    // SAFETY: as the caller promises.
    unsafe {
        let mut sum = s.zero();
        for i in (0..len).step_by(LANES) {
            let v = s.load_n(x.add(i), len - i);
            sum = s.fma(v, v, sum);
        }
        let factor = s.splat(scale / (s.sum(sum) + EPS).sqrt());
        for i in (0..len).step_by(LANES) {
            let v = s.load_n(x.add(i), len - i);
            s.store_n(to.add(i), s.mul(v, factor), len - i);
        }
    }
}
