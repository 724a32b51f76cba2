//! Passes over a whole row of logits, written in fixed lanes so that they vectorise
//! and so that their sums have one order on every machine.

const LANES: usize = 8;

/// Calls an `#[inline(always)]` function compiled for AVX2 where the CPU has it, and
/// as it stands elsewhere. Wider registers, the same operations on the same lanes in
/// the same order (Rust never fuses a multiply and an add by itself), so the result
/// does not depend on which one ran.
macro_rules! wide {
    ($body:ident($($arg:ident: $ty:ty),*) -> $out:ty) => {{
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2")]
            fn avx2($($arg: $ty),*) -> $out {
                $body($($arg),*)
            }
            if is_x86_feature_detected!("avx2") {
                // SAFETY: the CPU was just found to have AVX2.
                return unsafe { avx2($($arg),*) };
            }
        }
        $body($($arg),*)
    }};
}

/// Rows are summed in blocks of this many logits, so that a draw need only walk one.
pub(crate) const BLOCK: usize = 1024;

/// 1.5 · 2²³: adding it rounds a small f32 to an integer in its low mantissa bits.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts; the high one has 16 bits, so `n * LN2_HI` is exact.
const LN2_HI: f32 = 45_426.0 / 65_536.0;
const LN2_LO: f32 = 1.428_606_8e-6;
/// Below this, e^x is no longer a normal f32, and counts as 0.
const EXP_MIN: f32 = -87.0;

/// e^x for x ≤ 0: 2ⁿ · eʳ with |r| ≤ ½ ln 2 and the Taylor series to r⁷ (remainder
/// 5e-9). 0 below [`EXP_MIN`] and for NaN, and exactly 1 from 0 on.
#[inline(always)]
pub(crate) fn exp_neg(x: f32) -> f32 {
    let x = if x > 0.0 { 0.0 } else { x };
    let y = if x > EXP_MIN { x } else { EXP_MIN };
    let shifted = y * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (y - n * LN2_HI) - n * LN2_LO;
    let mut p = 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    let exponent = shifted
        .to_bits()
        .wrapping_sub(ROUND.to_bits())
        .wrapping_add(127);
    let scaled = p * f32::from_bits(exponent << 23);
    if x > EXP_MIN { scaled } else { 0.0 }
}

/// The largest value of a row, or `None` if any value is NaN or +inf. -inf for an
/// empty row.
pub(crate) fn max_or_bad(row: &[f32]) -> Option<f32> {
    wide!(max_or_bad_in_lanes(row: &[f32]) -> Option<f32>)
}

#[inline(always)]
fn max_or_bad_in_lanes(row: &[f32]) -> Option<f32> {
    let mut max = [f32::NEG_INFINITY; LANES];
    let mut bad = [false; LANES];
    let chunks = row.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for lane in 0..LANES {
            let v = chunk[lane];
            max[lane] = if v > max[lane] { v } else { max[lane] };
            bad[lane] |= v.is_nan() | (v == f32::INFINITY);
        }
    }
    for (lane, &v) in tail.iter().enumerate() {
        max[lane] = if v > max[lane] { v } else { max[lane] };
        bad[lane] |= v.is_nan() | (v == f32::INFINITY);
    }
    if bad.contains(&true) {
        return None;
    }
    Some(
        max.into_iter()
            .fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a }),
    )
}

/// How logits are weighed: e^((logit − max) / temperature), in [0, 1].
///
/// All its bits are defined: plain IEEE operations in this order, none of them fused.
/// Kernels of the op `exp_sum` on any device give what [`total`](Self::total) does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weigh {
    max: f32,
    inv_temperature: f32,
}

impl Weigh {
    /// `max`: the row's largest logit, finite. `temperature` > 0.
    pub fn new(max: f32, temperature: f32) -> Self {
        Self::with_inverse(max, inverse(temperature))
    }

    /// As [`new`](Self::new), with [`inverse`] of the temperature. Logits above `max`
    /// weigh as much as it does, NaN nothing.
    pub fn with_inverse(max: f32, inv_temperature: f32) -> Self {
        Self {
            max,
            inv_temperature,
        }
    }

