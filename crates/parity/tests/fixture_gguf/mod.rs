//! Fixture models as GGUF files, laid out as llama.cpp's converter lays them out.
//!
//! What the format has no key for is written in the keys nearest to it, which the reader knows:
//! attention scales of Gemma, factors of YaRN that are not the usual ones, windows.

// Each test binary uses a part of this.
#![allow(dead_code)]

mod coarse;
mod keys;
mod layers;
mod other;

use ::models::Model;
use ::models::rope::{Rope, RopeScaling};
use ::models::spec::ModelSpec;
use formats::gguf::{GgufKeys, write_gguf};
use formats::{StoredType, TensorStore};
use runtime::Opened;
use std::path::Path;

/// Writes the model folder `dir` to `path`, matrices of whole blocks as `matrices` where that is
/// given and as they are where not; vectors become f32.
pub fn convert(dir: &Path, path: &Path, matrices: Option<StoredType>) {
    convert_with(dir, path, matrices, |_| {}, |_| true);
}

/// [`convert`] with more keys, and only the tensors that `keep` names.
pub fn convert_with(
    dir: &Path,
    path: &Path,
    matrices: Option<StoredType>,
    more: impl Fn(&mut GgufKeys),
    keep: impl Fn(&str) -> bool,
) {
    convert_each(dir, path, |_| matrices, more, keep);
}

/// [`convert_with`], where `matrices` goes by a tensor's name in the file.
pub fn convert_each(
    dir: &Path,
    path: &Path,
    matrices: impl Fn(&str) -> Option<StoredType>,
    more: impl Fn(&mut GgufKeys),
    keep: impl Fn(&str) -> bool,
) {
    let opened = Opened::open(dir).expect("a fixture");
    let source = Source::new(&opened);
    let mut keys = keys::keys(&source);
    more(&mut keys);
    let tensors = tensors(&source).into_iter().filter(|t| keep(&t.name));
    write(path, &keys, &tensors.collect::<Vec<_>>(), &matrices);
}

/// [`convert`] in the layouts of [`other`].
pub fn convert_otherwise(dir: &Path, path: &Path, matrices: Option<StoredType>) {
    let opened = Opened::open(dir).expect("a fixture");
    let source = Source::new(&opened);
    let tensors = other::layout(&source, tensors(&source));
    write(path, &keys::keys(&source), &tensors, &|_| matrices);
}

/// [`convert`] with one more tensor.
pub fn convert_beside(dir: &Path, path: &Path, name: &str) {
    let opened = Opened::open(dir).expect("a fixture");
    let source = Source::new(&opened);
    let mut tensors = tensors(&source);
    tensors.push(Tensor::vector(vec![1.0]).named(name));
    write(path, &keys::keys(&source), &tensors, &|_| None);
}

fn write(
    path: &Path,
    keys: &GgufKeys,
    tensors: &[Tensor],
    matrices: &dyn Fn(&str) -> Option<StoredType>,
) {
    let encoded: Vec<_> = tensors
        .iter()
        .map(|t| t.encode(matrices(&t.name)))
        .collect();
    let tensors: Vec<_> = tensors
        .iter()
        .zip(&encoded)
        .map(|(t, (stored, bytes))| (t.name.as_str(), *stored, &t.shape[..], &bytes[..]))
        .collect();
    write_gguf(path, keys, &tensors).expect("a GGUF file");
}

/// The name of the architecture that a family's models are converted to.
pub fn architecture(family: &str) -> &'static str {
    const NAMES: &[(&str, &str)] = &[
        ("mistral", "llama"),
        ("mixtral", "llama"),
        ("qwen3_moe", "qwen3moe"),
        ("gemma3_text", "gemma3"),
        ("qwen3_5_text", "qwen35"),
        ("qwen3_5_moe_text", "qwen35moe"),
        ("qwen3_next", "qwen3next"),
        ("gpt_oss", "gpt-oss"),
        ("deepseek_v3", "deepseek2"),
    ];
    let known = ::models::gguf_architectures().into_iter().map(|a| a.name);
    let name = NAMES.iter().find(|(from, _)| *from == family);
    let name = name.map_or(family, |(_, to)| to);
    known.into_iter().find(|n| *n == name).expect("known")
}

/// A model folder that is converted.
struct Source<'a> {
    model: &'a Model,
    store: &'a TensorStore,
    architecture: &'static str,
}

impl<'a> Source<'a> {
    fn new(opened: &'a Opened) -> Self {
        Source {
            model: &opened.model,
            store: &opened.files.tensors,
            architecture: architecture(opened.model.family),
        }
    }

    fn spec(&self) -> &'a ModelSpec {
        &self.model.spec
    }

    /// The weight of this name, whatever the folder makes it of.
    fn find(&self, name: &str) -> Option<Tensor> {
        let found = self.store.get(name)?;
        // Blocks are passed on as they are.
        let blocks = found.info.stored.block_elements() > 1;
        Some(Tensor {
            name: String::new(),
            shape: found.info.shape.clone(),
            stored: found.info.stored,
            blocks: blocks.then(|| found.bytes().into_owned()),
            values: found.to_f32().expect("real numbers"),
        })
    }

    fn get(&self, name: &str) -> Tensor {
        self.find(name).unwrap_or_else(|| panic!("no {name}"))
    }

    /// The weight of a norm, which the converter makes a plain one.
    fn norm(&self, name: &str) -> Tensor {
        let mut weight = self.get(name);
        let offset = self.spec().norm_offset;
        weight.values.iter_mut().for_each(|v| *v += offset);
        weight
    }
}

