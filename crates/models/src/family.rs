//! Which families there are: each registers itself beside its reader.

use formats::ConfigView;

use crate::decoder::ModelSpec;
use crate::error::{ModelError, Result, clip};

/// One model family, registered with `inventory::submit!` in the file that reads it.
#[derive(Debug)]
pub struct Family {
    /// The `model_type` of its configurations; also the family's name.
    pub model_type: &'static str,
    /// The values of `architectures[0]` that it reads.
    pub architectures: &'static [&'static str],
    /// Configuration to specification.
    pub read: fn(&ConfigView<'_>) -> Result<ModelSpec>,
    /// Source file, for the error about two families that claim one architecture.
    pub source: &'static str,
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
        assert_eq!(all.len(), 4);
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
        let second: &'static Family = Box::leak(Box::new(Family {
            model_type: "other",
            architectures: first.architectures,
            read: first.read,
            source: "other.rs",
        }));
        let config = json!({ "architectures": [first.architectures[0]] });
        let view = ConfigView::new(&config, Path::new("config.json")).unwrap();
        let error = find(&view, &[first, second]).unwrap_err().to_string();
        assert!(
            error.contains(first.source) && error.contains("other.rs"),
            "{error}"
        );
    }
}
