//! exp, SiLU and row sums over [`Simd`].

use super::simd::{LANES, Simd};

/// e^x, within 2 ulp where the result is a normal number up to e^88.3; 0 below,
/// infinite above. NaN stays NaN.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2; e^r by the degree-6 polynomial of the
/// Cephes library; ln 2 in two parts so that n·ln 2 is exact.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    const MAGIC: f32 = 12_582_912.0; // 1.5·2^23: adding it rounds to an integer.
    let x = s.max(s.splat(-88.0), x);
    let x = s.min(s.splat(88.8), x);
    let shifted = s.fma(x, s.splat(std::f32::consts::LOG2_E), s.splat(MAGIC));
    let n = s.sub(shifted, s.splat(MAGIC));
    let r = s.fma(n, s.splat(-0.693_359_4), x);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.987_569_1e-4);
    for c in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        p = s.fma(p, r, s.splat(c));
    }
    let p = s.add(s.fma(p, s.mul(r, r), r), s.splat(1.0));
    s.mul(p, s.pow2(n))
}

/// x·σ(x)
#[inline(always)]
pub fn silu<S: Simd>(s: S, x: S::V) -> S::V {
    let e = exp(s, s.sub(s.zero(), x));
    s.div(x, s.add(s.splat(1.0), e))
}

/// σ(x)
#[inline(always)]
pub fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let e = exp(s, s.sub(s.zero(), x));
    s.div(s.splat(1.0), s.add(s.splat(1.0), e))
}

/// tanh(x): by its series below 0.35, where the difference of exponentials would
/// cancel, else 1 − 2/(e^2x + 1).
#[inline(always)]
pub fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    let e = exp(s, s.add(x, x));
    let far = s.sub(one, s.div(s.splat(2.0), s.add(e, one)));
    let square = s.mul(x, x);
    let mut p = s.splat(-1_382.0 / 155_925.0);
    for c in [62.0 / 2_835.0, -17.0 / 315.0, 2.0 / 15.0, -1.0 / 3.0] {
        p = s.fma(p, square, s.splat(c));
    }
    let near = s.fma(s.mul(p, square), x, x);
    s.select_le(square, s.splat(0.35 * 0.35), near, far)
}

/// cap·tanh(x/cap)
#[inline(always)]
pub fn softcap<S: Simd>(s: S, x: S::V, cap: f32) -> S::V {
    s.mul(tanh(s, s.mul(x, s.splat(1.0 / cap))), s.splat(cap))
}

/// 1/√(mean(x²) + eps) of `len` elements.
///
/// # Safety
/// `len` readable f32.
#[inline(always)]
pub unsafe fn inverse_rms<S: Simd>(s: S, x: *const f32, len: usize, eps: f32) -> f32 {
    let mut acc = [s.zero(); 4];
    let mut i = 0;
    // SAFETY: every access ends at or before `len`.
    unsafe {
        while i + 4 * LANES <= len {
            for (j, a) in acc.iter_mut().enumerate() {
                let v = s.load(x.add(i + j * LANES));
                *a = s.fma(v, v, *a);
            }
            i += 4 * LANES;
        }
        while i < len {
            let v = s.load_n(x.add(i), len - i);
            acc[0] = s.fma(v, v, acc[0]);
            i += LANES;
        }
    }
    let total = s.sum(s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3])));
    1.0 / (total / len as f32 + eps).sqrt()
}

/// Weight, epsilon and offset of an RMS norm.
#[derive(Clone, Copy)]
pub struct Norm {
    pub weight: hal::cpu::CpuSlice<f32>,
    pub eps: f32,
    pub offset: f32,
}

impl Norm {
    /// Sixteen (or the last `n`) normalised elements from `at` on.
    ///
    /// # Safety
    /// `at + n` elements are readable in x and in the weight, whose step
    /// declared the reads.
    #[inline(always)]
    pub unsafe fn apply<S: Simd>(
        &self,
        s: S,
        x: *const f32,
        at: usize,
        n: usize,
        inverse: f32,
    ) -> S::V {
        // SAFETY: as the caller promises.
        let (v, w) = unsafe {
            (
                s.load_n(x.add(at), n),
                s.load_n(self.weight.as_ptr().add(at), n),
            )
        };
        s.mul(s.mul(v, s.splat(inverse)), s.add(w, s.splat(self.offset)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::simd::{Body, Level, Portable};
    use hal::cpu::TaskCtx;

    fn check<S: Simd>(s: S) {
        let mut x = -87.0f32;
        while x < 88.0 {
            let got = s.to_array(exp(s, s.splat(x)))[3];
            let want = f64::from(x).exp();
            let error = (f64::from(got) - want).abs() / want;
            assert!(error < 2.0 * f64::from(f32::EPSILON), "exp({x}) = {got}");
            x += 0.00371;
        }
        for (x, want) in [(f32::NEG_INFINITY, 0.0), (-1e30, 0.0), (0.0, 1.0)] {
            assert_eq!(s.to_array(exp(s, s.splat(x)))[0], want);
        }
        assert!(s.to_array(exp(s, s.splat(f32::NAN)))[0].is_nan());
        assert_eq!(s.to_array(exp(s, s.splat(1e30)))[0], f32::INFINITY);
        let mut x = -20.0f32;
        while x < 20.0 {
            let got = f64::from(s.to_array(tanh(s, s.splat(x)))[5]);
            let want = f64::from(x).tanh();
            let error = (got - want).abs() / want.abs().max(1e-30);
            assert!(error < 4.0 * f64::from(f32::EPSILON), "tanh({x}) = {got}");
            x += 0.00173;
        }
        let y = s.to_array(silu(s, s.splat(-200.0)))[0];
        assert!(y == 0.0 && s.to_array(silu(s, s.splat(90.0)))[0] == 90.0);
    }

    struct Check;
    impl Body for Check {
        #[inline(always)]
        fn run<S: Simd>(&self, s: S, _: &TaskCtx) {
            check(s);
        }
    }

    #[test]
    fn exp_is_within_two_ulp_at_every_level() {
        check(Portable);
        let device = hal::cpu::CpuDevice::open(&hal::cpu::CpuOptions {
            threads: Some(1),
            ..Default::default()
        })
        .unwrap();
        let mut r = hal::Device::recorder(&device, "test").unwrap();
        let r2 = r
            .as_any_mut()
            .downcast_mut::<hal::cpu::CpuRecorder>()
            .unwrap();
        for isa in hal::cpu::IsaLevel::ALL {
            if *isa > hal::cpu::detect() {
                continue;
            }
            let info = hal::cpu::probe(&hal::cpu::CpuOptions {
                threads: Some(1),
                isa: Some(*isa),
                ..Default::default()
            })
            .unwrap();
            let level = Level::of(&info);
            r2.task("exp", &[], move |ctx| level.run(&Check, ctx));
        }
        r.finish().unwrap().run().unwrap();
    }
}
