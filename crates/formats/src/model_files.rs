//! A model's files in either form: a Hugging Face folder or a GGUF file.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::ConfigView;
use crate::error::{Error, Result};
use crate::gguf::{GgufFile, Metadata};
use crate::hf::{GenerationDefaults, HfDir, is_gguf, resolve_model_dir};
use crate::hub::{self, HubName};
use crate::tensors::TensorStore;
use crate::tokenizer::Tokenizer;

/// What says how a model is built.
#[derive(Debug, Clone)]
pub enum Description {
    /// config.json and where it lies.
    Config { value: Value, path: PathBuf },
    /// The keys of a GGUF file.
    Metadata(Metadata),
}

/// An opened model: weights mapped, nothing of them read.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    /// The folder, or the (first) GGUF file.
    pub path: PathBuf,
    pub description: Description,
    pub generation: GenerationDefaults,
    pub tensors: TensorStore,
}

impl ModelFiles {
    /// Opens a model: a folder in Hugging Face's form (or a file in it), or a file whose name ends
    /// in `.gguf`; of one in parts, any part will do. What is no such path may be a [`HubName`],
    /// which is looked for in [`hub::caches`].
    ///
    /// Errors: those of [`HfDir::open`], [`GgufFile::open`] and [`hub::find`].
    pub fn open(path: &Path) -> Result<Self> {
        located(path, Self::open_path)
    }

    fn open_path(path: &Path) -> Result<Self> {
        if is_gguf_file(path) {
            let file = GgufFile::open(path)?;
            let generation = file.generation()?;
            return Ok(Self {
                path: file.path,
                description: Description::Metadata(file.metadata),
                generation,
                tensors: file.tensors,
            });
        }
        let dir = HfDir::open(path)?;
        let file = dir.view()?.file().to_path_buf();
        Ok(Self {
            path: dir.path,
            description: Description::Config {
                value: dir.config,
                path: file,
            },
            generation: dir.generation,
            tensors: dir.tensors,
        })
    }

    /// Checked access to config.json; `None` for a GGUF file.
    pub fn config(&self) -> Result<Option<ConfigView<'_>>> {
        match &self.description {
            Description::Config { value, path } => ConfigView::new(value, path).map(Some),
            Description::Metadata(_) => Ok(None),
        }
    }

    /// The tokenizer, or `None` where the model comes without one.
    ///
    /// Errors: one that is damaged or of a kind that is not read.
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>> {
        match &self.description {
            Description::Metadata(metadata) => Tokenizer::from_gguf(metadata),
            Description::Config { .. } if self.path.join("tokenizer.json").exists() => {
                Tokenizer::from_dir(&self.path).map(Some)
            }
            Description::Config { .. } => Ok(None),
        }
    }

    /// The tokenizer. Errors: as [`tokenizer`](Self::tokenizer), and a model without one.
    pub fn require_tokenizer(&self) -> Result<Tokenizer> {
        match &self.description {
            Description::Metadata(metadata) => required(metadata),
            Description::Config { .. } => Tokenizer::from_dir(&self.path),
        }
    }
}

/// The tokenizer of a model, given as for [`ModelFiles::open`]; nothing else of it is checked.
pub fn open_tokenizer(path: &Path) -> Result<Tokenizer> {
    located(path, |path| match is_gguf_file(path) {
        true => required(&GgufFile::open(path)?.metadata),
        false => Tokenizer::from_dir(&resolve_model_dir(path)?),
    })
}

/// Opens a path, or what a name of the Hub stands for where there is no such path.
fn located<T>(path: &Path, open: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let name = match path.exists() {
        true => None,
        false => path.to_str().and_then(HubName::parse),
    };
    let Some(name) = name else {
        return open(path);
    };
    let found = hub::find(&name, &hub::caches())?;
    open(&found).map_err(|error| hub::explain(&name, error))
}

/// A path that does not exist is left to the reader of folders, which says what is missing.
fn is_gguf_file(path: &Path) -> bool {
    is_gguf(path) && path.is_file()
}

fn required(metadata: &Metadata) -> Result<Tokenizer> {
    Tokenizer::from_gguf(metadata)?.ok_or_else(|| Error::Missing {
        wanted: "tokenizer",
        path: metadata.path().to_path_buf(),
        hint: "this GGUF file has none; give token ids, or a file with a tokenizer".into(),
    })
}
