//! The crate's one error type. Every message says what was wanted, what was found, what to do.

use std::path::{Path, PathBuf};

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong while reading or writing model files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a read.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },

    /// The operating system refused a write; nothing is left behind.
    #[error("cannot write {}: {source}; choose a folder that exists and is writable", path.display())]
    Unwritable {
        path: PathBuf,
        source: std::io::Error,
    },

    /// A file or folder that is needed is not there.
    #[error("{wanted} not found: no {}{}{hint}", path.display(), if hint.is_empty() { "" } else { "; " })]
    Missing {
        wanted: &'static str,
        path: PathBuf,
        hint: String,
    },

    /// A model named as on the Hugging Face Hub that is not usable from the caches on this machine.
    #[error("{name}: {problem}; {hint}")]
    Hub {
        name: String,
        problem: String,
        hint: String,
    },

    /// A file is larger than anything that this kind of file can be.
    #[error("{} has {bytes} bytes, more than the {limit} accepted for {kind}; check that it is the right file", path.display())]
    TooLarge {
        kind: &'static str,
        path: PathBuf,
        bytes: u64,
        limit: u64,
    },

    /// A JSON file that does not parse, or has the wrong outline.
    #[error("{} is not valid: {problem}", path.display())]
    Json { path: PathBuf, problem: String },

    /// A configuration field that is absent.
    #[error("{}: field `{field}` is missing; wanted {wanted}", path.display())]
    FieldMissing {
        path: PathBuf,
        field: String,
        wanted: String,
    },

    /// A configuration field whose value is not usable.
    #[error("{}: field `{field}` is {found}; wanted {wanted}", path.display())]
    FieldInvalid {
        path: PathBuf,
        field: String,
        found: String,
        wanted: String,
    },

    /// A safetensors file whose header or data is damaged.
    #[error("{} is not a usable safetensors file: {problem}", path.display())]
    Safetensors {
        path: PathBuf,
        problem: HeaderProblem,
    },

    /// A GGUF file whose header or data is damaged, or a part of one that does not fit the others.
    #[error("{} is not a usable GGUF file: {problem}", path.display())]
    Gguf {
        path: PathBuf,
        problem: crate::gguf::GgufProblem,
    },

    /// A set of shards that does not fit its index.
    #[error("{} does not fit its shards: {problem}", path.display())]
    Index {
        path: PathBuf,
        problem: IndexProblem,
    },

    /// A tokenizer that is damaged, or does not fit its model or the text.
    #[error("{} is not usable: {problem}", path.display())]
    Tokenizer { path: PathBuf, problem: String },

    /// A model without a chat template.
    #[error("this model has no chat template: no chat_template.jinja and no `chat_template` in {}; use `run` with a plain prompt", path.display())]
    NoChatTemplate { path: PathBuf },

    /// A chat template that is not valid, or that refuses the conversation.
    #[error("chat template in {}: {problem}", path.display())]
    ChatTemplate { path: PathBuf, problem: String },

    /// Tensors that cannot be written in the form asked for.
    #[error("cannot write tensor `{tensor}`: {problem}")]
    BadTensor { tensor: String, problem: String },

    /// A tensor that cannot be made of those that there are.
    #[error("cannot make tensor `{tensor}`: {problem}")]
    Recipe {
        tensor: String,
        problem: crate::tensors::RecipeProblem,
    },

    /// A key that cannot be written to a GGUF file.
    #[error("cannot write key `{key}`: {problem}")]
    BadKey { key: String, problem: String },
}

/// What is wrong with one safetensors file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderProblem {
    #[error("{0} bytes long, shorter than the 8-byte header length; download it again")]
    TooShort(u64),
    #[error(
        "the header claims {claimed} bytes, the file has {available} after the length; it is truncated or not safetensors, download it again"
    )]
    HeaderBeyondFile { claimed: u64, available: u64 },
    #[error(
        "the header claims {claimed} bytes, more than the {limit} accepted; it is not safetensors"
    )]
    HeaderTooLarge { claimed: u64, limit: u64 },
    #[error("the header is not UTF-8 JSON of the expected form ({0}); download it again")]
    HeaderNotJson(String),
    #[error("tensor `{0}` is listed twice in the header")]
    DuplicateTensor(String),
    #[error("tensor `{tensor}` has type {dtype}, which is not read here; known: {known}")]
    UnknownDtype {
        tensor: String,
        dtype: String,
        known: String,
    },
    #[error("tensor `{tensor}` has shape {shape}: {reason}")]
    BadShape {
        tensor: String,
        shape: String,
        reason: &'static str,
    },
    #[error("tensor `{tensor}` has data_offsets [{begin}, {end}], which run backwards")]
    OffsetsReversed {
        tensor: String,
        begin: u64,
        end: u64,
    },
    #[error(
        "tensor `{tensor}` ends at byte {end} of the data, but the file holds {available}; it is truncated, download it again"
    )]
    OutOfRange {
        tensor: String,
        end: u64,
        available: u64,
    },
    #[error(
        "tensor `{tensor}` needs {needed} bytes for its type and shape, but its data_offsets span {span}"
    )]
    WrongSize {
        tensor: String,
        needed: u64,
        span: u64,
    },
    #[error("tensors `{first}` and `{second}` overlap at byte {at} of the data")]
    Overlap {
        first: String,
        second: String,
        at: u64,
    },
    #[error("bytes {begin} to {end} of the data belong to no tensor")]
    Hole { begin: u64, end: u64 },
}

/// What is wrong with a `model.safetensors.index.json`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexProblem {
    #[error("it names no tensors; download it again")]
    Empty,
    #[error("it names {found} shards, more than the {limit} accepted")]
    TooManyShards { found: usize, limit: usize },
    #[error(
        "tensor `{tensor}` is said to be in {shard:?}, which is not a plain file name; shards must lie beside the index"
    )]
    UnsafeShardName { tensor: String, shard: String },
    #[error("shard {shard} is missing; download it into the same folder")]
    MissingShard { shard: String },
    #[error(
        "tensor `{tensor}` is said to be in {shard}, which does not hold it; download both again"
    )]
    TensorNotInShard { tensor: String, shard: String },
    #[error("tensor `{tensor}` is in both {first} and {second}; remove the stale shard")]
    DuplicateTensor {
        tensor: String,
        first: String,
        second: String,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_path_buf(),
            source,
        }
    }

    pub(crate) fn json(path: &Path, problem: impl Into<String>) -> Self {
        Self::Json {
            path: path.to_path_buf(),
            problem: problem.into(),
        }
    }

    pub(crate) fn header(path: &Path, problem: HeaderProblem) -> Self {
        Self::Safetensors {
            path: path.to_path_buf(),
            problem,
        }
    }

    pub(crate) fn gguf(path: &Path, problem: crate::gguf::GgufProblem) -> Self {
        Self::Gguf {
            path: path.to_path_buf(),
            problem,
        }
    }

    pub(crate) fn index(path: &Path, problem: IndexProblem) -> Self {
        Self::Index {
            path: path.to_path_buf(),
            problem,
        }
    }
}

/// Shortens what a file claims so that an error stays within a line: at most `max` characters,
/// control characters escaped.
pub(crate) fn excerpt(text: &str, max: usize) -> String {
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == max {
            out.push('…');
            break;
        }
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}
