//! Writing a safetensors file, all or nothing.

use std::collections::BTreeSet;
use std::path::Path;

use crate::dtype::StoredType;
use crate::error::{Error, Result};
use crate::replace::Replacement;

/// A tensor to write: name, type, shape (outermost first), little-endian bytes.
pub type TensorToWrite<'a> = (&'a str, StoredType, &'a [usize], &'a [u8]);

/// Writes `tensors` to `path` in the given order.
///
/// The file is written beside `path` under a temporary name and renamed once complete, so that
/// `path` is either what it was before or whole. Errors: [`Error::BadTensor`] for a repeated name
/// or bytes that do not fit the shape, [`Error::Unwritable`] for everything the system refuses.
pub fn write_safetensors(path: &Path, tensors: &[TensorToWrite<'_>]) -> Result<()> {
    let header = header_json(tensors)?;
    let mut out = Replacement::create(path)?;
    out.write(&(header.len() as u64).to_le_bytes())?;
    out.write(&header)?;
    for (_, _, _, bytes) in tensors {
        out.write(bytes)?;
    }
    out.commit()
}

fn header_json(tensors: &[TensorToWrite<'_>]) -> Result<Vec<u8>> {
    let mut names = BTreeSet::new();
    let mut header = serde_json::Map::new();
    let mut offset = 0u64;
    for &(name, stored, shape, bytes) in tensors {
        let bad = |problem: String| Error::BadTensor {
            tensor: name.to_string(),
            problem,
        };
        if name == "__metadata__" || !names.insert(name) {
            return Err(bad("the name is taken; names must differ".into()));
        }
        if stored.bytes_for(shape) != Some(bytes.len() as u64) {
            return Err(bad(format!(
                "{} bytes were given for {stored} {shape:?}",
                bytes.len()
            )));
        }
        let Some(dtype) = stored.safetensors_name() else {
            return Err(bad(format!(
                "safetensors has no type for {stored}; write GGUF, or f32, f16 or bf16"
            )));
        };
        let end = offset + bytes.len() as u64;
        let entry = serde_json::json!({
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [offset, end],
        });
        header.insert(name.to_string(), entry);
        offset = end;
    }
    let mut json = serde_json::Value::Object(header).to_string().into_bytes();
    // Spaces are allowed at the end; they keep the data aligned for every element type.
    json.resize(json.len().next_multiple_of(8), b' ');
    Ok(json)
}
