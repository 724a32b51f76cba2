//! Gates on whole models: against golden logits of another implementation (ring 1),
//! and of a backend against the oracle (ring 3), on the developer's machine or on
//! the user's ([`verify`]).

mod base;
mod eval;
mod fault;
mod golden;
mod ring1;
mod ring3;
mod script;
mod undecided;
mod verify;

pub use base::{BaseReader, BaseWriter};
pub use eval::{EvalOptions, Evaluation, Reference, evaluate};
pub use fault::{Fault, break_composites, break_kernel};
pub use golden::{Golden, GoldenPrompt};
pub use ring1::{Feed, PromptReport, RING1_TOLERANCE, Ring1Report, ring1};
pub use ring3::{
    Bounds, ORACLE, Repeated, act_cost_bound, acts_key, acts_of, compare, compare_traces, f32_acts,
    first_unrepeatable, fit, forgets, load_candidate, load_on, load_oracle, matrix, repeat,
};
pub use script::{
    Action, Player, RowId, Script, StepRows, Trace, play, pseudo_random_ids, text_ids,
};
pub use undecided::{MOST_UNDECIDED, PLAYS, decided, jumps, undecided};
pub use verify::{VERIFY_TEXT, VerifyOptions, verify};

use runtime::RuntimeError;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    #[error(transparent)]
    Runtime(Box<RuntimeError>),
    #[error(transparent)]
    Registry(#[from] registry::RegistryError),
    #[error(transparent)]
    Format(Box<formats::Error>),
    #[error("{}: golden tensor '{tensor}' {problem}: make the file anew with fixtures/generate.py", path.display())]
    Golden {
        path: PathBuf,
        tensor: String,
        problem: String,
    },
    #[error("script '{script}': {reason}")]
    Script { script: String, reason: String },
    #[error("nothing was compared: {0}")]
    Empty(String),
    #[error("the base {}: {reason}", path.display())]
    Base { path: PathBuf, reason: String },
}

impl From<RuntimeError> for GateError {
    fn from(e: RuntimeError) -> Self {
        GateError::Runtime(Box::new(e))
    }
}

impl From<formats::Error> for GateError {
    fn from(e: formats::Error) -> Self {
        GateError::Format(Box::new(e))
    }
}
