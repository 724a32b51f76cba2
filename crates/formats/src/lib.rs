//! Model files: safetensors, GGUF, Hugging Face directories, block codecs, tokenizer, chat template.
//!
//! This crate turns files into checked, typed views and knows nothing about devices or graphs.
//! Everything it reads is treated as untrusted: a damaged file is an [`Error`] that names the
//! file, the field or tensor, and what to do next; it is never a panic, and no allocation is
//! sized by a number that a file merely claims.

mod error;
mod guard;

pub mod chat;
pub mod codec;
pub mod config;
mod decode;
pub mod detok;
pub mod dtype;
pub mod gguf;
pub mod hf;
pub mod hub;
mod model_files;
mod replace;
pub mod safetensors;
pub mod tensors;
pub mod tokenizer;

pub use chat::{ChatMessage, ChatTemplate};
pub use codec::{CodecError, can_encode, decode_row, encode_row};
pub use config::ConfigView;
pub use detok::IncrementalDetokenizer;
pub use dtype::StoredType;
pub use error::{Error, HeaderProblem, IndexProblem, Result};
pub use gguf::{GgufFile, GgufWriter, MetadataView};
pub use hf::{GenerationDefaults, HfDir, resolve_model_dir};
pub use hub::HubName;
pub use model_files::{Description, ModelFiles, open_tokenizer};
pub use safetensors::{TensorToWrite, open_dir, open_file, write_safetensors};
pub use tensors::{
    MappedFile, Place, Recipe, RecipeProblem, RowPattern, TensorInfo, TensorRef, TensorStore,
};
pub use tokenizer::{Tokenizer, TokenizerConfig};
