//! Model families: configuration to graph and weight names.
//!
//! [`load`] turns a checked view of a Hugging Face `config.json` into a [`Model`]: a graph whose
//! weights carry the names that the model's files use. A family is one file that registers a
//! [`Family`]; what families share is in [`spec`] (every knob), `read` (fields that
//! are spelled alike), `wiring` (the graph), `sources` (fused and permuted tensors), [`rope`],
//! `windows` (what each layer is) and `guard` (what is refused).
//!
//! [`read`] does the same for opened files in either form: GGUF metadata becomes the same
//! specification (`gguf`).
//!
//! The meaning of every field is that of Hugging Face transformers. A field that would change the
//! numbers and is not computed here is an error that names it: nothing is approximated silently.

mod error;
mod families;
mod family;
mod gguf;
mod guard;
mod model;
mod paro;
mod read;
pub mod rope;
pub mod sources;
pub mod spec;
mod tensors;
mod windows;
mod wiring;
mod words;

pub use error::{ModelError, Result};
pub use family::{Family, TextOf, families};
pub use gguf::{GgufArchitecture, gguf_architectures};
pub use model::{DEFAULT_CONTEXT, Model, load, read};
pub use rope::{Rope, RopeScaling};
pub use spec::{LayerSpec, ModelSpec};
pub use tensors::TensorReport;
