//! Logits to token: the sampler chain, its counter-based random numbers, and
//! the stop strings and UTF-8 pieces of streamed text.
//!
//! # The chain
//!
//! For one row of logits, in this order:
//!
//! 1. **Logit bias**: `logit += bias` for each listed token. `-inf` bans it.
//! 2. **Repetition penalty**: each distinct token among the last
//!    `penalty_last_n` tokens of prompt + generated text has its logit divided
//!    by the penalty if positive, multiplied by it otherwise.
//! 3. **Frequency and presence penalty**: for each token that occurs `c > 0`
//!    times in the generated text (never the prompt, never windowed),
//!    `logit -= frequency_penalty * c + presence_penalty`.
//! 4. **Temperature**: `logit / temperature`. Temperature 0 ends the chain here:
//!    the largest logit wins, ties going to the lowest id.
//! 5. **Top-k**: the `k` largest. Exactly `k`: ties go to the lowest id.
//! 6. **Top-p**: of those, renormalised, the shortest run in descending order
//!    (ties: lowest id first) whose probability reaches `top_p`. The token that
//!    crosses the line is kept, so at least one token is.
//! 7. **Min-p**: those whose probability is at least `min_p` times the largest.
//! 8. **Draw**: one uniform number against the cumulative distribution of the
//!    survivors, taken in ascending id; where no step but temperature is on, the
//!    [`HEAD`] largest come first, in descending order, then all others.
//!
//! Bias before penalties, and penalties before temperature, is the order of
//! Hugging Face transformers, vLLM and llama.cpp; top-k, top-p, min-p is that of
//! transformers. Steps 5 to 7 each keep a prefix of one total order (logit
//! descending, id ascending), which is why no step needs a full sort.
//!
//! # Reproducibility
//!
//! The uniform number is Philox4x32-10 keyed by the seed, at the counter
//! (position, sequence): see [`philox`]. It depends on nothing else, so batching,
//! chunked prefill, other sequences or a retry never change a draw.
//!
//! Weights are `exp((logit - max) / temperature)` in f32, from a polynomial of
//! plain IEEE operations rather than the platform's libm (relative error below
//! 1e-6 beyond the rounding of its argument). They are summed as 40-bit fixed point
//! in integers, so the order of summation cannot matter, and a device's sums are the
//! host's; a token below 2⁻⁴⁰ of the largest counts as zero.
//!
//! # Rows that stay on the device
//!
//! A row of a large vocabulary takes longer to fetch than to draw from, and nearly
//! always its largest logits say which token is drawn. [`Sampler::reads`] says what a
//! draw wants to see, [`Sampler::sample_head`] draws from it, and says so where that
//! is not enough after all: then [`Sampler::sample`] of the row gives the token. Either
//! way it is the same one.
//!
//! # Streaming
//!
//! [`StopMatcher`] releases text only once it cannot be the beginning of a stop
//! string.

mod error;
mod logprobs;
mod math;
mod params;
pub mod philox;
mod sampler;
mod select;
mod stop;

pub use error::{InvalidParam, SampleError};
pub use logprobs::{TokenLogprob, top_logprobs};
pub use math::{Weigh, inverse};
pub use params::SamplingParams;
pub use sampler::{HEAD, Head, History, Reads, Sampled, Sampler, TokenProb};
pub use stop::{EmptyStop, Released, Stop, StopMatcher};

/// Most logits one row may have: the bound under which fixed-point sums are exact.
pub const MAX_VOCAB: usize = (1 << 24) - 1;
