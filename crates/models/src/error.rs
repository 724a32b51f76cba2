//! The crate's one error type. Every message says what was wanted, what was found, what to do.

use std::path::{Path, PathBuf};

use formats::ConfigView;

/// Result of this crate's functions.
pub type Result<T, E = ModelError> = std::result::Result<T, E>;

/// Why a configuration, or the tensors beside it, cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A field of the configuration is missing, has the wrong type or is out of range.
    #[error(transparent)]
    Config(#[from] formats::Error),

    /// The configuration does not say which architecture it is.
    #[error(
        "{}: neither `architectures` nor `model_type` says what the model is; known architectures: {known}",
        path.display()
    )]
    NoArchitecture { path: PathBuf, known: String },

    /// No family claims the architecture.
    #[error("{}: architecture `{found}` is not known; known: {known}{hint}", path.display())]
    UnknownArchitecture {
        path: PathBuf,
        found: String,
        known: String,
        hint: &'static str,
    },

    /// `architectures` and `model_type` belong to different families.
    #[error(
        "{}: `architectures` says `{architecture}` but `model_type` says `{model_type}` (wanted `{wanted}`); correct the one that is wrong",
        path.display()
    )]
    ModelTypeMismatch {
        path: PathBuf,
        architecture: String,
        model_type: String,
        wanted: &'static str,
    },

    /// Two families registered the same architecture.
    #[error("architecture `{architecture}` is registered by both {first} and {second}; remove one")]
    DuplicateFamily {
        architecture: String,
        first: &'static str,
        second: &'static str,
    },

    /// A field asks for something that is not computed here and would change the logits.
    #[error("{}: `{field}` is {found}, which is not supported: {reason}", path.display())]
    Unsupported {
        path: PathBuf,
        field: String,
        found: String,
        reason: String,
    },

    /// Fields that are valid alone but not together.
    #[error("{}: {problem}", path.display())]
    Inconsistent { path: PathBuf, problem: String },

    /// The sizes multiply to more weights than any model has.
    #[error(
        "{}: its sizes make {parameters} parameters, more than the {limit} accepted; check the sizes",
        path.display()
    )]
    TooLarge {
        path: PathBuf,
        parameters: u128,
        limit: u64,
    },

    /// The graph could not be built: the sizes do not fit each other.
    #[error("{}: the sizes do not make a model: {source}", path.display())]
    Graph {
        path: PathBuf,
        source: graph::GraphError,
    },

    /// Weights that the configuration needs are not in the files.
    #[error(
        "tensor `{tensor}` {shape} is missing from the weights{}; {hint}",
        if *others > 0 { format!(" ({others} more are)") } else { String::new() }
    )]
    MissingTensor {
        tensor: String,
        shape: String,
        others: usize,
        hint: String,
    },

    /// A weight has another shape than the configuration says.
    #[error("tensor `{tensor}` has shape {found}, the configuration makes it {wanted}; {hint}")]
    TensorShape {
        tensor: String,
        wanted: String,
        found: String,
        hint: String,
    },

    /// A weight is not stored as real numbers.
    #[error(
        "tensor `{tensor}` is stored as {found}, wanted a floating-point or block-quantised type; {hint}"
    )]
    TensorType {
        tensor: String,
        found: String,
        hint: &'static str,
    },

    /// The configuration ties the output head to the embedding and the files hold both, different.
    #[error(
        "config.json has tie_word_embeddings = true, but `{head}` and `{embedding}` are both in the weights and differ; set tie_word_embeddings to false if the model has its own output head"
    )]
    NotTied {
        head: &'static str,
        embedding: &'static str,
    },
}

impl ModelError {
    pub(crate) fn unsupported(
        config: &ConfigView<'_>,
        field: impl Into<String>,
        found: impl AsRef<str>,
        reason: impl Into<String>,
    ) -> Self {
        Self::Unsupported {
            path: config.file().to_path_buf(),
            field: field.into(),
            found: clip(found.as_ref()),
            reason: reason.into(),
        }
    }

    pub(crate) fn inconsistent(path: &Path, problem: impl Into<String>) -> Self {
        Self::Inconsistent {
            path: path.to_path_buf(),
            problem: problem.into(),
        }
    }
}

/// Shortens what a file claims so that an error stays within a line.
pub(crate) fn clip(text: &str) -> String {
    const MAX: usize = 60;
    let mut out: String = text
        .chars()
        .take(MAX)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(MAX).is_some() {
        out.push('…');
    }
    out
}
