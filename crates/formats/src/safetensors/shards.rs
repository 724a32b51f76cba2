//! A folder's tensors: `model.safetensors`, or the shards that its index names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use serde::Deserialize;

use crate::config::read_limited;
use crate::error::{Error, IndexProblem, Result, excerpt};
use crate::safetensors::{map_and_parse, open_file};
use crate::tensors::TensorStore;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const MAX_INDEX_BYTES: u64 = 100 << 20;
const MAX_SHARDS: usize = 4096;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Opens the tensors of a model folder: `model.safetensors` where it exists, otherwise every shard
/// that `model.safetensors.index.json` names.
///
/// Errors: neither file there, a shard missing or damaged, or any [`IndexProblem`].
pub fn open_dir(dir: &Path) -> Result<TensorStore> {
    let single = dir.join(SINGLE);
    if single.exists() {
        return open_file(&single);
    }
    let index = dir.join(INDEX);
    if index.exists() {
        return open_sharded(dir, &index);
    }
    Err(Error::Missing {
        wanted: "weights",
        path: single,
        hint: hint_for(dir),
    })
}

fn hint_for(dir: &Path) -> String {
    let mut others: Vec<String> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| {
            [".safetensors", ".bin", ".pt", ".pth", ".gguf"]
                .iter()
                .any(|suffix| name.ends_with(suffix))
        })
        .collect();
    others.sort();
    match others.first() {
        None => format!("and no {INDEX}; download the weights into the same folder"),
        Some(other) if other.ends_with(".safetensors") => format!(
            "and no {INDEX}, but {other} is there; download the index, or rename a lone file to {SINGLE}"
        ),
        Some(other) if other.ends_with(".gguf") => {
            format!("and no {INDEX}, but {other} is there; give that file instead of the folder")
        }
        Some(other) => format!(
            "and no {INDEX}, but {other} is there; only safetensors is read, convert or download it in that form"
        ),
    }
}

fn open_sharded(dir: &Path, index_path: &Path) -> Result<TensorStore> {
    let text = read_limited(index_path, "a shard index", MAX_INDEX_BYTES)?;
    let index: Index = serde_json::from_slice(&text)
        .map_err(|e| Error::json(index_path, excerpt(&e.to_string(), 200)))?;
    let fail = |problem| Err(Error::index(index_path, problem));

    let mut shards = BTreeSet::new();
    for (tensor, shard) in &index.weight_map {
        if !is_plain_file_name(shard) {
            return fail(IndexProblem::UnsafeShardName {
                tensor: excerpt(tensor, 120),
                shard: excerpt(shard, 120),
            });
        }
        shards.insert(shard.as_str());
    }
    if shards.is_empty() {
        return fail(IndexProblem::Empty);
    }
    if shards.len() > MAX_SHARDS {
        return fail(IndexProblem::TooManyShards {
            found: shards.len(),
            limit: MAX_SHARDS,
        });
    }

    let mut files = Vec::with_capacity(shards.len());
    let mut tensors: BTreeMap<String, _> = BTreeMap::new();
    let mut held_by: BTreeMap<String, &str> = BTreeMap::new();
    for shard in shards {
        let path = dir.join(shard);
        if !path.exists() {
            return fail(IndexProblem::MissingShard {
                shard: excerpt(shard, 120),
            });
        }
        let (file, entries) = map_and_parse(&path)?;
        for (name, entry) in entries {
            if let Some(first) = held_by.insert(name.clone(), shard) {
                return fail(IndexProblem::DuplicateTensor {
                    tensor: excerpt(&name, 120),
                    first: excerpt(first, 120),
                    second: excerpt(shard, 120),
                });
            }
            tensors.insert(name.clone(), entry.into_info(name, files.len()));
        }
        files.push(file);
    }
    for (tensor, shard) in &index.weight_map {
        if held_by.get(tensor) != Some(&shard.as_str()) {
            return fail(IndexProblem::TensorNotInShard {
                tensor: excerpt(tensor, 120),
                shard: excerpt(shard, 120),
            });
        }
    }
    Ok(TensorStore::new(files, tensors))
}

/// One normal path component on every system: no folders, no parent, no drive, no NUL.
fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!(components.next(), Some(Component::Normal(c)) if c == name)
        && components.next().is_none()
        && !name.contains(['/', '\\', ':', '\0'])
}
