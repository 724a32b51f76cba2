use thiserror::Error;

/// A sampling parameter outside its range.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field} is {value}; allowed: {allowed}")]
pub struct InvalidParam {
    /// Name of the field of [`SamplingParams`](crate::SamplingParams).
    pub field: &'static str,
    /// The value found, as text.
    pub value: String,
    /// What is allowed instead.
    pub allowed: &'static str,
}

/// Why a row of logits gave no token. `sequence` and `position` are those passed
/// to the call ([`Sampler::distribution`](crate::Sampler::distribution) and
/// [`top_logprobs`](crate::top_logprobs) have none and report 0).
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum SampleError {
    #[error(
        "sequence {sequence}, position {position}: the logit of token {token} is {value}, wanted a finite number or -inf; the fault is in the forward pass or the weights, `engine verify` finds which kernel"
    )]
    BadLogit {
        sequence: u64,
        position: u64,
        token: u32,
        value: f32,
    },

    #[error(
        "sequence {sequence}, position {position}: the logit of token {token} is {value} after logit bias and penalties, wanted a finite number; use a smaller bias or a repetition_penalty nearer to 1"
    )]
    Overflow {
        sequence: u64,
        position: u64,
        token: u32,
        value: f32,
    },

    #[error(
        "sequence {sequence}, position {position}: all {vocab} logits are -inf, so no token is allowed; ban fewer tokens (logit bias, grammar or mask)"
    )]
    NoCandidates {
        sequence: u64,
        position: u64,
        vocab: usize,
    },

    #[error("wanted 1 to {max} logits, one for each token of the vocabulary, found {found}")]
    VocabSize { found: usize, max: usize },

    #[error(
        "logit_bias names token {token}, but the vocabulary has {vocab} tokens; use ids below {vocab}"
    )]
    BiasToken { token: u32, vocab: usize },

    #[error(
        "the history holds token {token}, but the vocabulary has {vocab} tokens; it must be tokenized with this model's tokenizer"
    )]
    HistoryToken { token: u32, vocab: usize },
}
