//! From the tensors that a graph names to those that files hold.
//!
//! A graph wants plain matrices and vectors under one set of names. Checkpoints fuse projections,
//! keep experts apart or stacked, transposed or not, and some call things otherwise. What a family
//! has in another form than the graph wants it is made by recipes; nothing is copied.

use formats::{Error as FormatError, Recipe, RecipeProblem, RowPattern, TensorStore};
use graph::ValueKind;

use crate::error::Result;
use crate::gguf::tensor_name;
use crate::model::Model;
use crate::paro::unpacked;
use crate::spec::{Attention, DeltaNet, Ffn, Latent, Mixer, ModelSpec, Moe};
use crate::wiring::{EMBEDDING, LAYERS, LM_HEAD};

/// The ways in which files may hold a weight, best first; none where it has its own name.
pub type Sources = fn(&ModelSpec, &Weight<'_>) -> Vec<Recipe>;

/// For families whose files hold nothing but what every family may: see [`common`].
pub(crate) const PLAIN: Sources = |_, _| Vec::new();

/// What a bare decoder's names start with.
const MODEL: &str = "model.";
/// What they start with in the files of a model of several modalities.
const TEXT_PREFIXES: &[&str] = &["model.language_model.", "language_model.model."];
const TEXT_HEAD: &str = "language_model.lm_head.weight";

/// A weight that a graph names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weight<'a> {
    /// Number of its layer; `None` for the weights outside the layers.
    pub layer: Option<usize>,
    /// Its name within the layer, or within the model.
    pub part: &'a str,
    /// What the files put before such names.
    base: String,
    /// The files are GGUF and have names of their own.
    gguf: bool,
}

impl<'a> Weight<'a> {
    /// `prefix` is what the files write for `model.`.
    fn parse(name: &'a str, prefix: &str) -> Self {
        let layer = || {
            let (layer, part) = name.strip_prefix(LAYERS)?.split_once('.')?;
            Some((layer.parse().ok()?, part))
        };
        match (layer(), name.strip_prefix(MODEL)) {
            (Some((layer, part)), _) => Weight {
                layer: Some(layer),
                part,
                base: format!("{prefix}layers.{layer}."),
                gguf: false,
            },
            (None, Some(part)) => Weight {
                layer: None,
                part,
                base: prefix.to_string(),
                gguf: false,
            },
            (None, None) => Weight {
                layer: None,
                part: name,
                base: String::new(),
                gguf: false,
            },
        }
    }

    /// A weight of a GGUF file, called as in a Hugging Face folder.
    pub(crate) fn in_gguf(name: &'a str) -> Self {
        Weight {
            gguf: true,
            ..Self::parse(name, MODEL)
        }
    }

    /// The name of the stored tensor that lies where this weight does and is called `part` in a
    /// Hugging Face folder.
    pub(crate) fn stored_name(&self, part: &str) -> String {
        let name = format!("{}{part}", self.base);
        match self.gguf {
            true => tensor_name(&name),
            false => name,
        }
    }

    /// The stored tensor that lies where this weight does and is called `part`.
    pub fn stored(&self, part: &str) -> Recipe {
        Recipe::tensor(self.stored_name(part))
    }

    /// `part` without `before`, if it starts so, and without its `.weight` or `.bias`, which comes
    /// second.
    pub fn within(&self, before: &str) -> Option<(&'a str, &'a str)> {
        let part = self.part.strip_prefix(before)?;
        let at = part.rfind('.')?;
        Some((&part[..at], &part[at..]))
    }
}

impl Model {
    /// Makes the tensors that the graph names and that `store` holds in another form.
    ///
    /// Errors: tensors that are there and do not fit. Those that are not are for
    /// [`check_tensors`](Self::check_tensors) to report, unless they are parts of what must be
    /// made.
    pub fn define_tensors(&self, store: &mut TensorStore) -> Result<()> {
        let prefix = prefix(store);
        if let Some(paro) = &self.spec.paro {
            for (rotation, width) in self.rotations() {
                paro.define(store, rotation, width)?;
            }
        }
        for (_, value) in self.graph.weights() {
            let ValueKind::Weight { tensor, .. } = &value.kind else {
                continue;
            };
            if store.contains(tensor) {
                continue;
            }
            let mut recipes = self.recipes(tensor, prefix);
            if self.spec.paro.is_some() {
                let all = recipes.into_iter().map(|r| unpacked(store, r).0);
                recipes = all.collect();
            }
            define(store, tensor, &recipes)?;
        }
        Ok(())
    }

