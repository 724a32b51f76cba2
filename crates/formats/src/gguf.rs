//! GGUF: one file (or numbered parts) with metadata, tokenizer and tensors in block schemes.

mod header;
mod metadata;
mod parts;
mod problem;
mod reader;
mod types;
mod value;
mod write;

use std::path::{Path, PathBuf};

use crate::config::MAX_DIM;
use crate::error::{Error, Result};
use crate::hf::GenerationDefaults;
use crate::tensors::TensorStore;
use crate::tokenizer::Tokenizer;

pub use header::{DEFAULT_ALIGNMENT, GgufHeader, GgufTensor, parse_gguf};
pub use metadata::{Metadata, MetadataView};
pub use problem::GgufProblem;
pub use value::{Array, MAX_DEPTH, Value, ValueType, Values};
pub use write::{GgufKeys, GgufWriter, write_gguf};

/// An opened GGUF file. Tensors have the names of the file, and shapes with the outermost
/// dimension first, as everywhere in this crate.
#[derive(Debug, Clone)]
pub struct GgufFile {
    /// The file, or the first of its parts.
    pub path: PathBuf,
    /// 2 or 3.
    pub version: u32,
    /// Keys and values; of a file in parts, those of the first part.
    pub metadata: Metadata,
    pub tensors: TensorStore,
}

impl GgufFile {
    /// Opens a GGUF file; of one in parts, any part will do. Maps the data without reading it.
    ///
    /// Errors: an unreadable file, any [`GgufProblem`] of it or one of its parts.
    pub fn open(path: &Path) -> Result<Self> {
        parts::open(path)
    }

    /// Typed access to the keys by their full names.
    pub fn view(&self) -> MetadataView<'_> {
        self.metadata.view()
    }

    /// `general.architecture`, such as `qwen3`.
    pub fn architecture(&self) -> Result<&str> {
        self.view().str("general.architecture")
    }

    /// Typed access to the keys that belong to the architecture, without its name before them:
    /// `block_count` is `qwen3.block_count`.
    pub fn config(&self) -> Result<MetadataView<'_>> {
        Ok(self.view().within(self.architecture()?))
    }

    /// The tokenizer; `None` for a file without one (`no_vocab`), which is usable by token ids.
    ///
    /// Errors: a tokenizer that is damaged or of a kind that is not read.
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>> {
        Tokenizer::from_gguf(&self.metadata)
    }

    /// How the model's authors suggest to sample, and the tokens that end an answer: those that
    /// the file names as end of text, of turn and of message, and those of its tokens that chat
    /// models end a turn with (files seldom name all of theirs).
    pub fn generation(&self) -> Result<GenerationDefaults> {
        let view = self.view();
        let id = |name: &str| -> Result<Option<u32>> {
            let key = format!("tokenizer.ggml.{name}_token_id");
            // In range by the check.
            Ok(view.opt_usize_in(&key, 0..=MAX_DIM)?.map(|id| id as u32))
        };
        let sampling = view.within("general.sampling");
        let number =
            |key: &str, range| Ok::<_, Error>(sampling.opt_f64_in(key, range)?.map(|x| x as f32));
        let top_k = match sampling.opt_f64("top_k")? {
            // Some tools write -1 for "no limit".
            Some(-1.0) => Some(0),
            _ => sampling.opt_usize_in("top_k", 0..=MAX_DIM)?,
        };
        let mut eos_token_ids = Vec::new();
        for name in ["eos", "eot", "eom"] {
            if let Some(id) = id(name)?
                && !eos_token_ids.contains(&id)
            {
                eos_token_ids.push(id);
            }
        }
        for id in ends_by_name(&view)? {
            if !eos_token_ids.contains(&id) {
                eos_token_ids.push(id);
            }
        }
        Ok(GenerationDefaults {
            eos_token_ids,
            // For information only, as with Hugging Face's files.
            bos_token_id: id("bos").ok().flatten(),
            pad_token_id: id("padding").ok().flatten(),
            temperature: number("temp", 0.0..=100.0)?,
            top_k: top_k.map(|k| k as u32),
            top_p: number("top_p", 0.0..=1.0)?,
            min_p: number("min_p", 0.0..=1.0)?,
            repetition_penalty: number("penalty_repeat", 1e-3..=1e3)?,
            do_sample: None,
        })
    }
}

/// Tokens that end an answer in the chat formats of the model families.
const ENDS: &[&str] = &[
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<EOT>",
    "<｜end▁of▁sentence｜>",
];

/// The ids of those tokens whose names are [`ENDS`], ascending.
fn ends_by_name(view: &MetadataView<'_>) -> Result<Vec<u32>> {
    let Some(tokens) = view.opt_array("tokenizer.ggml.tokens")? else {
        return Ok(Vec::new());
    };
    let named = tokens.iter().zip(0u32..).filter_map(|(token, id)| {
        let name = *ENDS.iter().find(|end| token.as_str() == Some(**end))?;
        Some((name, id))
    });
    let named: Vec<(&str, u32)> = named.collect();
    // Where an answer consists of several messages, this ends only one of them.
    let messages = named.iter().any(|(name, _)| *name == "<|return|>");
    let ends = named
        .into_iter()
        .filter(|(name, _)| !(messages && *name == "<|end|>"));
    Ok(ends.map(|(_, id)| id).collect())
}
