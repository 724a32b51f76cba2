//! Whether a model's files hold the tensors that its configuration needs.

use formats::{StoredType, TensorStore};
use graph::{Dim, ValueKind};

use crate::error::{ModelError, Result};
use crate::model::Model;
use crate::wiring::{EMBEDDING, LM_HEAD};

/// What a check of the files found besides errors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TensorReport {
    /// Tensors in the files that the model does not use, in name order.
    pub unused: Vec<String>,
}

impl Model {
    /// Checks that every weight of the graph is in `store` with the right shape and stored as real
    /// numbers. Reads no tensor data, except to compare a tied output head that the files repeat.
    ///
    /// Errors name the tensor, the shape that the configuration makes it, and what was found.
    pub fn check_tensors(&self, store: &TensorStore) -> Result<TensorReport> {
        let mut used = std::collections::HashSet::new();
        let mut missing: Option<(&str, Vec<usize>)> = None;
        let mut others = 0;
        for (_, value) in self.graph.weights() {
            let ValueKind::Weight { tensor, .. } = &value.kind else {
                continue;
            };
            let wanted = fixed_dims(value.shape.dims());
            used.extend(store.sources(tensor));
            match store.get(tensor) {
                Some(found) => {
                    self.check_one(tensor, &wanted, &found.info.shape, found.info.stored)?
                }
                None if missing.is_none() => missing = Some((tensor, wanted)),
                None => others += 1,
            }
        }
        if let Some((tensor, wanted)) = missing {
            return Err(ModelError::MissingTensor {
                tensor: tensor.to_string(),
                shape: shape_text(&wanted),
                others,
                hint: self.missing_hint(tensor, store),
            });
        }
        if self.spec.tied_embeddings {
            check_tied(store)?;
        }
        let unused = store.stored().map(|t| &t.info.name);
        Ok(TensorReport {
            unused: unused
                .filter(|name| !used.contains(name.as_str()))
                .cloned()
                .collect(),
        })
    }

    fn check_one(
        &self,
        tensor: &str,
        wanted: &[usize],
        found: &[usize],
        stored: StoredType,
    ) -> Result<()> {
        if found != wanted {
            return Err(ModelError::TensorShape {
                tensor: tensor.to_string(),
                wanted: shape_text(wanted),
                found: shape_text(found),
                hint: match (tensor, found) {
                    (EMBEDDING | LM_HEAD, [rows, _]) if *rows != self.vocab_size => format!(
                        "it has rows for {rows} tokens, `vocab_size` is {}; config.json and weights are of different models",
                        self.vocab_size
                    ),
                    _ => "configuration and weights are of different models, or a download is incomplete"
                        .to_string(),
                },
            });
        }
        if !holds_real_numbers(stored) {
            return Err(ModelError::TensorType {
                tensor: tensor.to_string(),
                found: stored.to_string(),
                hint: "give the model's unquantised weights",
            });
        }
        Ok(())
    }

    fn missing_hint(&self, tensor: &str, store: &TensorStore) -> String {
        let bare = tensor.strip_prefix("model.");
        if tensor == LM_HEAD {
            "the output head is not in the files; set tie_word_embeddings to true if it is the embedding".into()
        } else if bare.is_some_and(|name| store.contains(name)) {
            "its name lacks the `model.` prefix here: these are a bare decoder's weights, save the model again with its output head".into()
        } else {
            format!(
                "check that the download is complete and that the configuration ({}) belongs to it",
                self.architecture
            )
        }
    }
}

/// A file may repeat a tied head; the reference then trusts the file if the two differ.
fn check_tied(store: &TensorStore) -> Result<()> {
    let (Some(head), Some(embedding)) = (store.get(LM_HEAD), store.get(EMBEDDING)) else {
        return Ok(());
    };
    let same = head.info.shape == embedding.info.shape
        && head.info.stored == embedding.info.stored
        && head.bytes() == embedding.bytes();
    match same {
        true => Ok(()),
        false => Err(ModelError::NotTied {
            head: LM_HEAD,
            embedding: EMBEDDING,
        }),
    }
}

/// Types of counts, indices and masks cannot be weights. Which of the others can be computed with
/// is for the kernels to say.
fn holds_real_numbers(stored: StoredType) -> bool {
    use StoredType::*;
    !matches!(stored, Bool | I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64)
}

/// The graph's weights have fixed dimensions only.
pub(crate) fn fixed_dims(dims: &[Dim]) -> Vec<usize> {
    let fixed = |d: &Dim| match d {
        Dim::Fixed(n) => Some(*n),
        _ => None,
    };
    dims.iter().filter_map(fixed).collect()
}

fn shape_text(shape: &[usize]) -> String {
    format!("{shape:?}")
}