    /// The logarithm of the weight, ≤ 0.
    #[inline(always)]
    pub(crate) fn log_weight(self, logit: f32) -> f32 {
        (logit - self.max) * self.inv_temperature
    }

    #[inline(always)]
    pub fn weight(self, logit: f32) -> f32 {
        exp_neg(self.log_weight(logit))
    }

    /// The weight in units of 2⁻⁴⁰, rounded down.
    #[inline(always)]
    pub fn fixed(self, logit: f32) -> u64 {
        fixed(self.weight(logit))
    }

    /// Sum of the [`fixed`](Self::fixed) weights of one block.
    pub(crate) fn sum(self, block: &[f32]) -> u64 {
        let weigh = self;
        wide!(sum_in_lanes(weigh: Weigh, block: &[f32]) -> u64)
    }

    /// Sum of the [`fixed`](Self::fixed) weights of a row of up to
    /// [`MAX_VOCAB`](crate::MAX_VOCAB) logits.
    pub fn total(self, row: &[f32]) -> u64 {
        row.chunks(BLOCK).map(|block| self.sum(block)).sum()
    }

    /// Writes the weights of a row to `out` and returns their [`total`](Self::total).
    pub(crate) fn write(self, row: &[f32], out: &mut Vec<f32>) -> u64 {
        out.resize(row.len(), 0.0);
        let blocks = row.chunks(BLOCK).zip(out.chunks_mut(BLOCK));
        blocks
            .map(|(block, weights)| self.write_block(block, weights))
            .sum()
    }

    fn write_block(self, block: &[f32], out: &mut [f32]) -> u64 {
        let weigh = self;
        wide!(write_in_lanes(weigh: Weigh, block: &[f32], out: &mut [f32]) -> u64)
    }
}

/// What logits are multiplied with: 1 / temperature, capped so that the largest gives
/// 0 · x, never 0 · ∞, and never so small that a device may take it for 0.
/// `temperature` > 0.
pub fn inverse(temperature: f32) -> f32 {
    (1.0 / temperature).clamp(f32::MIN_POSITIVE, f32::MAX)
}

/// Sums of fixed-point weights: the high and the low 20 bits apart, since no CPU turns
/// many f32 into u64 at once. A block's fit 32 bits.
#[derive(Default)]
struct Lanes {
    high: [u32; LANES],
    low: [u32; LANES],
}

impl Lanes {
    /// `weight` comes from [`exp_neg`].
    #[inline(always)]
    fn add(&mut self, lane: usize, weight: f32) {
        const PART: f32 = (1 << 20) as f32;
        let whole = |x: f32| {
            debug_assert!((0.0..=PART).contains(&x));
            // SAFETY: weights are in [0, 1], and of a number below 1 a part is below PART.
            // A cast that checks its range would not vectorise.
            unsafe { x.to_int_unchecked::<i32>() }
        };
        let scaled = weight * PART;
        let high = whole(scaled);
        self.high[lane] += high as u32;
        self.low[lane] += whole((scaled - high as f32) * PART) as u32;
    }

    fn sum(self) -> u64 {
        let all = |parts: [u32; LANES]| parts.into_iter().map(u64::from).sum::<u64>();
        (all(self.high) << 20) + all(self.low)
    }
}

#[inline(always)]
fn sum_in_lanes(weigh: Weigh, block: &[f32]) -> u64 {
    let mut lanes = Lanes::default();
    let chunks = block.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (lane, &v) in chunk.iter().enumerate() {
            lanes.add(lane, weigh.weight(v));
        }
    }
    for (lane, &v) in tail.iter().enumerate() {
        lanes.add(lane, weigh.weight(v));
    }
    lanes.sum()
}

#[inline(always)]
fn write_in_lanes(weigh: Weigh, block: &[f32], out: &mut [f32]) -> u64 {
    let mut lanes = Lanes::default();
    let whole = block.len() - block.len() % LANES;
    let (body, tail) = block.split_at(whole);
    let (out_body, out_tail) = out.split_at_mut(whole);
    for (chunk, to) in body
        .chunks_exact(LANES)
        .zip(out_body.chunks_exact_mut(LANES))
    {
        for lane in 0..LANES {
            let weight = weigh.weight(chunk[lane]);
            to[lane] = weight;
            lanes.add(lane, weight);
        }
    }
    for (lane, (&v, to)) in tail.iter().zip(out_tail).enumerate() {
        *to = weigh.weight(v);
        lanes.add(lane, *to);
    }
    lanes.sum()
}

