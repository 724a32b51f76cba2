//! Finding the scale of a few neighbouring elements.
//!
//! Rounding to the nearest level is optimal for a given scale, and the least-squares scale
//! Σxq / Σq² is optimal for given levels, but the pair has many local optima. So a range of first
//! scales is tried: those that put the largest magnitude on the outermost level, somewhat inside
//! it, and somewhat beyond it (clipped). Sums run in eight lanes in a fixed order, so that they are
//! the same everywhere.

const LANES: usize = 8;

/// How far from the outermost level the largest magnitude is placed, in steps. Halving the step
/// takes twice the time and less than a thousandth off the squared error.
const OFFSETS: std::ops::RangeInclusive<i32> = -4..=8;
/// In levels.
const OFFSET_STEP: f32 = 0.25;

/// Magnitudes below this count as zero: no f16 scale is that small, and their reciprocals would
/// overflow.
const NOTHING: f32 = 1e-20;

/// A scale and the levels that go with it: element ≈ scale · q.
pub(super) struct Symmetric<const N: usize> {
    pub scale: f32,
    pub q: [i32; N],
}

/// Fits scale · q to `x`, q from `lo` to `hi` with `lo` the farther from zero, where scales are
/// stored by way of `round`. Never worse than putting the largest magnitude on `lo`.
pub(super) fn fit_symmetric<const N: usize>(
    x: &[f32; N],
    lo: i32,
    hi: i32,
    round: impl Fn(f32) -> f32,
) -> Symmetric<N> {
    let scale = symmetric_scale(x, lo, hi, round);
    Symmetric {
        scale,
        q: symmetric_levels(x, scale, lo, hi),
    }
}

/// The scale of [`fit_symmetric`].
pub(super) fn symmetric_scale<const N: usize>(
    x: &[f32; N],
    lo: i32,
    hi: i32,
    round: impl Fn(f32) -> f32,
) -> f32 {
    let extreme = signed_extreme(x);
    if extreme.abs() < NOTHING {
        return 0.0;
    }
    let plain = round(extreme / lo as f32);
    let mut best = (symmetric_error(x, plain, lo, hi), plain);
    // With one level more on one side, it matters which sign gets it.
    let ends: &[i32] = if lo == -hi { &[lo] } else { &[lo, hi] };
    for &end in ends {
        for offset in OFFSETS {
            let level = end as f32 + offset as f32 * OFFSET_STEP * end.signum() as f32;
            let (xq, qq) = symmetric_sums(x, level / extreme, lo, hi);
            if qq == 0.0 {
                continue;
            }
            let scale = round(xq / qq);
            let error = symmetric_error(x, scale, lo, hi);
            if error < best.0 {
                best = (error, scale);
            }
        }
    }
    // Among subnormal f16 the nearest scale may clip, and the next one is several percent away.
    for factor in [0.93, 1.07] {
        let scale = round(best.1 * factor);
        let error = symmetric_error(x, scale, lo, hi);
        if error < best.0 {
            best = (error, scale);
        }
    }
    best.1
}

/// The element with the largest magnitude.
pub(super) fn signed_extreme(x: &[f32]) -> f32 {
    x.iter()
        .fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m })
}

/// The levels nearest to `x / scale`.
pub(super) fn symmetric_levels<const N: usize>(
    x: &[f32; N],
    scale: f32,
    lo: i32,
    hi: i32,
) -> [i32; N] {
    let inverse = inverse(scale);
    x.map(|x| level(x * inverse, lo as f32, hi as f32) as i32)
}

/// Squared error of the levels nearest to `x / scale`.
pub(super) fn symmetric_error<const N: usize>(x: &[f32; N], scale: f32, lo: i32, hi: i32) -> f32 {
    let (lo, hi) = (lo as f32, hi as f32);
    let inverse = inverse(scale);
    let mut sum = [0.0f32; LANES];
    for x in x.as_chunks::<LANES>().0 {
        for (sum, x) in sum.iter_mut().zip(x) {
            let off = x - scale * level(x * inverse, lo, hi);
            *sum += off * off;
        }
    }
    total(sum)
}

/// Σxq and Σq² of the levels nearest to `x · inverse`.
pub(super) fn symmetric_sums<const N: usize>(
    x: &[f32; N],
    inverse: f32,
    lo: i32,
    hi: i32,
) -> (f32, f32) {
    let (lo, hi) = (lo as f32, hi as f32);
    let (mut xq, mut qq) = ([0.0f32; LANES], [0.0f32; LANES]);
    for x in x.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            let q = level(x[lane] * inverse, lo, hi);
            xq[lane] += x[lane] * q;
            qq[lane] += q * q;
        }
    }
    (total(xq), total(qq))
}

