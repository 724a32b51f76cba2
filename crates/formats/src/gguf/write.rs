//! Writing a GGUF file (version 3), all or nothing.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;

use super::header::DEFAULT_ALIGNMENT;
use super::types;
use super::value::{Value, ValueType};
use crate::dtype::StoredType;
use crate::error::{Error, Result, excerpt};
use crate::replace::Replacement;
use crate::safetensors::TensorToWrite;

/// Largest alignment that is written; padding is allocated.
const MAX_ALIGNMENT: u64 = 1 << 20;

/// Keys and values to write, in the order in which they are put.
#[derive(Debug, Clone, Default)]
pub struct GgufKeys {
    names: BTreeSet<String>,
    bytes: Vec<u8>,
    problem: Option<(String, &'static str)>,
    alignment: Option<u64>,
}

impl GgufKeys {
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a value, which may come from another file. `general.alignment` also places the data.
    pub fn put(&mut self, key: &str, value: Value<'_>) -> &mut Self {
        if key == "general.alignment" {
            let fits = |a: &u64| a.is_power_of_two() && *a <= MAX_ALIGNMENT;
            self.alignment = value.as_u64().filter(fits);
            if self.alignment.is_none() {
                self.note(key, "wanted a power of two up to 1048576");
            }
        }
        self.start(key, value.kind());
        put_value(&mut self.bytes, value);
        self
    }

    /// Puts a string.
    pub fn put_str(&mut self, key: &str, value: &str) -> &mut Self {
        self.put(key, Value::Str(value.as_bytes()))
    }

    /// Puts an array of strings.
    pub fn put_strs<S: AsRef<[u8]>>(&mut self, key: &str, values: &[S]) -> &mut Self {
        let values = values.iter().map(|s| Value::Str(s.as_ref()));
        self.put_all(key, ValueType::Str, values)
    }

    /// Puts an array of u32.
    pub fn put_u32s(&mut self, key: &str, values: &[u32]) -> &mut Self {
        let values = values.iter().map(|&v| Value::U32(v));
        self.put_all(key, ValueType::U32, values)
    }

    /// Puts an array of i32.
    pub fn put_i32s(&mut self, key: &str, values: &[i32]) -> &mut Self {
        let values = values.iter().map(|&v| Value::I32(v));
        self.put_all(key, ValueType::I32, values)
    }

    /// Puts an array of f32.
    pub fn put_f32s(&mut self, key: &str, values: &[f32]) -> &mut Self {
        let values = values.iter().map(|&v| Value::F32(v));
        self.put_all(key, ValueType::F32, values)
    }

    /// Puts an array of booleans.
    pub fn put_bools(&mut self, key: &str, values: &[bool]) -> &mut Self {
        let values = values.iter().map(|&v| Value::Bool(v));
        self.put_all(key, ValueType::Bool, values)
    }

    fn put_all<'a>(
        &mut self,
        key: &str,
        kind: ValueType,
        values: impl ExactSizeIterator<Item = Value<'a>>,
    ) -> &mut Self {
        self.start(key, ValueType::Array);
        self.bytes.extend((kind as u32).to_le_bytes());
        self.bytes.extend((values.len() as u64).to_le_bytes());
        for value in values {
            put_value(&mut self.bytes, value);
        }
        self
    }

    fn start(&mut self, key: &str, kind: ValueType) {
        if !self.names.insert(key.to_string()) {
            self.note(key, "it is there twice");
        }
        put_string(&mut self.bytes, key.as_bytes());
        self.bytes.extend((kind as u32).to_le_bytes());
    }

    /// The first problem is the one that the writer reports.
    fn note(&mut self, key: &str, problem: &'static str) {
        self.problem.get_or_insert((key.to_string(), problem));
    }
}

fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}

fn put_value(out: &mut Vec<u8>, value: Value<'_>) {
    match value {
        Value::U8(v) => out.extend(v.to_le_bytes()),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(v.into()),
        Value::Str(text) => put_string(out, text),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
        Value::Array(array) => {
            out.extend((array.kind as u32).to_le_bytes());
            out.extend((array.len as u64).to_le_bytes());
            out.extend(array.bytes);
        }
    }
}

/// Writes a GGUF file tensor by tensor, so that a model larger than memory can be written.
///
/// The file is written beside its place under a temporary name, and [`finish`](Self::finish)
/// renames it; a writer that is dropped before leaves nothing behind.
#[derive(Debug)]
pub struct GgufWriter {
    out: Replacement,
    alignment: u64,
    /// What is still to come: name, bytes left.
    pending: VecDeque<(String, u64)>,
    /// Bytes of data so far.
    position: u64,
}

