//! Which families there are: each registers itself beside its reader.

use formats::{ConfigView, StoredType};

use crate::error::{ModelError, Result, clip};
use crate::guard;
use crate::paro::Paro;
use crate::sources::{PLAIN, Sources};
use crate::spec::ModelSpec;

/// One model family, registered with `inventory::submit!` in the file that reads it.
#[derive(Debug)]
pub struct Family {
    /// The `model_type` of its configurations; also the family's name.
    pub model_type: &'static str,
    /// The values of `architectures[0]` that it reads.
    pub architectures: &'static [&'static str],
    /// Configuration to specification.
    pub read: fn(&ConfigView<'_>) -> Result<ModelSpec>,
    /// How its files hold what the graph names.
    pub sources: Sources,
    /// Fields that few families compute with, and this one does; others refuse them.
    pub computes: &'static [&'static str],
    /// Stored types whose scheme's name is a `quantization_config.quant_method` that it reads.
    pub quantised: &'static [StoredType],
    /// Set where its configurations describe models of several modalities, of which the text is
    /// read.
    pub text: Option<TextOf>,
    /// Source file, for the error about two families that claim one architecture.
    pub source: &'static str,
}

/// The part of a configuration that describes the text model.
#[derive(Clone, Copy, Debug)]
pub struct TextOf {
    /// The object that holds it.
    pub field: &'static str,
    /// Its own `model_type`.
    pub model_type: &'static str,
    /// What `tie_word_embeddings` beside it means when absent; that one counts.
    pub tied_embeddings: bool,
    /// What is not read, in words.
    pub left_out: &'static str,
}

impl Family {
    /// A family whose files hold tensors as the graph wants them, or as any family may.
    pub const fn new(
        model_type: &'static str,
        architectures: &'static [&'static str],
        read: fn(&ConfigView<'_>) -> Result<ModelSpec>,
        source: &'static str,
    ) -> Self {
        Family {
            model_type,
            architectures,
            read,
            sources: PLAIN,
            computes: &[],
            quantised: &[],
            text: None,
            source,
        }
    }

    /// The specification that a configuration of this family describes.
    pub(crate) fn spec(&self, config: &ConfigView<'_>) -> Result<ModelSpec> {
        guard::refuse_common(config, self.computes, self.quantised)?;
        let Some(text) = self.text else {
            let mut spec = (self.read)(config)?;
            spec.paro = Paro::read(config)?;
            return Ok(spec);
        };
        let inner = config.object(text.field)?;
        if let Some(found) = inner.opt_str("model_type")?
            && found != text.model_type
        {
            return Err(inner.invalid("model_type", text.model_type).into());
        }
        guard::refuse_common(&inner, self.computes, self.quantised)?;
        let mut spec = (self.read)(&inner)?;
        spec.paro = match Paro::read(config)? {
            None => Paro::read(&inner)?,
            outer => outer,
        };
        let tied = config.opt_bool("tie_word_embeddings")?;
        spec.tied_embeddings = tied.unwrap_or(text.tied_embeddings);
        Ok(spec)
    }
}

inventory::collect!(Family);

/// Every registered family, by `model_type`.
pub fn families() -> Vec<&'static Family> {
    let mut all: Vec<_> = inventory::iter::<Family>().collect();
    all.sort_by_key(|f| f.model_type);
    all
}

/// The family of a configuration and the architecture it was found by.
pub(crate) fn find(
    config: &ConfigView<'_>,
    all: &[&'static Family],
) -> Result<(&'static Family, String)> {
    let model_type = config.opt_str("model_type")?;
    let architecture = config
        .opt_strs("architectures")?
        .and_then(|names| names.first().copied());
    let Some(found) = architecture.or(model_type) else {
        return Err(ModelError::NoArchitecture {
            path: config.file().to_path_buf(),
            known: known(all),
        });
    };
    let claims = |f: &&Family| match architecture {
        Some(name) => f.architectures.contains(&name),
        None => f.model_type == found,
    };
    let mut claimants = all.iter().copied().filter(claims);
    let Some(family) = claimants.next() else {
        return Err(ModelError::UnknownArchitecture {
            path: config.file().to_path_buf(),
            found: clip(found),
            known: known(all),
            hint: if config.has("auto_map") {
                "; this model brings its own Python code, which is never run here"
            } else {
                ""
            },
        });
    };
    if let Some(other) = claimants.next() {
        return Err(ModelError::DuplicateFamily {
            architecture: found.into(),
            first: family.source,
            second: other.source,
        });
    }
    if let Some(model_type) = model_type
        && model_type != family.model_type
    {
        return Err(ModelError::ModelTypeMismatch {
            path: config.file().to_path_buf(),
            architecture: found.into(),
            model_type: clip(model_type),
            wanted: family.model_type,
        });
    }
    let name = match architecture {
        Some(name) => name,
        None => family.architectures.first().copied().unwrap_or(found),
    };
    Ok((family, name.to_string()))
}

fn known(all: &[&'static Family]) -> String {
    let mut names: Vec<_> = all.iter().flat_map(|f| f.architectures).copied().collect();
    names.sort_unstable();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;

    #[test]
    fn no_two_families_claim_the_same_name() {
        let all = families();
        assert_eq!(all.len(), 22);
        let mut names: Vec<_> = all.iter().flat_map(|f| f.architectures).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        let mut types: Vec<_> = all.iter().map(|f| f.model_type).collect();
        types.dedup();
        assert_eq!(types.len(), all.len());
    }

    #[test]
    fn a_duplicate_is_an_error_that_names_both_files() {
        let first = families()[0];
        let second: &'static Family = Box::leak(Box::new(Family::new(
            "other",
            first.architectures,
            first.read,
            "other.rs",
        )));
        let config = json!({ "architectures": [first.architectures[0]] });
        let view = ConfigView::new(&config, Path::new("config.json")).unwrap();
        let error = find(&view, &[first, second]).unwrap_err().to_string();
        assert!(
            error.contains(first.source) && error.contains("other.rs"),
            "{error}"
        );
    }
}
