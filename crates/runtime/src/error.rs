//! What can go wrong while loading or running.

use crate::cache::SeqId;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    #[error(transparent)]
    Format(Box<formats::Error>),
    #[error(transparent)]
    Model(Box<models::ModelError>),
    #[error(transparent)]
    Plan(Box<planner::PlanError>),
    #[error(transparent)]
    Registry(#[from] registry::RegistryError),
    #[error(transparent)]
    Kernel(#[from] registry::KernelError),
    #[error(transparent)]
    Hal(#[from] hal::HalError),
    #[error(transparent)]
    Sampling(#[from] sampling::SampleError),
    #[error(transparent)]
    Stop(#[from] sampling::EmptyStop),
    #[error(transparent)]
    Params(#[from] sampling::InvalidParam),
    #[error(
        "the model needs {needed} on {device} ({detail}) and {available} is free: use {instead}a \
         shorter --ctx, a smaller model or another device"
    )]
    Memory {
        device: String,
        needed: String,
        available: String,
        detail: String,
        /// A way to divide the model that would fit, with a comma behind it, or
        /// nothing.
        instead: Box<str>,
    },
    #[error("{0}")]
    Placement(String),
    #[error(
        "the prompt has {tokens} tokens and the context holds {context}: shorten it or raise --ctx"
    )]
    PromptTooLong { tokens: usize, context: usize },
    #[error("the prompt is empty: give at least one token")]
    EmptyPrompt,
    #[error("token id {id} is outside the vocabulary of {vocab} entries")]
    TokenRange { id: u32, vocab: usize },
    #[error("sequence {0:?} does not exist")]
    NoSequence(SeqId),
    #[error("{wanted} sequences are alive and the limit is {limit}")]
    TooManySequences { wanted: usize, limit: usize },
    #[error("the page pool of {pages} pages is exhausted: fewer sequences or a shorter --ctx")]
    OutOfPages { pages: usize },
    #[error("cannot go back to {to} of {len} tokens: positions behind the window were freed")]
    BehindWindow { to: usize, len: usize },
    #[error(
        "cannot go back to {to} of {len} tokens: the recurrent state is kept for {kept} only; \
         start the sequence anew or keep more states"
    )]
    NoState { to: usize, len: usize, kept: String },
    #[error("the {slots} slots for recurrent states are exhausted: keep fewer states or sequences")]
    OutOfStates { slots: usize },
    #[error("a step of {rows} rows in {spans} spans exceeds {max_rows} rows in {max_spans} spans")]
    StepTooLarge {
        rows: usize,
        spans: usize,
        max_rows: usize,
        max_spans: usize,
    },
    #[error("a step cannot run: {0}")]
    BadStep(String),
    #[error("tensor '{tensor}': {reason}")]
    Weight { tensor: String, reason: String },
}

/// Large errors are boxed: results are returned by value along every step.
macro_rules! boxed {
    ($($variant:ident: $error:ty),+ $(,)?) => {
        $(impl From<$error> for RuntimeError {
            fn from(e: $error) -> Self {
                RuntimeError::$variant(Box::new(e))
            }
        })+
    };
}

boxed! {
    Format: formats::Error,
    Model: models::ModelError,
    Plan: planner::PlanError,
}

/// Bytes as people read them.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}