    /// The ways in which files may hold a weight that does not lie there under its own name.
    fn recipes(&self, tensor: &str, prefix: &'static str) -> Vec<Recipe> {
        let weight = Weight::parse(tensor, prefix);
        let mut recipes = (self.sources)(&self.spec, &weight);
        if recipes.is_empty() {
            recipes = common(&self.spec, &weight);
        }
        if recipes.is_empty() && prefix != MODEL {
            recipes.push(match tensor {
                LM_HEAD => Recipe::tensor(TEXT_HEAD),
                _ => weight.stored(weight.part),
            });
        }
        // Packed under its own name.
        if recipes.is_empty() && self.spec.paro.is_some() && tensor.ends_with(".weight") {
            recipes.push(Recipe::tensor(tensor));
        }
        recipes
    }

    /// Finds which weights of a ParoQuant checkpoint are packed, and wires their rotations.
    pub(crate) fn find_rotations(&mut self, store: &TensorStore) -> Result<()> {
        let Some(mut paro) = self.spec.paro.take() else {
            return Ok(());
        };
        self.spec.paro = Some(paro.clone());
        let prefix = prefix(store);
        for (_, value) in self.graph.weights() {
            let ValueKind::Weight {
                tensor,
                matrix: true,
            } = &value.kind
            else {
                continue;
            };
            let found = self.recipes(tensor, prefix).into_iter();
            let rotation = found.filter_map(|r| unpacked(store, r).1).next();
            if let (Some(rotation), false) = (rotation, store.contains(tensor)) {
                paro.rotations.insert(tensor.clone(), rotation);
            }
        }
        self.spec.paro = Some(paro);
        self.rewire()
    }

    /// Each rotation once, with the inputs that it turns.
    fn rotations(&self) -> Vec<(&str, usize)> {
        let mut all = Vec::new();
        let Some(paro) = &self.spec.paro else {
            return all;
        };
        for (_, value) in self.graph.weights() {
            if let ValueKind::Weight { tensor, .. } = &value.kind
                && let Some(rotation) = paro.rotations.get(tensor)
                && let Some(width) = value.shape.last()
                && !all.iter().any(|(r, _)| r == rotation)
            {
                all.push((rotation.as_str(), width));
            }
        }
        all
    }
}

/// What the names of the decoder's tensors start with in `store`.
fn prefix(store: &TensorStore) -> &'static str {
    let bare = EMBEDDING.strip_prefix(MODEL).unwrap_or(EMBEDDING);
    let holds = |prefix: &&&str| store.contains(&format!("{prefix}{bare}"));
    match store.contains(EMBEDDING) {
        true => MODEL,
        false => TEXT_PREFIXES.iter().find(holds).copied().unwrap_or(MODEL),
    }
}

/// Makes `name` by the first recipe whose tensors are all there.
pub(crate) fn define(store: &mut TensorStore, name: &str, recipes: &[Recipe]) -> Result<()> {
    let mut first = None;
    for recipe in recipes {
        match store.define(name, recipe) {
            Ok(()) => return Ok(()),
            Err(error) => {
                let missing = matches!(
                    &error,
                    FormatError::Recipe {
                        problem: RecipeProblem::Missing(_),
                        ..
                    }
                );
                if !missing {
                    return Err(error.into());
                }
                first.get_or_insert(error);
            }
        }
    }
    first.map_or(Ok(()), |error| Err(error.into()))
}

/// Rows `from..from + len` of every `period`. Where there is but one period, a matrix with more
/// rows does not fit either.
fn block(of: Recipe, period: usize, from: usize, len: usize) -> Recipe {
    of.rows(RowPattern::blocks(period, from..from + len))
}

/// Rows `from..from + len` of a matrix or, for a bias, of a vector, which has `total` rows of `k`
/// elements and no others.
fn piece(whole: Recipe, kind: &str, (total, k): (usize, usize), from: usize, len: usize) -> Recipe {
    let whole = match kind {
        ".bias" => whole.reshape(&[total]),
        _ => whole.reshape(&[total, k]),
    };
    whole.rows(RowPattern::range(from..from + len))
}

