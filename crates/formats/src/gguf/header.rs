//! Header of one GGUF file: parse, then check every claim against the bytes that exist.
//!
//! Layout: `GGUF`, version (u32), number of tensors (u64), number of keys (u64); the keys with
//! their values; for each tensor its name, dimensions (innermost first), type and place; padding;
//! the data. All numbers are little endian.

use std::collections::BTreeMap;

use super::problem::GgufProblem;
use super::reader::Cursor;
use super::types;
use super::value::{Value, ValueType, read, read_kind};
use crate::dtype::StoredType;
use crate::error::excerpt;

/// Most dimensions of a tensor in ggml.
const MAX_RANK: usize = 4;

/// Where data starts and tensors lie when `general.alignment` is absent.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// A checked header.
#[derive(Debug, Clone)]
pub struct GgufHeader {
    /// 2 or 3.
    pub version: u32,
    /// A power of two.
    pub alignment: u64,
    /// Where the data starts, counted from the start of the file.
    pub data_start: u64,
    /// Tensors by name.
    pub tensors: BTreeMap<String, GgufTensor>,
    pub(super) keys: BTreeMap<String, Place>,
}

/// One checked tensor of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensor {
    pub stored: StoredType,
    /// Dimensions, outermost first, none of them 0: the reverse of the file's order.
    pub shape: Vec<usize>,
    /// First byte, counted from the start of the file.
    pub offset: u64,
    /// Length in bytes, equal to what type and shape need.
    pub bytes: u64,
}

/// Where a key's value lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub kind: ValueType,
    pub at: usize,
}

/// Parses and checks the header of a whole GGUF file, given its bytes.
///
/// What is returned lies inside `file`, has the size that its shape and type need, is aligned, and
/// overlaps nothing else. Memory use is bounded by the header bytes that are really there.
pub fn parse_gguf(file: &[u8]) -> Result<GgufHeader, GgufProblem> {
    let mut cursor = Cursor::new(file, 0);
    let version = read_magic(&mut cursor)?;
    let tensor_count = cursor.u64("the number of tensors")?;
    let key_count = cursor.u64("the number of keys")?;
    // A key takes at least its length, a value type and one byte; a tensor its length, rank, type
    // and offset.
    cursor.check_count(key_count, 8 + 4 + 1, "the keys")?;
    cursor.check_count(tensor_count, 8 + 4 + 4 + 8, "the tensors")?;

    let mut keys = BTreeMap::new();
    let mut alignment = DEFAULT_ALIGNMENT;
    for n in 0..key_count {
        let key = name(&mut cursor, || format!("key {n}"))?;
        let shown = shown(&key);
        let kind = read_kind(&mut cursor, &shown)?;
        let at = cursor.at();
        let value = read(&mut cursor, kind, 0, &shown)?;
        if key == "general.alignment" {
            alignment = check_alignment(value)?;
        }
        if keys.insert(key, Place { kind, at }).is_some() {
            return Err(GgufProblem::DuplicateKey(shown));
        }
    }

    let mut claims = BTreeMap::new();
    for n in 0..tensor_count {
        let tensor = name(&mut cursor, || format!("tensor {n}"))?;
        let claim = read_claim(&mut cursor, &shown(&tensor), alignment)?;
        if claims.contains_key(&tensor) {
            return Err(GgufProblem::DuplicateTensor(shown(&tensor)));
        }
        claims.insert(tensor, claim);
    }
    let header_end = cursor.at() as u64;
    let data_start = header_end
        .checked_next_multiple_of(alignment)
        .ok_or_else(|| GgufProblem::BadAlignment(alignment.to_string()))?;
    let available = (file.len() as u64).saturating_sub(data_start);
    check_layout(&claims, available)?;
    for claim in claims.values_mut() {
        // In range: it ends within the file.
        claim.offset += data_start;
    }
    Ok(GgufHeader {
        version,
        alignment,
        data_start,
        tensors: claims,
        keys,
    })
}

