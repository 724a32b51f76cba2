//! ParoQuant checkpoints: projections in four bits, whose inputs are scaled and rotated first.
//!
//! Any family may be stored so. The configuration says how (`quantization_config`), the tensors
//! say which projections: those that have a `qweight`. Their weights become `w4_paro` matrices,
//! and the graph gets a [`graph::Op::Rotate`] before them. Experts of a layer share one rotation
//! for gate and up and one for down.

use std::collections::BTreeMap;

use formats::{ConfigView, Recipe, TensorStore};

use crate::error::{ModelError, Result};

/// The value of `quantization_config.quant_method`.
pub(crate) const METHOD: &str = "paroquant";
/// Inputs of a group: of a scale, a zero point and a rotation.
const GROUP: usize = 128;
/// Most rounds of rotations.
const MAX_ROUNDS: usize = 64;

/// What ends the names of a rotation's tensors in the graph; the stored ones have other shapes.
const FLAT: &str = ".flat";
const PARTS: [&str; 3] = ["theta", "pairs", "channel_scales"];

/// How a checkpoint is stored, and which weights of the graph it rotates for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paro {
    /// Rounds of disjoint rotations.
    pub rounds: usize,
    /// Inputs that are rotated among each other.
    pub group: usize,
    /// From a weight of the graph to what the names of its rotation's tensors start with.
    pub rotations: BTreeMap<String, String>,
}

impl Paro {
    /// Reads `quantization_config`; `None` where it names another method or is absent.
    pub(crate) fn read(config: &ConfigView<'_>) -> Result<Option<Paro>> {
        const FIELD: &str = "quantization_config";
        let quant = config.get(FIELD).and_then(|v| v.get("quant_method"));
        if quant.and_then(|method| method.as_str()) != Some(METHOD) {
            return Ok(None);
        }
        let quant = config.object(FIELD)?;
        for (field, wanted) in [("bits", 4), ("group_size", GROUP)] {
            if let Some(found) = quant.opt_usize(field)?
                && found != wanted
            {
                return Err(quant.invalid(field, &wanted.to_string()).into());
            }
        }
        let rounds = quant.opt_usize_in("krot", 1..=MAX_ROUNDS)?;
        Ok(Some(Paro {
            rounds: rounds.unwrap_or(8),
            group: GROUP,
            rotations: BTreeMap::new(),
        }))
    }

    /// The names of a rotation's theta, pairs and scales in the graph.
    pub(crate) fn tensors(rotation: &str) -> [String; 3] {
        PARTS.map(|part| format!("{rotation}{part}{FLAT}"))
    }

    /// Makes the tensors of a rotation of `width` inputs flat, and checks its pairs.
    pub(crate) fn define(
        &self,
        store: &mut TensorStore,
        rotation: &str,
        width: usize,
    ) -> Result<()> {
        let lengths = [self.rounds * width / 2, self.rounds * width, width];
        for ((part, name), len) in PARTS.iter().zip(Self::tensors(rotation)).zip(lengths) {
            if store.contains(&name) {
                continue;
            }
            let stored = Recipe::tensor(format!("{rotation}{part}"));
            store.define(&name, &stored.reshape(&[len]).floats())?;
            if *part == "pairs" {
                self.check_pairs(store, &name)?;
            }
        }
        Ok(())
    }

    /// Kernels index with pairs: those outside of their group are refused here.
    fn check_pairs(&self, store: &TensorStore, name: &str) -> Result<()> {
        let pairs = store.get(name).and_then(|t| t.to_f32()).unwrap_or_default();
        let group = self.group as f32;
        match pairs.iter().find(|p| !(0.0..group).contains(*p)) {
            None => Ok(()),
            Some(bad) => Err(ModelError::TensorType {
                tensor: name.trim_end_matches(FLAT).to_string(),
                found: format!("the index {bad}"),
                hint: "pairs are positions in a group of 128; download the file again",
            }),
        }
    }
}

/// The stored projection behind a weight that is called `name`, if it is packed.
fn packed<'n>(store: &TensorStore, name: &'n str) -> Option<&'n str> {
    let prefix = name.strip_suffix(".weight")?;
    let there = !store.contains(name) && store.contains(&format!("{prefix}.qweight"));
    there.then_some(prefix)
}

/// What the names of the rotation's tensors of a stored projection start with.
fn rotation_of(projection: &str) -> String {
    const EXPERTS: &str = ".experts.";
    let shared = || {
        let (layer, expert) = projection.split_once(EXPERTS)?;
        let (_, name) = expert.split_once('.')?;
        let name = match name {
            "gate_proj" | "up_proj" => "gate_up",
            "down_proj" => "down",
            _ => return None,
        };
        Some(format!("{layer}{EXPERTS}{name}_weight_"))
    };
    shared().unwrap_or_else(|| format!("{projection}."))
}

/// `recipe` with the packed projections of `store` in place of the weights that it names; beside
/// it, the rotation of the first.
pub(crate) fn unpacked(store: &TensorStore, recipe: Recipe) -> (Recipe, Option<String>) {
    let mut rotation = None;
    let recipe = replace(store, recipe, &mut rotation);
    (recipe, rotation)
}

fn replace(store: &TensorStore, recipe: Recipe, rotation: &mut Option<String>) -> Recipe {
    let mut inner = |r: Box<Recipe>| Box::new(replace(store, *r, rotation));
    match recipe {
        Recipe::Tensor(name) => match packed(store, &name) {
            None => Recipe::Tensor(name),
            Some(projection) => {
                rotation.get_or_insert_with(|| rotation_of(projection));
                Recipe::paro(projection)
            }
        },
        Recipe::Rows(of, pattern) => Recipe::Rows(inner(of), pattern),
        Recipe::Reshape(of, shape) => Recipe::Reshape(inner(of), shape),
        Recipe::Transpose(of) => Recipe::Transpose(inner(of)),
        Recipe::Floats(of) => Recipe::Floats(inner(of)),
        Recipe::Stack(all) => {
            let all = all.into_iter().map(|r| replace(store, r, rotation));
            Recipe::Stack(all.collect())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_share_their_rotations() {
        for (projection, rotation) in [
            (
                "model.layers.3.mlp.down_proj",
                "model.layers.3.mlp.down_proj.",
            ),
            (
                "model.layers.0.mlp.experts.7.up_proj",
                "model.layers.0.mlp.experts.gate_up_weight_",
            ),
            (
                "model.layers.0.mlp.experts.7.down_proj",
                "model.layers.0.mlp.experts.down_weight_",
            ),
        ] {
            assert_eq!(rotation_of(projection), rotation);
        }
    }
}