/// An affine scale: element ≈ scale · q − min with q from 0 to [`TOP`]; neither is negative.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Affine {
    pub scale: f32,
    pub min: f32,
}

/// The highest level of four bits.
pub(super) const TOP: f32 = 15.0;

/// The affine scale that maps the smallest element (or zero) to level 0 and the largest to the
/// highest.
pub(super) fn plain_affine(x: &[f32; 32]) -> Affine {
    let (low, high) = x
        .iter()
        .fold((0.0f32, 0.0f32), |(l, h), &v| (l.min(v), h.max(v)));
    Affine {
        scale: (high - low) / TOP,
        min: -low,
    }
}

/// The best affine scale found, before it is rounded to what is stored.
pub(super) fn fit_affine(x: &[f32; 32]) -> Affine {
    let plain = plain_affine(x);
    if plain.scale * TOP < NOTHING {
        return Affine {
            scale: 0.0,
            min: 0.0,
        };
    }
    let mut best = (affine_error(x, plain), plain);
    let smallest = x.iter().copied().fold(f32::INFINITY, f32::min).min(0.0);
    let range = plain.scale * TOP;
    for offset in OFFSETS {
        let mut fit = Affine {
            scale: range / (TOP + offset as f32 * OFFSET_STEP),
            min: -smallest,
        };
        // Levels and scale by turns; two turns take nearly all that there is to gain.
        for _ in 0..2 {
            let Some(next) = affine_least_squares(x, fit) else {
                break;
            };
            fit = next;
            let error = affine_error(x, fit);
            if error < best.0 {
                best = (error, fit);
            }
        }
    }
    best.1
}

/// The least-squares affine scale for the levels that `fit` gives.
fn affine_least_squares(x: &[f32; 32], fit: Affine) -> Option<Affine> {
    let inverse = inverse(fit.scale);
    let [mut sx, mut sq, mut sxq, mut sqq] = [[0.0f32; LANES]; 4];
    for x in x.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            let q = level((x[lane] + fit.min) * inverse, 0.0, TOP);
            sx[lane] += x[lane];
            sq[lane] += q;
            sxq[lane] += x[lane] * q;
            sqq[lane] += q * q;
        }
    }
    let [sx, sq, sxq, sqq] = [sx, sq, sxq, sqq].map(total);
    let n = x.len() as f32;
    let determinant = n * sqq - sq * sq;
    if determinant <= 0.0 {
        return None;
    }
    let min = (sq * sxq - sqq * sx) / determinant;
    let (scale, min) = if min < 0.0 {
        // A min cannot be negative; without one the best scale is another.
        (sxq / sqq, 0.0)
    } else {
        ((n * sxq - sq * sx) / determinant, min)
    };
    (scale > 0.0).then_some(Affine { scale, min })
}

/// Squared error of the levels nearest to (x + min) / scale.
pub(super) fn affine_error(x: &[f32; 32], fit: Affine) -> f32 {
    let inverse = inverse(fit.scale);
    let mut sum = [0.0f32; LANES];
    for x in x.as_chunks::<LANES>().0 {
        for (sum, x) in sum.iter_mut().zip(x) {
            let q = level((x + fit.min) * inverse, 0.0, TOP);
            let off = x - (fit.scale * q - fit.min);
            *sum += off * off;
        }
    }
    total(sum)
}

/// The levels nearest to (x + min) / scale.
pub(super) fn affine_levels(x: &[f32; 32], fit: Affine) -> [u8; 32] {
    let inverse = inverse(fit.scale);
    x.map(|x| level((x + fit.min) * inverse, 0.0, TOP) as u8)
}

/// 1 / scale, or 0 for a scale that stands for nothing but zeros.
fn inverse(scale: f32) -> f32 {
    if scale.abs() < NOTHING {
        0.0
    } else {
        1.0 / scale
    }
}

/// The whole number nearest to `x` within a range that lies within ±2^22, ties to even. Adding and
/// taking away 1.5 · 2^23 rounds without a library call.
fn level(x: f32, lo: f32, hi: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    // Comparisons that the processor has an instruction for; `max` and `min` also care for NaN.
    let x = if x > lo { x } else { lo };
    let x = if x < hi { x } else { hi };
    (x + SHIFT) - SHIFT
}

fn total(lanes: [f32; LANES]) -> f32 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}
