//! Samples and what is said of them.

use serde::{Deserialize, Serialize};

/// A metric: every sample, and the usual figures. `unit` says what a sample is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stat {
    pub unit: String,
    pub higher_is_better: bool,
    pub median: f64,
    /// 95 of 100 samples do not exceed it.
    pub p95: f64,
    pub min: f64,
    pub max: f64,
    /// Of the samples (n − 1).
    pub stdev: f64,
    pub samples: Vec<f64>,
}

/// What a metric's samples are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    TokensPerSecond,
    Milliseconds,
    Seconds,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Unit::TokensPerSecond => "tok/s",
            Unit::Milliseconds => "ms",
            Unit::Seconds => "s",
        }
    }
}

impl Stat {
    /// `None` without samples: nothing was measured, so nothing is said.
    pub fn of(unit: Unit, samples: Vec<f64>) -> Option<Self> {
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let mean = sorted.iter().sum::<f64>() / n as f64;
        let square = sorted.iter().map(|s| (s - mean).powi(2)).sum::<f64>();
        Some(Stat {
            unit: unit.name().into(),
            higher_is_better: unit == Unit::TokensPerSecond,
            median: (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0,
            p95: sorted[((n as f64 * 0.95).ceil() as usize).clamp(1, n) - 1],
            min,
            max,
            stdev: (square / (n.max(2) - 1) as f64).sqrt(),
            samples,
        })
    }

    /// Standard deviation over median.
    pub fn spread(&self) -> f64 {
        self.stdev / self.median.abs()
    }

    /// Whether the samples scatter by no more than that; not a number is not.
    pub fn steady(&self, bound: f64) -> bool {
        self.spread() <= bound
    }

    /// Standard error of the median over the median, for samples that are about
    /// normal.
    pub fn doubt(&self) -> f64 {
        1.2533 * self.spread() / (self.samples.len() as f64).sqrt()
    }
}

/// The median of a few numbers; 0 without any.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n => (values[(n - 1) / 2] + values[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_known_samples() {
        let of = |v: &[f64]| Stat::of(Unit::Seconds, v.to_vec());
        let s = of(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((s.median, s.min, s.max, s.p95), (2.5, 1.0, 4.0, 4.0));
        assert!((s.stdev - (5.0f64 / 3.0).sqrt()).abs() < 1e-12);
        let one = of(&[7.0]).unwrap();
        assert_eq!((one.median, one.stdev), (7.0, 0.0));
        assert_eq!(of(&[]), None);
        let twenty: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!(of(&twenty).unwrap().p95, 19.0);
    }
}