/// What files of any family may hold in these forms only.
pub(crate) fn common(spec: &ModelSpec, weight: &Weight<'_>) -> Vec<Recipe> {
    let Some(layer) = weight.layer.and_then(|i| spec.layers.get(i)) else {
        return Vec::new();
    };
    let mixer = match &layer.mixer {
        Mixer::Attention(a) => gated_query(a, weight),
        Mixer::Latent(l) => latent(spec.hidden_size, l, weight),
        Mixer::Delta(d) => delta_net(spec.hidden_size, d, weight),
        Mixer::Conv(c) => short_conv(spec.hidden_size, c.kernel, weight),
    };
    match (&layer.ffn, mixer.is_empty()) {
        (Ffn::Moe(m), true) => experts(spec.hidden_size, m, weight),
        _ => mixer,
    }
}

/// Queries and their gate are one projection, by turns for each head.
fn gated_query(a: &Attention, weight: &Weight<'_>) -> Vec<Recipe> {
    let dim = a.head_dim;
    let Some((name, kind)) = weight.within("self_attn.q_proj.") else {
        return Vec::new();
    };
    let from = match name {
        "query" => 0,
        "gate" => dim,
        _ => return Vec::new(),
    };
    let fused = weight.stored(&format!("self_attn.q_proj{kind}"));
    vec![block(fused, 2 * dim, from, dim)]
}

fn latent(hidden: usize, l: &Latent, weight: &Weight<'_>) -> Vec<Recipe> {
    let Some((name, kind)) = weight.within("self_attn.") else {
        return Vec::new();
    };
    let Some((fused, name)) = name.split_once('.') else {
        return Vec::new();
    };
    let whole = weight.stored(&format!("self_attn.{fused}{kind}"));
    let (nope, rope, value) = (l.nope_dim, l.rope_dim, l.value_dim);
    let down = (l.kv_rank + rope, hidden);
    let made = match (fused, name) {
        ("q_proj" | "q_b_proj", "nope") => block(whole, nope + rope, 0, nope),
        ("q_proj" | "q_b_proj", "rope") => block(whole, nope + rope, nope, rope),
        ("kv_a_proj_with_mqa", "latent") => piece(whole, kind, down, 0, l.kv_rank),
        ("kv_a_proj_with_mqa", "rope") => piece(whole, kind, down, l.kv_rank, rope),
        ("kv_b_proj", "value") => block(whole, nope + value, nope, value),
        ("kv_b_proj", "key") => latent_key(l, whole),
        _ => return Vec::new(),
    };
    vec![made]
}

/// The part of the projection up from latent vectors that makes keys, transposed for each head.
pub(crate) fn latent_key(l: &Latent, whole: Recipe) -> Recipe {
    let (heads, nope) = (l.heads, l.nope_dim);
    block(whole, nope + l.value_dim, 0, nope)
        .reshape(&[heads, nope, l.kv_rank])
        .transpose()
        .reshape(&[heads * l.kv_rank, nope])
}

fn delta_net(hidden: usize, d: &DeltaNet, weight: &Weight<'_>) -> Vec<Recipe> {
    let Some((name, kind)) = weight.within("linear_attn.") else {
        return Vec::new();
    };
    let Some((fused, name)) = name.split_once('.') else {
        return Vec::new();
    };
    let (keys, values) = (d.key_width(), d.value_width());
    let mixed = 2 * keys + values;
    // The order of q, k and v in what they share.
    let shared = match name {
        "q" => Some((0, keys)),
        "k" => Some((keys, keys)),
        "v" => Some((2 * keys, values)),
        _ => None,
    };
    let stored = |name: &str| weight.stored(&format!("linear_attn.{name}{kind}"));
    if fused == "conv1d" {
        let Some((from, len)) = shared else {
            return Vec::new();
        };
        let taps = piece(stored("conv1d"), kind, (mixed, d.kernel), from, len);
        return vec![taps.reshape(&[len * d.kernel])];
    }
    // Qwen3-Next fuses per key head, with its share of the value heads.
    let each = d.value_heads / d.key_heads.max(1);
    let (key, value) = (d.key_dim, each * d.value_dim);
    let by_head = |from, len| {
        let fused = stored("in_proj_qkvz");
        block(fused, 2 * key + 2 * value, from, len)
    };
    let by_heads = |from| block(stored("in_proj_ba"), 2 * each, from, each);
    let (own, fused) = match name {
        "q" => (None, by_head(0, key)),
        "k" => (None, by_head(key, key)),
        "v" => (None, by_head(2 * key, value)),
        "z" => (Some("in_proj_z"), by_head(2 * key + value, value)),
        "b" => (Some("in_proj_b"), by_heads(0)),
        "a" => (Some("in_proj_a"), by_heads(each)),
        _ => return Vec::new(),
    };
    let apart = match (shared, own) {
        (Some((from, len)), _) => piece(stored("in_proj_qkv"), kind, (mixed, hidden), from, len),
        (None, own) => stored(own.unwrap_or(name)),
    };
    vec![apart, fused]
}