/// A weight as 40-bit fixed point: sums of up to [`MAX_VOCAB`](crate::MAX_VOCAB) of
/// them are exact in a u64, whatever their order.
#[inline(always)]
pub(crate) fn fixed(weight: f32) -> u64 {
    (weight * FIXED_ONE as f32) as u64
}

/// The fixed-point weight of the largest logit.
pub(crate) const FIXED_ONE: u64 = 1 << 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_a_millionth_of_f64() {
        let mut worst = 0f64;
        for i in 0..2_000_000u32 {
            let x = -(i as f32) * (87.0 / 2_000_000.0);
            let want = f64::from(x).exp();
            worst = worst.max((f64::from(exp_neg(x)) - want).abs() / want);
        }
        assert!(worst < 3e-7, "relative error {worst:e}");
    }

    #[test]
    fn exp_at_its_edges() {
        assert_eq!(exp_neg(0.0), 1.0);
        assert_eq!(exp_neg(-0.0), 1.0);
        assert_eq!(exp_neg(3.0), 1.0);
        assert_eq!(exp_neg(f32::NAN), 0.0);
        assert_eq!(exp_neg(-87.5), 0.0);
        assert_eq!(exp_neg(f32::MIN), 0.0);
        assert_eq!(exp_neg(f32::NEG_INFINITY), 0.0);
        assert!(exp_neg(-86.9) > 0.0);
    }

    #[test]
    fn weights_survive_extreme_temperatures() {
        for temperature in [1e-45, 1e-30, 1.0, 1e30, f32::MAX] {
            let weigh = Weigh::new(3.0, temperature);
            assert_eq!(weigh.weight(3.0), 1.0, "{temperature:e}");
            assert_eq!(weigh.weight(f32::NEG_INFINITY), 0.0, "{temperature:e}");
            let w = weigh.weight(2.0);
            assert!((0.0..=1.0).contains(&w), "{temperature:e}: {w}");
        }
    }

    #[test]
    fn max_sees_every_lane_and_bad_value() {
        for len in [1, 7, 8, 9, 31] {
            for at in 0..len {
                let mut row = vec![-1.0; len];
                row[at] = 2.0;
                assert_eq!(max_or_bad(&row), Some(2.0));
                for bad in [f32::NAN, f32::INFINITY, -f32::NAN] {
                    row[at] = bad;
                    assert_eq!(max_or_bad(&row), None);
                }
                row[at] = f32::NEG_INFINITY;
                let want = if len == 1 { f32::NEG_INFINITY } else { -1.0 };
                assert_eq!(max_or_bad(&row), Some(want));
            }
        }
    }

    #[test]
    fn wide_registers_change_no_bit() {
        let row: Vec<f32> = (0..2051).map(|i| (i as f32 * 1.3).cos() * 40.0).collect();
        let weigh = Weigh::new(40.0, 0.6);
        assert_eq!(max_or_bad(&row), max_or_bad_in_lanes(&row));
        for block in row.chunks(BLOCK) {
            assert_eq!(weigh.sum(block), sum_in_lanes(weigh, block));
        }
    }

    #[test]
    fn total_is_the_sum_of_weights() {
        let row: Vec<f32> = (0..3001).map(|i| (i as f32 * 0.7).sin() * 5.0).collect();
        let want: f64 = row
            .iter()
            .map(|&x| ((f64::from(x) - 5.0) / 0.8).exp())
            .sum();
        let weigh = Weigh::new(5.0, 0.8);
        let total = weigh.total(&row);
        let got = total as f64 / FIXED_ONE as f64;
        assert!((got - want).abs() < 1e-6 * want, "{got} {want}");
        assert_eq!(total, row.iter().map(|&x| weigh.fixed(x)).sum::<u64>());
        let mut weights = vec![7.0; 5];
        assert_eq!(weigh.write(&row, &mut weights), total);
        assert!(
            row.iter()
                .zip(&weights)
                .all(|(&x, &w)| weigh.weight(x) == w)
        );
        assert_eq!(weights.len(), row.len());
    }
}
