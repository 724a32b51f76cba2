use crate::math::{FIXED_ONE, Weigh, max_or_bad};
use crate::select::{self, logit_of, token_of};
use crate::{MAX_VOCAB, SampleError};

/// A token and the natural logarithm of its probability under the softmax of the
/// logits as given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLogprob {
    pub token: u32,
    pub logprob: f32,
}

/// The `n` most probable tokens of a row (all of them if it has fewer) under its
/// plain softmax: most probable first, ties by lowest id. -inf logits are listed
/// only once nothing else is left.
///
/// # Errors
/// As [`Sampler::sample`](crate::Sampler::sample), for an empty row, a NaN or +inf,
/// and a row of nothing but -inf.
pub fn top_logprobs(logits: &[f32], n: usize) -> Result<Vec<TokenLogprob>, SampleError> {
    let max = checked_max(logits, 0, 0)?;
    let log_total = log_sum(Weigh::new(max, 1.0).total(logits));
    let mut keys = Vec::new();
    if n >= logits.len() {
        keys.extend(
            (0..)
                .zip(logits)
                .map(|(token, &logit)| select::key(logit, token)),
        );
    } else if n > 0 {
        select::largest(logits, n, &mut keys);
    }
    keys.sort_unstable_by(|a, b| b.cmp(a));
    Ok(keys
        .into_iter()
        .map(|key| TokenLogprob {
            token: token_of(key),
            logprob: logprob(logit_of(key), max, log_total),
        })
        .collect())
}

/// The logarithm of a sum of fixed-point weights.
pub(crate) fn log_sum(total: u64) -> f64 {
    (total as f64 / FIXED_ONE as f64).ln()
}

/// The largest logit of a row, which is then known to be a distribution.
pub(crate) fn checked_max(
    logits: &[f32],
    sequence: u64,
    position: u64,
) -> Result<f32, SampleError> {
    if logits.is_empty() || logits.len() > MAX_VOCAB {
        return Err(SampleError::VocabSize {
            found: logits.len(),
            max: MAX_VOCAB,
        });
    }
    match max_or_bad(logits) {
        Some(f32::NEG_INFINITY) => Err(SampleError::NoCandidates {
            sequence,
            position,
            vocab: logits.len(),
        }),
        Some(max) => Ok(max),
        None => {
            let (token, value) = first_bad(logits);
            Err(SampleError::BadLogit {
                sequence,
                position,
                token,
                value,
            })
        }
    }
}

/// The first logit that is NaN or +inf; there must be one.
pub(crate) fn first_bad(logits: &[f32]) -> (u32, f32) {
    (0..)
        .zip(logits.iter().copied())
        .find(|&(_, v)| v.is_nan() || v == f32::INFINITY)
        .unwrap_or((0, f32::NAN))
}

pub(crate) fn logprob(logit: f32, max: f32, log_total: f64) -> f32 {
    (f64::from(logit) - f64::from(max) - log_total) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_softmax_of_the_best_in_order() {
        let logits = [0.5, 2.0, f32::NEG_INFINITY, 2.0, -1.0];
        let total: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        let top = top_logprobs(&logits, 3).unwrap();
        assert_eq!(top.iter().map(|t| t.token).collect::<Vec<_>>(), [1, 3, 0]);
        for t in top {
            let want = f64::from(logits[t.token as usize]) - total.ln();
            assert!((f64::from(t.logprob) - want).abs() < 1e-6);
        }
        assert_eq!(top_logprobs(&logits, 0).unwrap(), []);
        let all = top_logprobs(&logits, 99).unwrap();
        assert_eq!(all.len(), 5);
        assert_eq!(
            all[4],
            TokenLogprob {
                token: 2,
                logprob: f32::NEG_INFINITY
            }
        );
    }

    #[test]
    fn rows_that_are_no_distribution() {
        assert!(matches!(
            top_logprobs(&[], 1),
            Err(SampleError::VocabSize { found: 0, .. })
        ));
        assert!(matches!(
            top_logprobs(&[0.0, f32::NAN], 1),
            Err(SampleError::BadLogit { token: 1, .. })
        ));
        assert!(matches!(
            top_logprobs(&[f32::NEG_INFINITY; 4], 1),
            Err(SampleError::NoCandidates { vocab: 4, .. })
        ));
    }
}
