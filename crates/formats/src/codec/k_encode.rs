//! Encoders of q4_k and q6_k.
//!
//! Each sub-block is fitted by itself first. The sub-blocks' scales are then stored as multiples
//! of one (or two) f16, and the rest is a descent on the squared error of the whole block: choose
//! each sub-block's multiple among its neighbours, solve for the f16 scales by least squares with
//! all levels held, repeat while the error falls. The same is tried from the scales that plain
//! rounding would take, so that the result is never worse than that.

use half::f16;

use super::blocks32::round_to_f16;
use super::fit::{
    Affine, affine_error, affine_levels, fit_affine, plain_affine, signed_extreme, symmetric_error,
    symmetric_levels, symmetric_scale,
};
use super::k_quants::pack_scales_and_mins;

/// Most turns of a descent; it ends by itself before that nearly always.
const TURNS: usize = 6;

const LOW6: i32 = -32;
const HIGH6: i32 = 31;

/// The scales of one q4_k block: sub-block s is d · sc[s] · q − dmin · m[s].
#[derive(Clone, Copy)]
struct Q4K {
    d: f32,
    dmin: f32,
    scales: [u8; 8],
    mins: [u8; 8],
    error: f32,
}

impl Q4K {
    fn sub(&self, s: usize) -> Affine {
        Affine {
            scale: self.d * f32::from(self.scales[s]),
            min: self.dmin * f32::from(self.mins[s]),
        }
    }

    /// Stores `wanted` with the largest scale and min at the top of their range.
    fn start(subs: &[[f32; 32]; 8], wanted: &[Affine; 8], round: fn(f32) -> f32) -> Self {
        let top = |of: fn(&Affine) -> f32| {
            let largest = wanted.iter().map(of).fold(0.0, f32::max);
            round(largest / 63.0)
        };
        let mut out = Self {
            d: top(|w| w.scale),
            dmin: top(|w| w.min),
            scales: [0; 8],
            mins: [0; 8],
            error: 0.0,
        };
        for s in 0..8 {
            out.scales[s] = six_bits(wanted[s].scale, out.d);
            out.mins[s] = six_bits(wanted[s].min, out.dmin);
            out.error += affine_error(&subs[s], out.sub(s));
        }
        out
    }

    /// The best of each sub-block's neighbouring multiples.
    fn choose(mut self, subs: &[[f32; 32]; 8]) -> Self {
        self.error = 0.0;
        for (s, x) in subs.iter().enumerate() {
            let (scale, min) = (self.scales[s], self.mins[s]);
            let mut best = (affine_error(x, self.sub(s)), scale, min);
            for scale in scale.saturating_sub(1)..=(scale + 1).min(63) {
                for min in min.saturating_sub(1)..=(min + 1).min(63) {
                    let fit = Affine {
                        scale: self.d * f32::from(scale),
                        min: self.dmin * f32::from(min),
                    };
                    let error = affine_error(x, fit);
                    if error < best.0 {
                        best = (error, scale, min);
                    }
                }
            }
            self.error += best.0;
            (self.scales[s], self.mins[s]) = (best.1, best.2);
        }
        self
    }

    /// The least-squares d and dmin with everything else held, rounded to f16.
    fn solve(mut self, subs: &[[f32; 32]; 8]) -> Self {
        let [mut uu, mut uv, mut vv, mut xu, mut xv] = [0.0f64; 5];
        for (s, x) in subs.iter().enumerate() {
            let (scale, v) = (f64::from(self.scales[s]), f64::from(self.mins[s]));
            for (x, q) in x.iter().zip(affine_levels(x, self.sub(s))) {
                let (x, u) = (f64::from(*x), scale * f64::from(q));
                uu += u * u;
                uv += u * v;
                vv += v * v;
                xu += x * u;
                xv += x * v;
            }
        }
        let determinant = uu * vv - uv * uv;
        let (d, dmin) = if determinant > 1e-9 * uu * vv {
            (
                (xu * vv - xv * uv) / determinant,
                (xu * uv - xv * uu) / determinant,
            )
        } else if uu > 0.0 {
            ((xu + f64::from(self.dmin) * uv) / uu, f64::from(self.dmin))
        } else {
            return self;
        };
        if d > 0.0 && dmin >= 0.0 {
            (self.d, self.dmin) = (round_to_f16(d as f32), round_to_f16(dmin as f32));
        }
        self
    }
}

/// The nearest f16 that is not smaller in magnitude: among subnormals, the nearest one could be a
/// third smaller and clip, or zero.
fn round_up_to_f16(x: f32) -> f32 {
    let near = f16::from_f32(x.clamp(-65504.0, 65504.0));
    if near.to_f32().abs() >= x.abs() || near.to_f32().abs() == 65504.0 {
        return near.to_f32();
    }
    f16::from_bits((near.to_bits() & 0x7FFF) + 1)
        .to_f32()
        .copysign(x)
}

fn six_bits(wanted: f32, unit: f32) -> u8 {
    if unit == 0.0 {
        return 0;
    }
    (wanted / unit).round().clamp(0.0, 63.0) as u8
}

