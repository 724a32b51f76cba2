//! From the tensors that a graph names to those that a GGUF file holds.
//!
//! Most lie there under the name that the graph has for them. Rows of q and k may be paired,
//! experts and convolutions have more dimensions than the graph wants, and several projections may
//! be one: what Hugging Face fuses in the same way is made by the same recipes, from the GGUF names
//! of its tensors.

use std::collections::HashSet;
use std::ops::Range;

use formats::{MetadataView, Recipe, RowPattern, TensorStore};
use graph::ValueKind;

use super::GgufArchitecture;
use super::names::tensor_name;
use super::rope::{DIVISORS, LONG, SHORT};
use crate::error::{ModelError, Result, clip};
use crate::model::Model;
use crate::sources::{self, Weight};
use crate::spec::{Ffn, Mixer, ModelSpec};

/// Frequencies of the rotation that old files repeat in every layer.
const ROPE_COPIES: &str = ".attn_rot_embd.weight";
/// Tensors outside the layers that the logits do not depend on: divisors of frequencies, which are
/// read with the keys, and what serves embeddings, classes, images and sound.
const BESIDE: &[&str] = &[DIVISORS, SHORT, LONG];
const BESIDE_PREFIXES: &[&str] = &["cls", "dense_2.", "dense_3.", "mm.", "v.", "a."];
/// What some files call the last norm.
const OTHER_FINAL_NORM: &str = "token_embd_norm.weight";

/// One weight of the graph.
struct Wanted<'m> {
    /// Its name in a Hugging Face folder.
    hugging_face: String,
    /// Its name in the graph.
    name: &'m str,
    shape: Vec<usize>,
}

/// Makes the tensors that the graph names and that `store` holds in another form, and checks that
/// all are there.
///
/// Errors: tensors that are missing or do not fit.
pub(super) fn define(
    model: &Model,
    architecture: &GgufArchitecture,
    store: &mut TensorStore,
) -> Result<()> {
    let mut made = Vec::new();
    for wanted in wanted(model)? {
        let recipes = recipes(&model.spec, architecture, &wanted, store);
        if !recipes.is_empty() {
            made.push((wanted.name, store.contains(wanted.name), recipes));
        }
    }
    // What takes the place of a stored tensor comes last: others may be made of that one, too.
    made.sort_by_key(|(_, replaces, _)| *replaces);
    for (name, _, recipes) in made {
        sources::define(store, name, &recipes)?;
    }
    model.check_tensors(store)?;
    Ok(())
}

/// The weights of the graph. Its names do not say what each is; those of a Hugging Face folder do.
fn wanted(model: &Model) -> Result<Vec<Wanted<'_>>> {
    let other = model.spec.graph(model.family, 1);
    let other = other.map_err(|source| ModelError::Inconsistent {
        path: Default::default(),
        problem: source.to_string(),
    })?;
    let name = |kind: &ValueKind| match kind {
        ValueKind::Weight { tensor, .. } => Some(tensor.clone()),
        _ => None,
    };
    let named = model
        .graph
        .weights()
        .filter_map(|(_, value)| match &value.kind {
            ValueKind::Weight { tensor, .. } => Some((
                tensor.as_str(),
                crate::tensors::fixed_dims(value.shape.dims()),
            )),
            _ => None,
        });
    let names = other.weights().filter_map(|(_, value)| name(&value.kind));
    let both = names.zip(named);
    Ok(both
        .map(|(hugging_face, (name, shape))| Wanted {
            hugging_face,
            name,
            shape,
        })
        .collect())
}

/// The ways in which the file may hold a weight, best first; none where it has it as it is.
fn recipes(
    spec: &ModelSpec,
    architecture: &GgufArchitecture,
    wanted: &Wanted<'_>,
    store: &TensorStore,
) -> Vec<Recipe> {
    let weight = Weight::in_gguf(&wanted.hugging_face);
    let stored = store.get(wanted.name).map(|t| t.info.shape.as_slice());
    let mut recipes = match stored {
        Some(shape) if shape == wanted.shape => vec![Recipe::tensor(wanted.name)],
        Some(shape) if flattens(shape, &wanted.shape) => {
            vec![Recipe::tensor(wanted.name).reshape(&wanted.shape)]
        }
        // Gate and up in one have the name of the latter.
        Some(_) if weight.part != "mlp.up_proj.weight" => return Vec::new(),
        _ => elsewhere(spec, &weight, store),
    };
    if let (true, Some(head_dim)) = (architecture.qk_interleaved, query_or_key(spec, &weight)) {
        let unpair = |r: Recipe| r.rows(RowPattern::halves(head_dim));
        recipes = recipes.into_iter().map(unpair).collect();
    }
    let as_it_is = matches!(recipes.as_slice(), [Recipe::Tensor(name)] if name == wanted.name);
    match as_it_is {
        true => Vec::new(),
        false => recipes,
    }
}

