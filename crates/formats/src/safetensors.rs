//! The safetensors container: one file, or shards behind `model.safetensors.index.json`.
//!
//! Layout of a file: header length (u64, little endian), a JSON header of that many bytes, then
//! the data, which the tensors' `data_offsets` must cover without gap or overlap.

mod header;
mod shards;
mod write;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, HeaderProblem, Result};
use crate::tensors::{MappedFile, Place, TensorInfo, TensorStore};

pub use header::{HeaderEntry, MAX_HEADER_BYTES, parse_header};
pub use shards::open_dir;
pub use write::{TensorToWrite, write_safetensors};

/// Opens one safetensors file.
///
/// Errors: unreadable file, or any [`HeaderProblem`].
pub fn open_file(path: &Path) -> Result<TensorStore> {
    let (file, entries) = map_and_parse(path)?;
    let tensors = entries
        .into_iter()
        .map(|(name, entry)| (name.clone(), entry.into_info(name, 0)))
        .collect();
    Ok(TensorStore::new(vec![file], tensors))
}

fn map_and_parse(path: &Path) -> Result<(Arc<MappedFile>, BTreeMap<String, HeaderEntry>)> {
    // An empty file cannot be mapped; it is reported like any other that is too short.
    if std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() == 0) {
        return Err(Error::header(path, HeaderProblem::TooShort(0)));
    }
    let file = MappedFile::open(path)?;
    let entries = parse_header(file.bytes()).map_err(|problem| Error::header(path, problem))?;
    Ok((Arc::new(file), entries))
}

impl HeaderEntry {
    fn into_info(self, name: String, file: usize) -> TensorInfo {
        TensorInfo {
            name,
            shape: self.shape,
            stored: self.stored,
            bytes: self.bytes,
            place: Some(Place {
                file,
                offset: self.offset,
            }),
        }
    }
}