pub(super) fn encode_q4_k(values: &[f32; 256]) -> [u8; 144] {
    let mut subs = [[0.0; 32]; 8];
    subs.as_flattened_mut().copy_from_slice(values);
    let descend = |start: Q4K| {
        let mut best = start;
        let mut at = start;
        for _ in 0..TURNS {
            at = at.choose(&subs);
            if at.error >= best.error && at.error > 0.0 {
                break;
            }
            best = at;
            at = at.solve(&subs);
        }
        best
    };
    let plain = Q4K::start(&subs, &subs.map(|x| plain_affine(&x)), round_to_f16);
    let mut best = descend(Q4K::start(
        &subs,
        &subs.map(|x| fit_affine(&x)),
        round_up_to_f16,
    ));
    if plain.error < best.error {
        best = descend(plain);
    }
    let mut block = [0; 144];
    block[..2].copy_from_slice(&f16::from_f32(best.d).to_le_bytes());
    block[2..4].copy_from_slice(&f16::from_f32(best.dmin).to_le_bytes());
    block[4..16].copy_from_slice(&pack_scales_and_mins(&best.scales, &best.mins));
    for (pair, out) in block[16..].as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let low = affine_levels(&subs[2 * pair], best.sub(2 * pair));
        let high = affine_levels(&subs[2 * pair + 1], best.sub(2 * pair + 1));
        for (out, (low, high)) in out.iter_mut().zip(low.into_iter().zip(high)) {
            *out = low | high << 4;
        }
    }
    block
}

/// The scales of one q6_k block: sub-block s is d · sc[s] · q.
#[derive(Clone, Copy)]
struct Q6K {
    d: f32,
    scales: [i8; 16],
    error: f32,
}

impl Q6K {
    fn sub(&self, s: usize) -> f32 {
        self.d * f32::from(self.scales[s])
    }

    /// Stores `wanted` with the largest magnitude at the end of the range.
    fn start(subs: &[[f32; 16]; 16], wanted: &[f32; 16], round: fn(f32) -> f32) -> Self {
        let mut out = Self {
            d: round(signed_extreme(wanted) / -128.0),
            scales: [0; 16],
            error: 0.0,
        };
        for s in 0..16 {
            if out.d != 0.0 {
                out.scales[s] = (wanted[s] / out.d).round().clamp(-128.0, 127.0) as i8;
            }
            out.error += symmetric_error(&subs[s], out.sub(s), LOW6, HIGH6);
        }
        out
    }

    /// The best of each sub-block's neighbouring multiples.
    fn choose(mut self, subs: &[[f32; 16]; 16]) -> Self {
        self.error = 0.0;
        for (s, x) in subs.iter().enumerate() {
            let scale = self.scales[s];
            let mut best = (symmetric_error(x, self.sub(s), LOW6, HIGH6), scale);
            for scale in scale.saturating_sub(2)..=scale.saturating_add(2) {
                let error = symmetric_error(x, self.d * f32::from(scale), LOW6, HIGH6);
                if error < best.0 {
                    best = (error, scale);
                }
            }
            self.error += best.0;
            self.scales[s] = best.1;
        }
        self
    }

    /// The least-squares d with everything else held, rounded to f16.
    fn solve(mut self, subs: &[[f32; 16]; 16]) -> Self {
        let [mut uu, mut xu] = [0.0f64; 2];
        for (s, x) in subs.iter().enumerate() {
            let scale = f64::from(self.scales[s]);
            for (x, q) in x.iter().zip(symmetric_levels(x, self.sub(s), LOW6, HIGH6)) {
                let u = scale * f64::from(q);
                uu += u * u;
                xu += f64::from(*x) * u;
            }
        }
        if uu > 0.0 {
            self.d = round_to_f16((xu / uu) as f32);
        }
        self
    }
}

pub(super) fn encode_q6_k(values: &[f32; 256]) -> [u8; 210] {
    let mut subs = [[0.0; 16]; 16];
    subs.as_flattened_mut().copy_from_slice(values);
    let descend = |start: Q6K| {
        let mut best = start;
        let mut at = start;
        for _ in 0..TURNS {
            at = at.choose(&subs);
            if at.error >= best.error && at.error > 0.0 {
                break;
            }
            best = at;
            at = at.solve(&subs);
        }
        best
    };
    let plain = subs.map(|x| signed_extreme(&x) / LOW6 as f32);
    let plain = Q6K::start(&subs, &plain, round_to_f16);
    let fitted = subs.map(|x| symmetric_scale(&x, LOW6, HIGH6, |scale| scale));
    let mut best = descend(Q6K::start(&subs, &fitted, round_up_to_f16));
    if plain.error < best.error {
        best = descend(plain);
    }
    let mut block = [0; 210];
    for (s, x) in subs.iter().enumerate() {
        for (i, q) in symmetric_levels(x, best.sub(s), LOW6, HIGH6)
            .into_iter()
            .enumerate()
        {
            let (e, q) = (s * 16 + i, (q - LOW6) as u8);
            block[e / 128 * 64 + e % 64] |= (q & 15) << (e / 64 % 2 * 4);
            block[128 + e / 128 * 32 + e % 32] |= q >> 4 << (e / 32 % 4 * 2);
        }
        block[192 + s] = best.scales[s] as u8;
    }
    block[208..].copy_from_slice(&f16::from_f32(best.d).to_le_bytes());
    block
}
