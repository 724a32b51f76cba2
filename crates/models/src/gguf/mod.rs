//! GGUF: metadata and tensors to the specification of a model.
//!
//! An architecture is a [`GgufArchitecture`] that registers itself beside the family that it
//! belongs to. What they spell alike is here: `file` and `rope` read the keys, `experts` and
//! `mixers` those of particular layers, `guard` says which keys are refused, `names` and `tensors`
//! lead from the tensors that a graph names to those that the file holds. Which biases there are,
//! which layers have experts, and whether the output head is the embedding, a GGUF file says only
//! by the tensors that it holds.

mod experts;
mod file;
mod guard;
mod mixers;
mod names;
mod rope;
mod tensors;

use formats::{MetadataView, TensorStore};

use crate::error::{ModelError, Result, clip};
use crate::model::{Model, build};
use crate::spec::{ModelSpec, Norms};

pub(crate) use experts::Experts;
pub(crate) use file::GgufFile;
pub(crate) use names::tensor_name;

/// One architecture of GGUF files, registered with `inventory::submit!` in its family's file.
#[derive(Debug)]
pub struct GgufArchitecture {
    /// The value of `general.architecture`; also the prefix of its keys.
    pub name: &'static str,
    /// Whether the rows of q and k lie in pairs, see [`formats::RowPattern::halves`].
    pub qk_interleaved: bool,
    /// Keys that few architectures compute with, and this one does; others refuse them.
    pub computes: &'static [&'static str],
    /// Metadata to specification.
    pub(crate) read: fn(&GgufFile<'_>) -> Result<ModelSpec>,
    /// Source file.
    pub source: &'static str,
}

impl GgufArchitecture {
    /// One whose files hold q and k as Hugging Face does.
    pub(crate) const fn new(
        name: &'static str,
        read: fn(&GgufFile<'_>) -> Result<ModelSpec>,
        source: &'static str,
    ) -> Self {
        GgufArchitecture {
            name,
            qk_interleaved: false,
            computes: &[],
            read,
            source,
        }
    }
}

inventory::collect!(GgufArchitecture);

/// Every registered architecture, by name.
pub fn gguf_architectures() -> Vec<&'static GgufArchitecture> {
    let mut all: Vec<_> = inventory::iter::<GgufArchitecture>().collect();
    all.sort_by_key(|a| a.name);
    all
}

/// Norms before each part, as most architectures call them.
const PRE: Norms = Norms {
    before_mixer: Some("attn_norm"),
    after_mixer: None,
    before_ffn: Some("ffn_norm"),
    after_ffn: None,
};

/// The same under the names of architectures whose second norm is said to follow attention.
pub(crate) const PRE_POST_NAMED: Norms = Norms {
    before_ffn: Some("post_attention_norm"),
    ..PRE
};

/// Norms after each part.
pub(crate) const POST: Norms = Norms {
    before_mixer: None,
    after_mixer: Some("post_attention_norm"),
    before_ffn: None,
    after_ffn: Some("post_ffw_norm"),
};

/// Norms before and after each part.
pub(crate) const SANDWICH: Norms = Norms {
    before_mixer: PRE.before_mixer,
    before_ffn: PRE.before_ffn,
    ..POST
};

/// Reads a model's metadata, and makes the tensors that the file holds in another form than the
/// graph wants.
///
/// Errors: an architecture that is not known; a key that is missing or out of range; a feature
/// that is not computed here; tensors that are missing, do not fit, or that the architecture does
/// not have.
pub(crate) fn load(metadata: &MetadataView<'_>, tensors: &mut TensorStore) -> Result<Model> {
    let found = metadata.str("general.architecture")?;
    let all = gguf_architectures();
    let Some(architecture) = all.iter().find(|a| a.name == found) else {
        let names: Vec<_> = all.iter().map(|a| a.name).collect();
        return Err(ModelError::UnknownArchitecture {
            path: metadata.file().to_path_buf(),
            found: clip(found),
            known: names.join(", "),
            hint: "",
        });
    };
    let file = GgufFile::new(metadata, architecture, tensors)?;
    let spec = (architecture.read)(&file)?;
    let layers = file.layers..file.layers + file.further;
    let model = build(
        metadata.file(),
        architecture.name,
        architecture.name.to_string(),
        spec,
        tensor_name,
    )?;
    tensors::define(&model, architecture, tensors)?;
    tensors::refuse_unknown(metadata, &model, layers, tensors)?;
    Ok(model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_architectures_have_one_name() {
        let names: Vec<_> = gguf_architectures().iter().map(|a| a.name).collect();
        let mut distinct = names.clone();
        distinct.dedup();
        assert_eq!(names, distinct);
    }
}