/// A tensor to write.
#[derive(Clone)]
struct Tensor {
    name: String,
    shape: Vec<usize>,
    stored: StoredType,
    blocks: Option<Vec<u8>>,
    values: Vec<f32>,
}

impl Tensor {
    fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    fn vector(values: Vec<f32>) -> Self {
        Tensor {
            name: String::new(),
            shape: vec![values.len()],
            stored: StoredType::F32,
            blocks: None,
            values,
        }
    }

    /// The same elements in another shape.
    fn shaped(mut self, shape: &[usize]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), self.values.len());
        self.shape = shape.to_vec();
        self
    }

    fn rows(&self) -> usize {
        self.shape[0]
    }

    fn width(&self) -> usize {
        self.values.len() / self.rows()
    }

    /// The rows `order`, in that order.
    fn reordered(&self, order: impl IntoIterator<Item = usize>) -> Self {
        let width = self.width();
        let row = |row: usize| &self.values[row * width..][..width];
        let values: Vec<f32> = order.into_iter().flat_map(row).copied().collect();
        let mut shape = self.shape.clone();
        shape[0] = values.len() / width;
        Tensor {
            shape,
            values,
            blocks: None,
            name: self.name.clone(),
            stored: self.stored,
        }
    }

    /// The same with the columns `order`.
    fn with_columns(&self, order: &[usize]) -> Self {
        let rows = self.values.chunks_exact(self.width());
        Tensor {
            values: rows.flat_map(|r| order.iter().map(|c| r[*c])).collect(),
            blocks: None,
            ..self.clone()
        }
    }

    /// One behind the other.
    fn joined(parts: &[Tensor]) -> Self {
        let mut shape = parts[0].shape.clone();
        shape[0] = parts.iter().map(Tensor::rows).sum();
        Tensor {
            shape,
            values: parts.iter().flat_map(|p| p.values.clone()).collect(),
            blocks: None,
            ..parts[0].clone()
        }
    }

    /// By turns so many rows of each.
    fn by_turns(parts: &[(&Tensor, usize)]) -> Self {
        let whole: Vec<Tensor> = parts.iter().map(|(p, _)| (*p).clone()).collect();
        let turns = parts[0].0.rows() / parts[0].1;
        let mut starts = Vec::new();
        let mut start = 0;
        for (part, _) in parts {
            starts.push(start);
            start += part.rows();
        }
        let each = |turn: usize| {
            let of = |(i, (_, n)): (usize, &(&Tensor, usize))| {
                let from = starts[i] + turn * n;
                from..from + n
            };
            parts.iter().enumerate().flat_map(of).collect::<Vec<_>>()
        };
        Self::joined(&whole).reordered((0..turns).flat_map(each))
    }

    /// Each head's rows [2, head / 2] as [head / 2, 2].
    fn paired(&self, head: usize) -> Self {
        let place = |row: usize| {
            let (start, at) = (row - row % head, row % head);
            start + at % 2 * (head / 2) + at / 2
        };
        self.reordered((0..self.rows()).map(place))
    }

    fn encode(&self, matrices: Option<StoredType>) -> (StoredType, Vec<u8>) {
        if let Some(blocks) = &self.blocks {
            return (self.stored, blocks.clone());
        }
        let name = self.name.as_str();
        let vector = self.shape.len() == 1
            || [
                ".bias",
                "ffn_gate_inp.weight",
                "conv1d.weight",
                "shortconv.conv.weight",
            ]
            .iter()
            .any(|end| name.ends_with(end));
        let whole = |s: &StoredType| {
            self.shape
                .last()
                .is_some_and(|n| n % s.block_elements() == 0)
        };
        let stored = match (vector, matrices.filter(whole)) {
            (true, _) => StoredType::F32,
            (false, given) => given.unwrap_or(self.stored),
        };
        if !formats::can_encode(stored) {
            return (stored, coarse::encode(stored, &self.values));
        }
        let bytes = stored.bytes_for(&self.shape).expect("whole blocks") as usize;
        let mut out = vec![0; bytes];
        formats::encode_row(stored, &self.values, &mut out).expect("finite values");
        (stored, out)
    }
}

fn tensors(source: &Source<'_>) -> Vec<Tensor> {
    let spec = source.spec();
    let last = match source.architecture {
        "lfm2" => "token_embd_norm.weight",
        _ => "output_norm.weight",
    };
    let mut all = vec![
        source
            .get("model.embed_tokens.weight")
            .named("token_embd.weight"),
        source.norm("model.norm.weight").named(last),
    ];
    if !spec.tied_embeddings {
        all.push(source.get("lm_head.weight").named("output.weight"));
    }
    all.extend(spec.ropes.first().into_iter().flat_map(divisors));
    for layer in 0..spec.layers.len() {
        all.extend(layers::tensors(source, layer));
    }
    all
}

/// The tensors that rotations divide their frequencies by.
fn divisors(rope: &Rope) -> Vec<Tensor> {
    let plain = Rope::new(rope.theta, rope.rotary_dim, RopeScaling::Default).expect("finite");
    let over = |freqs: &[f32]| {
        let pairs = plain.inv_freq.iter().zip(freqs);
        Tensor::vector(pairs.map(|(p, f)| p / f).collect())
    };
    match (&rope.scaling, &rope.long) {
        (RopeScaling::Llama3 { .. }, _) => vec![over(&rope.inv_freq).named("rope_freqs.weight")],
        (_, Some((_, long))) => vec![
            over(&rope.inv_freq).named("rope_factors_short.weight"),
            over(long).named("rope_factors_long.weight"),
        ],
        _ => Vec::new(),
    }
}