impl GgufWriter {
    /// Writes the header. `tensors` are name, type and shape (outermost dimension first), in the
    /// order in which their bytes will come.
    ///
    /// Errors: [`Error::BadKey`], [`Error::BadTensor`] for what GGUF cannot hold,
    /// [`Error::Unwritable`] for everything the system refuses.
    pub fn create(
        path: &Path,
        keys: &GgufKeys,
        tensors: &[(&str, StoredType, &[usize])],
    ) -> Result<Self> {
        if let Some((key, problem)) = &keys.problem {
            return Err(Error::BadKey {
                key: excerpt(key, 120),
                problem: (*problem).to_string(),
            });
        }
        let alignment = keys.alignment.unwrap_or(DEFAULT_ALIGNMENT);
        let mut header = b"GGUF".to_vec();
        header.extend(3u32.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((keys.names.len() as u64).to_le_bytes());
        header.extend(&keys.bytes);
        let mut names = BTreeSet::new();
        let mut pending = VecDeque::new();
        let mut offset = 0u64;
        for &(name, stored, shape) in tensors {
            if !names.insert(name) {
                return Err(bad(name, "the name is taken; names must differ"));
            }
            let bytes = put_tensor(&mut header, name, stored, shape, offset)?;
            offset = offset
                .checked_add(bytes)
                .and_then(|end| end.checked_next_multiple_of(alignment))
                .ok_or_else(|| bad(name, "the file would be too large"))?;
            pending.push_back((name.to_string(), bytes));
        }
        header.resize(header.len().next_multiple_of(alignment as usize), 0);
        let mut out = Replacement::create(path)?;
        out.write(&header)?;
        Ok(Self {
            out,
            alignment,
            pending,
            position: 0,
        })
    }

    /// Writes the next bytes of the next tensor: all of them, or as many rows as there are now.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some((name, left)) = self.pending.front_mut() else {
            return Err(bad("?", "all tensors have been written"));
        };
        let Some(rest) = left.checked_sub(bytes.len() as u64) else {
            let problem = format!("{} bytes were given, {left} are left of it", bytes.len());
            return Err(bad(name, &problem));
        };
        *left = rest;
        self.out.write(bytes)?;
        self.position += bytes.len() as u64;
        if rest == 0 {
            self.pending.pop_front();
            let padded = self.position.next_multiple_of(self.alignment);
            // Less than the alignment, which is small.
            self.out
                .write(&vec![0; (padded - self.position) as usize])?;
            self.position = padded;
        }
        Ok(())
    }

    /// Puts the file in its place once every tensor has been written.
    pub fn finish(self) -> Result<()> {
        if let Some((name, left)) = self.pending.front() {
            return Err(bad(name, &format!("{left} bytes of it were not given")));
        }
        self.out.commit()
    }
}

fn put_tensor(
    header: &mut Vec<u8>,
    name: &str,
    stored: StoredType,
    shape: &[usize],
    offset: u64,
) -> Result<u64> {
    let Some(number) = types::number_of(stored) else {
        return Err(bad(name, &format!("GGUF has no type for {stored}")));
    };
    if shape.len() > 4 || shape.contains(&0) {
        return Err(bad(name, "GGUF has up to 4 dimensions, none of them 0"));
    }
    let Some(bytes) = stored.bytes_for(shape) else {
        let problem = format!(
            "its last dimension is not a multiple of {}, as {stored} needs, or its size overflows",
            stored.block_elements()
        );
        return Err(bad(name, &problem));
    };
    put_string(header, name.as_bytes());
    header.extend((shape.len() as u32).to_le_bytes());
    for &dim in shape.iter().rev() {
        header.extend((dim as u64).to_le_bytes());
    }
    header.extend(number.to_le_bytes());
    header.extend(offset.to_le_bytes());
    Ok(bytes)
}

fn bad(tensor: &str, problem: &str) -> Error {
    Error::BadTensor {
        tensor: excerpt(tensor, 120),
        problem: problem.to_string(),
    }
}

/// Writes a GGUF file whose tensors are all in memory; see [`GgufWriter`].
pub fn write_gguf(path: &Path, keys: &GgufKeys, tensors: &[TensorToWrite<'_>]) -> Result<()> {
    let infos = tensors
        .iter()
        .map(|&(name, stored, shape, _)| (name, stored, shape));
    let infos: Vec<_> = infos.collect();
    let mut writer = GgufWriter::create(path, keys, &infos)?;
    for &(name, stored, shape, bytes) in tensors {
        if stored.bytes_for(shape) != Some(bytes.len() as u64) {
            let problem = format!("{} bytes were given for {stored} {shape:?}", bytes.len());
            return Err(bad(name, &problem));
        }
        writer.write(bytes)?;
    }
    writer.finish()
}
