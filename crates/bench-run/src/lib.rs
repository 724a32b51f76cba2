//! Measures prefill and decode of a model, and a peer beside it in the same run.
//!
//! The gate comes first: the plan that is to be timed is compared with the oracle,
//! and a run whose gate fails is not accepted. Repeats of ours and of the peer's
//! alternate (A B A B …), because shared machines drift. What was found goes to one
//! JSON artifact, which says where it comes from.

pub mod args;
pub mod artifact;
mod ceilings;
pub mod compare;
pub mod gate;
mod measure;
mod peer;
pub mod process;
mod profile;
mod provenance;
pub mod report;
pub mod run;
pub mod schema;
pub mod stat;
mod svg;
pub mod synthetic;
pub mod tune;

// The trees register themselves; a crate that nobody names registers nothing.
use kernels as _;