fn read_magic(cursor: &mut Cursor<'_>) -> Result<u32, GgufProblem> {
    let magic = cursor.take(4, "the first four bytes")?;
    // Formats before GGUF wrote the same letters as a number, hence backwards.
    let older = [
        (b"lmgg", "ggml"),
        (b"fmgg", "ggmf"),
        (b"tjgg", "ggjt"),
        (b"algg", "ggla"),
    ];
    if let Some((_, name)) = older.iter().find(|(m, _)| magic == *m) {
        return Err(GgufProblem::OlderFormat(name));
    }
    if magic != b"GGUF" {
        let start = magic.escape_ascii().to_string();
        return Err(GgufProblem::NotGguf(format!("`{start}`")));
    }
    let version = cursor.u32("the version")?;
    match version {
        2 | 3 => Ok(version),
        v if (1..=16).contains(&v.swap_bytes()) => Err(GgufProblem::BigEndian),
        v => Err(GgufProblem::Version(v)),
    }
}

fn name(cursor: &mut Cursor<'_>, what: impl Fn() -> String) -> Result<String, GgufProblem> {
    let start = *cursor;
    let bytes = cursor.string("").or_else(|_| {
        // Only an error needs to be told what it is about.
        let mut again = start;
        again.string(&format!("the name of {}", what()))
    })?;
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_string()),
        Err(_) => Err(GgufProblem::NameNotText(what())),
    }
}

fn check_alignment(value: Value<'_>) -> Result<u64, GgufProblem> {
    value
        .as_u64()
        .filter(|a| a.is_power_of_two())
        .ok_or_else(|| GgufProblem::BadAlignment(value.to_string()))
}

/// A tensor's entry; the offset is still counted from the start of the data.
fn read_claim(
    cursor: &mut Cursor<'_>,
    tensor: &str,
    alignment: u64,
) -> Result<GgufTensor, GgufProblem> {
    let what = || format!("the entry of tensor `{tensor}`");
    let rank = cursor.u32(&what())?;
    if rank as usize > MAX_RANK {
        return Err(GgufProblem::TooManyDimensions {
            tensor: tensor.to_string(),
            found: rank,
            limit: MAX_RANK,
        });
    }
    let mut dims = [0u64; MAX_RANK];
    for dim in &mut dims[..rank as usize] {
        *dim = cursor.u64(&what())?;
    }
    let dims = &dims[..rank as usize];
    let number = cursor.u32(&what())?;
    let offset = cursor.u64(&what())?;
    let stored = types::from_number(number).ok_or_else(|| GgufProblem::UnknownType {
        tensor: tensor.to_string(),
        number,
        name: types::unread_name(number),
        known: types::known(),
    })?;
    let bad_shape = |reason: String| GgufProblem::BadShape {
        tensor: tensor.to_string(),
        shape: format!("{dims:?}"),
        reason,
    };
    if dims.contains(&0) {
        return Err(bad_shape("a dimension is 0".into()));
    }
    let block = stored.block_elements();
    if !dims.first().unwrap_or(&1).is_multiple_of(block as u64) {
        return Err(bad_shape(format!(
            "the first is not a multiple of {block}, as {stored} needs"
        )));
    }
    let overflows = || bad_shape("its size overflows".into());
    let shape = dims
        .iter()
        .rev()
        .map(|&d| usize::try_from(d))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| overflows())?;
    let bytes = stored.bytes_for(&shape).ok_or_else(overflows)?;
    if !offset.is_multiple_of(alignment) {
        return Err(GgufProblem::Misaligned {
            tensor: tensor.to_string(),
            offset,
            alignment,
        });
    }
    Ok(GgufTensor {
        stored,
        shape,
        offset,
        bytes,
    })
}

/// Every tensor lies inside the data, and none of them on another.
fn check_layout(claims: &BTreeMap<String, GgufTensor>, available: u64) -> Result<(), GgufProblem> {
    let mut order: Vec<(&String, &GgufTensor)> = claims.iter().collect();
    order.sort_by_key(|(_, t)| t.offset);
    let (mut covered, mut previous) = (0, "");
    for (name, tensor) in order {
        let end = tensor.offset.checked_add(tensor.bytes);
        let Some(end) = end.filter(|&end| end <= available) else {
            return Err(GgufProblem::OutOfRange {
                tensor: shown(name),
                end: end.unwrap_or(u64::MAX),
                available,
            });
        };
        if tensor.offset < covered {
            return Err(GgufProblem::Overlap {
                first: shown(previous),
                second: shown(name),
                at: tensor.offset,
            });
        }
        (covered, previous) = (end, name);
    }
    Ok(())
}

fn shown(name: &str) -> String {
    excerpt(name, 120)
}
