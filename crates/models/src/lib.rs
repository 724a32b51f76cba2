//! Model families: configuration to graph and weight names.
//!
//! [`load`] turns a checked view of a Hugging Face `config.json` into a [`Model`]: a graph whose
//! weights carry the names that the model's files use. A family is one file that registers a
//! [`Family`]; what families share is in [`decoder`] (the wiring), [`rope`],
//! `windows` (which layers slide) and `guard` (what is refused).
//!
//! [`read`] does the same for opened files in either form: GGUF metadata becomes the same
//! specification (`gguf`).
//!
//! The meaning of every field is that of Hugging Face transformers. A field that would change the
//! numbers and is not computed here is an error that names it: nothing is approximated silently.

pub mod decoder;
mod error;
mod family;
mod gguf;
mod guard;
mod llama;
mod mistral;
mod model;
mod qwen2;
mod qwen3;
pub mod rope;
mod tensors;
mod windows;

pub use decoder::{LayerSpec, ModelSpec};
pub use error::{ModelError, Result};
pub use family::{Family, families};
pub use gguf::{GgufArchitecture, gguf_architectures};
pub use model::{Model, load, read};
pub use rope::{Rope, RopeScaling};
pub use tensors::TensorReport;
