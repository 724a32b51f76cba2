//! How far logits are apart: KL divergence, top-1, largest difference.

/// How one row of candidate logits compares with the oracle's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowStats {
    /// KL(oracle‖candidate) in nats over the whole vocabulary; infinite where the
    /// candidate is not finite.
    pub kl: f64,
    /// Largest |oracle − candidate|.
    pub max_abs: f64,
    /// By how much the oracle's best logit leads.
    pub gap: f64,
    /// Whether both have the same best token; ties go to the lowest id.
    pub same_top: bool,
}

/// Compares two rows of the same length.
///
/// # Panics
/// When the lengths differ or the rows are empty.
pub fn compare_row(oracle: &[f32], candidate: &[f32]) -> RowStats {
    assert_eq!(oracle.len(), candidate.len(), "rows of one vocabulary");
    let (top, gap) = top2(oracle);
    let finite = candidate.iter().chain(oracle).all(|x| x.is_finite());
    if !finite {
        return RowStats {
            kl: f64::INFINITY,
            max_abs: f64::INFINITY,
            gap,
            same_top: false,
        };
    }
    let (zo, zc) = (log_sum_exp(oracle), log_sum_exp(candidate));
    let mut kl = 0.0;
    let mut max_abs = 0f64;
    for (&o, &c) in oracle.iter().zip(candidate) {
        let (o, c) = (f64::from(o), f64::from(c));
        let log_p = o - zo;
        kl += log_p.exp() * (log_p - (c - zc));
        max_abs = max_abs.max((o - c).abs());
    }
    RowStats {
        // Below zero only by rounding.
        kl: kl.max(0.0),
        max_abs,
        gap,
        same_top: top2(candidate).0 == top,
    }
}

/// log Σ exp(xᵢ) in f64.
pub fn log_sum_exp(row: &[f32]) -> f64 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let max = f64::from(max);
    let sum: f64 = row.iter().map(|&x| (f64::from(x) - max).exp()).sum();
    max + sum.ln()
}

/// The lowest index of the largest element and its lead over the second; a row of
/// one element leads infinitely.
///
/// # Panics
/// When the row is empty.
pub fn top2(row: &[f32]) -> (usize, f64) {
    assert!(!row.is_empty(), "a row of logits");
    let mut best = 0;
    let mut second = f32::NEG_INFINITY;
    for (i, &x) in row.iter().enumerate().skip(1) {
        if x > row[best] {
            second = row[best];
            best = i;
        } else if x > second {
            second = x;
        }
    }
    (best, f64::from(row[best]) - f64::from(second))
}

/// Standard deviation over all elements, in f64.
pub fn sigma(values: &[f32]) -> f64 {
    let n = values.len().max(1) as f64;
    let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let square = |x: f32| (f64::from(x) - mean).powi(2);
    (values.iter().map(|&x| square(x)).sum::<f64>() / n).sqrt()
}

/// The rows of one comparison.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    rows: Vec<RowStats>,
}

impl Tally {
    pub fn push(&mut self, row: RowStats) {
        self.rows.push(row);
    }

    pub fn rows(&self) -> &[RowStats] {
        &self.rows
    }

    pub fn extend(&mut self, other: &Tally) {
        self.rows.extend_from_slice(&other.rows);
    }

    /// `None` without rows: nothing was compared, so nothing is claimed.
    pub fn summary(&self) -> Option<Summary> {
        if self.rows.is_empty() {
            return None;
        }
        let n = self.rows.len();
        let mut kl: Vec<f64> = self.rows.iter().map(|r| r.kl).collect();
        kl.sort_by(f64::total_cmp);
        let mut delta: Vec<f64> = self.rows.iter().map(|r| r.max_abs).collect();
        delta.sort_by(f64::total_cmp);
        // The smallest value that at least so many of 100 rows do not exceed.
        let percentile = |sorted: &[f64], p: usize| sorted[(n * p).div_ceil(100) - 1];
        let noise = 2.0 * percentile(&delta, 90);
        let agree = |counts: &dyn Fn(&RowStats) -> bool| {
            let wrong = self.rows.iter().filter(|r| !r.same_top && counts(r));
            1.0 - wrong.count() as f64 / n as f64
        };
        Some(Summary {
            positions: n,
            mean_kl: kl.iter().sum::<f64>() / n as f64,
            p99_kl: percentile(&kl, 99),
            max_kl: kl[n - 1],
            top1: agree(&|r| r.gap > noise || !r.max_abs.is_finite()),
            top1_raw: agree(&|_| true),
            median_delta: percentile(&delta, 50),
            max_delta: delta[n - 1],
        })
    }
}

