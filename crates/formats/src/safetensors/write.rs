//! Writing a safetensors file, all or nothing.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::dtype::StoredType;
use crate::error::{Error, Result};

/// A tensor to write: name, type, shape (outermost first), little-endian bytes.
pub type TensorToWrite<'a> = (&'a str, StoredType, &'a [usize], &'a [u8]);

/// Writes `tensors` to `path` in the given order.
///
/// The file is written beside `path` under a temporary name and renamed once complete, so that
/// `path` is either what it was before or whole. Errors: [`Error::BadTensor`] for a repeated name
/// or bytes that do not fit the shape, [`Error::Unwritable`] for everything the system refuses.
pub fn write_safetensors(path: &Path, tensors: &[TensorToWrite<'_>]) -> Result<()> {
    let header = header_json(tensors)?;
    let unwritable = |source| Error::Unwritable {
        path: path.to_path_buf(),
        source,
    };
    if path.is_dir() {
        let source = std::io::Error::new(std::io::ErrorKind::IsADirectory, "it is a folder");
        return Err(unwritable(source));
    }
    let (temporary, file) = create_beside(path).map_err(unwritable)?;
    let written =
        write_all(file, &header, tensors).and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|e| {
        // The first error is the one to report; a leftover that cannot be removed adds nothing.
        drop(std::fs::remove_file(&temporary));
        unwritable(e)
    })
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

fn create_beside(path: &Path) -> std::io::Result<(PathBuf, File)> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let name = path.file_name().ok_or(std::io::ErrorKind::InvalidInput)?;
    loop {
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        temporary.push(format!(".{}-{count}.tmp", std::process::id()));
        let temporary = path.with_file_name(temporary);
        match File::create_new(&temporary) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
            Err(e) => return Err(e),
            Ok(file) => return Ok((temporary, file)),
        }
    }
}

fn write_all(file: File, header: &[u8], tensors: &[TensorToWrite<'_>]) -> std::io::Result<()> {
    let mut out = BufWriter::new(file);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header)?;
    for (_, _, _, bytes) in tensors {
        out.write_all(bytes)?;
    }
    out.into_inner()?.sync_all()
}
