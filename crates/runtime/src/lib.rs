//! Running programs: resident weights, paged caches, ragged batches, recorded
//! steps.
//!
//! [`Runner`] is the device side: it loads a [`planner::Program`]'s weights,
//! prepares its kernels, records one step per shape bucket and replays it; the parts
//! of a model that is divided between two devices run one after the other.
//! [`Sequences`] keeps the block tables. [`Model`] opens a model folder, plans it
//! and refuses before loading what would not fit. [`Generator`] turns prompts into
//! tokens: chunked prefill, continuous decode of several sequences, stop
//! conditions, cancellation.

mod cache;
pub mod device;
mod edges;
mod error;
mod footprint;
mod generate;
mod late;
mod model;
mod part;
mod placement;
mod recorded;
mod runner;
mod states;
mod step;
mod weights;

pub use cache::{PageCopy, SeqId, Sequences};
pub use error::{RuntimeError, human};
pub use footprint::check_memory;
pub use generate::{Event, Finish, GenerateOptions, Generator};
pub use model::{DEFAULT_CONTEXT, LoadOptions, Model, Opened, Progress};
pub use placement::Placement;
pub use runner::{Forward, Profile, Runner, Span, Want};
pub use states::Kept;
pub use step::{SpanPlan, StepWriter};