fn short_conv(hidden: usize, kernel: usize, weight: &Weight<'_>) -> Vec<Recipe> {
    match weight.within("conv.") {
        Some(("conv.taps", _)) => {
            vec![
                weight
                    .stored("conv.conv.weight")
                    .reshape(&[hidden * kernel]),
            ]
        }
        Some((name, kind)) => {
            let from = match name {
                "in_proj.b" => 0,
                "in_proj.c" => hidden,
                "in_proj.x" => 2 * hidden,
                _ => return Vec::new(),
            };
            let fused = weight.stored(&format!("conv.in_proj{kind}"));
            vec![piece(fused, kind, (3 * hidden, hidden), from, hidden)]
        }
        None => Vec::new(),
    }
}

/// Experts in tensors of their own, or stacked with gate and up in one.
fn experts(hidden: usize, m: &Moe, weight: &Weight<'_>) -> Vec<Recipe> {
    let Some((name, kind)) = weight.within("mlp.experts.") else {
        return Vec::new();
    };
    let apart = each_expert(m, weight, |e| format!("mlp.experts.{e}.{name}{kind}"));
    let (all, wide) = (m.experts, m.intermediate);
    let stacked = match name {
        "gate_proj" | "up_proj" => {
            let fused = weight.stored("mlp.experts.gate_up_proj");
            let from = if name == "gate_proj" { 0 } else { wide };
            block(
                fused.reshape(&[all * 2 * wide, hidden]),
                2 * wide,
                from,
                wide,
            )
        }
        _ => weight
            .stored("mlp.experts.down_proj")
            .reshape(&[all * hidden, wide]),
    };
    vec![apart, stacked]
}

/// The experts' tensors one behind the other, given their names.
pub(crate) fn each_expert(m: &Moe, weight: &Weight<'_>, name: impl Fn(usize) -> String) -> Recipe {
    Recipe::Stack((0..m.experts).map(|e| weight.stored(&name(e))).collect())
}

/// Gate and up as one matrix, gate first; `wide` rows each.
pub(crate) fn fused_gate_up(hidden: usize, wide: usize, weight: &Weight<'_>) -> Vec<Recipe> {
    let Some((name, kind)) = weight.within("mlp.") else {
        return Vec::new();
    };
    let from = match name {
        "gate_proj" => 0,
        "up_proj" => wide,
        _ => return Vec::new(),
    };
    let fused = weight.stored(&format!("mlp.gate_up_proj{kind}"));
    vec![piece(fused, kind, (2 * wide, hidden), from, wide)]
}

/// Queries, keys and values as one matrix, in this order.
pub(crate) fn fused_qkv(hidden: usize, a: &Attention, weight: &Weight<'_>) -> Vec<Recipe> {
    let Some((name, kind)) = weight.within("self_attn.") else {
        return Vec::new();
    };
    let (q, kv) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
    let (from, len) = match name {
        "q_proj" => (0, q),
        "k_proj" => (q, kv),
        "v_proj" => (q + kv, kv),
        _ => return Vec::new(),
    };
    let fused = weight.stored(&format!("self_attn.qkv_proj{kind}"));
    vec![piece(fused, kind, (q + 2 * kv, hidden), from, len)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let name = "model.layers.12.mlp.gate_proj.weight";
        let weight = Weight::parse(name, "language_model.model.");
        assert_eq!(
            (weight.layer, weight.part),
            (Some(12), "mlp.gate_proj.weight")
        );
        assert_eq!(weight.within("mlp."), Some(("gate_proj", ".weight")));
        assert_eq!(weight.within("attn."), None);
        let wanted = "language_model.model.layers.12.mlp.up_proj.weight";
        assert_eq!(weight.stored("mlp.up_proj.weight"), Recipe::tensor(wanted));
        let outside = Weight::parse("model.norm.weight", "x.");
        assert_eq!((outside.layer, outside.part), (None, "norm.weight"));
        assert_eq!(outside.stored("other"), Recipe::tensor("x.other"));
        let head = Weight::parse("lm_head.weight", "x.");
        assert_eq!(
            head.stored("lm_head.weight"),
            Recipe::tensor("lm_head.weight")
        );
    }
}