/// What a comparison says in figures.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Summary {
    pub positions: usize,
    /// Nats per position.
    pub mean_kl: f64,
    pub p99_kl: f64,
    pub max_kl: f64,
    /// Share of rows with the oracle's best token, a differing one counting only
    /// where the oracle's lead exceeds twice what nine of ten rows are off by. (Twice
    /// what the row itself is off by would never count: two rows that close have
    /// the same best token.)
    pub top1: f64,
    /// Share of rows with the oracle's best token, near ties included.
    pub top1_raw: f64,
    /// Of the rows' largest |Δ|.
    pub median_delta: f64,
    pub max_delta: f64,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} positions, KL mean {:.2e} p99 {:.2e} max {:.2e}, top-1 {:.2}% (raw {:.2}%), |Δ| \
             median {:.2e} max {:.2e}",
            self.positions,
            self.mean_kl,
            self.p99_kl,
            self.max_kl,
            self.top1 * 100.0,
            self.top1_raw * 100.0,
            self.median_delta,
            self.max_delta
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kl_is_that_of_the_definition() {
        // p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4): KL = ln 2 / 4.
        let ln = |p: f64| p.ln() as f32;
        let oracle = [ln(0.5), ln(0.25), ln(0.25)].map(|x| x + 3.0);
        let candidate = [ln(0.25), ln(0.5), ln(0.25)].map(|x| x - 70.0);
        let row = compare_row(&oracle, &candidate);
        assert!((row.kl - 2f64.ln() / 4.0).abs() < 1e-6, "{row:?}");
        assert!(!row.same_top);
        assert!((row.gap - 2f64.ln()).abs() < 1e-6);
        // A constant added to all logits is no difference between distributions.
        let shifted = oracle.map(|x| x + 5.0);
        let row = compare_row(&oracle, &shifted);
        assert!(row.kl < 1e-12 && row.same_top, "{row:?}");
        assert!((row.max_abs - 5.0).abs() < 1e-5);
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let row = compare_row(&[1e4, 0.0, -1e4], &[1e4, 0.0, -1e4]);
        assert_eq!((row.kl, row.max_abs, row.same_top), (0.0, 0.0, true));
        assert!((log_sum_exp(&[1000.0, 1000.0]) - (1000.0 + 2f64.ln())).abs() < 1e-9);
    }

    #[test]
    fn a_row_that_is_not_finite_fails_everything() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut tally = Tally::default();
            tally.push(compare_row(&[1.0, 0.0], &[1.0, 0.0]));
            tally.push(compare_row(&[1.0, 0.0], &[1.0, bad]));
            let s = tally.summary().unwrap();
            assert_eq!(s.max_kl, f64::INFINITY);
            assert_eq!((s.top1, s.top1_raw), (0.5, 0.5));
        }
    }

    #[test]
    fn ties_go_to_the_lowest_id() {
        assert_eq!(top2(&[1.0, 3.0, 3.0, 2.0]), (1, 0.0));
        assert_eq!(top2(&[2.0, 1.0]), (0, 1.0));
        assert_eq!(top2(&[-1.0]).1, f64::INFINITY);
    }

    #[test]
    fn only_a_lead_beyond_the_noise_counts_against_top1() {
        let mut tally = Tally::default();
        for _ in 0..98 {
            tally.push(compare_row(&[1.0, 0.0], &[1.0, 0.001]));
        }
        // A near tie that flips, and a clear lead that flips.
        tally.push(compare_row(&[0.0005, 0.0], &[0.0, 0.0005]));
        tally.push(compare_row(&[1.0, 0.0], &[0.0, 1.0]));
        let s = tally.summary().unwrap();
        assert!((s.top1_raw - 0.98).abs() < 1e-12);
        assert!((s.top1 - 0.99).abs() < 1e-12);
    }

    #[test]
    fn quantiles_and_sigma() {
        let mut tally = Tally::default();
        assert!(tally.summary().is_none());
        for i in 1..=200 {
            tally.push(RowStats {
                kl: f64::from(i),
                max_abs: 0.0,
                gap: 1.0,
                same_top: true,
            });
        }
        let s = tally.summary().unwrap();
        assert_eq!((s.p99_kl, s.max_kl, s.mean_kl), (198.0, 200.0, 100.5));
        assert!((sigma(&[1.0, -1.0, 1.0, -1.0]) - 1.0).abs() < 1e-12);
    }
}