/// Whether elements of `shape` are those of `wanted`, in the same order and in rows of the same
/// length; a vector may come from any shape.
fn flattens(shape: &[usize], wanted: &[usize]) -> bool {
    let count = |dims: &[usize]| dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    let rows = wanted.len() < 2 || shape.last() == wanted.last() || shape.len() < 2;
    rows && count(shape).is_some_and(|n| count(wanted) == Some(n))
}

/// The head size, where `weight` projects to queries or keys.
fn query_or_key(spec: &ModelSpec, weight: &Weight<'_>) -> Option<usize> {
    let (name, _) = weight.within("self_attn.")?;
    match &spec.layers.get(weight.layer?)?.mixer {
        Mixer::Attention(a) if matches!(name, "q_proj" | "k_proj") => Some(a.head_dim),
        _ => None,
    }
}

/// The ways in which other tensors may hold a weight.
fn elsewhere(spec: &ModelSpec, weight: &Weight<'_>, store: &TensorStore) -> Vec<Recipe> {
    let Some(layer) = weight.layer.and_then(|i| spec.layers.get(i)) else {
        return match weight.part {
            "norm.weight" => vec![Recipe::tensor(OTHER_FINAL_NORM)],
            _ => Vec::new(),
        };
    };
    let mut recipes = match &layer.mixer {
        Mixer::Attention(a) => sources::fused_qkv(spec.hidden_size, a, weight),
        Mixer::Latent(l) if weight.part == "self_attn.kv_b_proj.key.weight" => {
            // Blocks cannot be transposed.
            let whole = tensor_name(&weight.stored_name("self_attn.kv_b_proj.weight"));
            let blocks = |t: formats::TensorRef<'_>| t.info.stored.block_elements() > 1;
            match store.get(&whole).is_some_and(blocks) {
                true => vec![sources::latent_key(l, Recipe::tensor(whole).floats())],
                false => Vec::new(),
            }
        }
        _ => Vec::new(),
    };
    if let Ffn::Dense(d) = &layer.ffn {
        recipes.extend(sources::fused_gate_up(
            spec.hidden_size,
            d.intermediate,
            weight,
        ));
    }
    recipes.extend(sources::common(spec, weight));
    recipes
}

/// Errors: a tensor that the graph does not read belongs to a variant whose logits differ, but in
/// `further` layers.
pub(super) fn refuse_unknown(
    metadata: &MetadataView<'_>,
    model: &Model,
    further: Range<usize>,
    store: &TensorStore,
) -> Result<()> {
    let mut used = HashSet::new();
    for (_, value) in model.graph.weights() {
        if let ValueKind::Weight { tensor, .. } = &value.kind {
            used.extend(store.sources(tensor));
        }
    }
    let harmless = |name: &str| {
        let layer = name.strip_prefix("blk.").and_then(|n| n.split_once('.'));
        match layer.and_then(|(layer, _)| layer.parse::<usize>().ok()) {
            Some(layer) => further.contains(&layer) || name.ends_with(ROPE_COPIES),
            None => BESIDE.contains(&name) || BESIDE_PREFIXES.iter().any(|p| name.starts_with(p)),
        }
    };
    let names = store.stored().map(|t| t.info.name.as_str());
    let mut strangers = names.filter(|name| !used.contains(name) && !harmless(name));
    match strangers.next() {
        None => Ok(()),
        Some(name) => Err(ModelError::Unsupported {
            path: metadata.file().to_path_buf(),
            field: clip(name),
            found: "a tensor of the file".to_string(),
            reason: format!(
                "`{}` with `block_count` {} has no such tensor; the file is of a variant that is not computed here",
                model.architecture, model.layers
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_flatten_only_where_the_order_of_elements_stays() {
        for (shape, wanted, fits) in [
            (&[3, 4, 5][..], &[12, 5][..], true),
            (&[3, 4], &[12], true),
            (&[5], &[1, 5], true),
            (&[4, 3], &[3, 4], false),
            (&[3, 4, 5], &[3, 20], false),
            (&[3, 4, 5], &[12, 4], false),
            (&[usize::MAX, 2], &[usize::MAX, 2], false),
        ] {
            assert_eq!(flattens(shape, wanted), fits, "{shape:?} {wanted:?}");
        }
    }
}
