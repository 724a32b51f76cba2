//! Logits that another implementation computed, as `golden.safetensors` holds them.

use super::GateError;
use crate::stats;
use formats::{StoredType, TensorStore};
use std::path::Path;

/// One prompt and its expected logits.
#[derive(Clone, Debug)]
pub struct GoldenPrompt {
    pub ids: Vec<u32>,
    /// Positions that are stored, ascending.
    pub rows: Vec<usize>,
    /// `rows.len() × vocab`, row-major.
    pub logits: Vec<f32>,
    pub vocab: usize,
    /// Standard deviation of all stored logits.
    pub sigma: f64,
}

impl GoldenPrompt {
    pub fn row(&self, i: usize) -> &[f32] {
        &self.logits[i * self.vocab..(i + 1) * self.vocab]
    }
}

/// Prompts named `ids_N`, `rows_N`, `logits_N`, and what else a file holds.
#[derive(Clone, Debug)]
pub struct Golden {
    pub prompts: Vec<GoldenPrompt>,
    store: TensorStore,
    path: std::path::PathBuf,
}

impl Golden {
    /// Reads and checks a file. Errors: a tensor of the wrong type or shape, an id
    /// or row out of range, no prompt at all.
    pub fn open(path: &Path) -> Result<Self, GateError> {
        let store = formats::open_file(path)?;
        let mut golden = Golden {
            prompts: Vec::new(),
            store,
            path: path.to_path_buf(),
        };
        let mut suffixes: Vec<(usize, String)> = golden
            .store
            .names()
            .filter_map(|n| n.strip_prefix("logits_"))
            .filter_map(|s| Some((s.parse().ok()?, s.to_string())))
            .collect();
        suffixes.sort();
        for (_, suffix) in suffixes {
            let prompt = golden.prompt(&suffix)?;
            golden.prompts.push(prompt);
        }
        if golden.prompts.is_empty() {
            return Err(golden.bad("logits_N", "is not there"));
        }
        Ok(golden)
    }

    fn bad(&self, tensor: &str, problem: impl Into<String>) -> GateError {
        GateError::Golden {
            path: self.path.clone(),
            tensor: tensor.into(),
            problem: problem.into(),
        }
    }

    fn prompt(&self, suffix: &str) -> Result<GoldenPrompt, GateError> {
        let name = |what: &str| format!("{what}_{suffix}");
        let ids = self.ids(&name("ids"))?;
        let rows = self.ids(&name("rows"))?;
        let rows: Vec<usize> = rows.into_iter().map(|r| r as usize).collect();
        let logits_name = name("logits");
        let stored = self
            .store
            .get(&logits_name)
            .ok_or_else(|| self.bad(&logits_name, "is not there"))?;
        let (logits, &[count, vocab]) = (
            stored
                .to_f32()
                .ok_or_else(|| self.bad(&logits_name, "is not floating point"))?,
            stored.info.shape.as_slice(),
        ) else {
            return Err(self.bad(&logits_name, "is not a matrix"));
        };
        if count != rows.len() {
            let problem = format!("has {count} rows where {} were named", rows.len());
            return Err(self.bad(&logits_name, problem));
        }
        if let Some(row) = rows.iter().find(|r| **r >= ids.len()) {
            return Err(self.bad(&name("rows"), format!("names row {row} of {}", ids.len())));
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocab) {
            return Err(self.bad(&name("ids"), format!("holds id {id} of {vocab}")));
        }
        if let Some(x) = logits.iter().find(|x| !x.is_finite()) {
            return Err(self.bad(&logits_name, format!("holds {x}")));
        }
        Ok(GoldenPrompt {
            sigma: stats::sigma(&logits),
            ids,
            rows,
            logits,
            vocab,
        })
    }

    /// An i32 tensor of ids or positions.
    pub fn ids(&self, name: &str) -> Result<Vec<u32>, GateError> {
        let t = self
            .store
            .get(name)
            .ok_or_else(|| self.bad(name, "is not there"))?;
        if t.info.stored != StoredType::I32 || t.info.shape.len() != 1 {
            return Err(self.bad(name, "is not a list of i32"));
        }
        let bytes = t.bytes();
        let words = bytes.chunks_exact(4);
        words
            .map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .map(|i| u32::try_from(i).map_err(|_| self.bad(name, format!("holds {i}"))))
            .collect()
    }

    /// An f32 tensor's elements.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>, GateError> {
        let t = self
            .store
            .get(name)
            .ok_or_else(|| self.bad(name, "is not there"))?;
        t.to_f32()
            .ok_or_else(|| self.bad(name, "is not floating point"))
    }
}
