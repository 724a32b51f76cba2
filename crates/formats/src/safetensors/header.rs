//! Header of one safetensors file: parse, then check every claim against the bytes that exist.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use crate::dtype::StoredType;
use crate::error::{HeaderProblem, excerpt};

/// Longest header that is read. Those of the largest public checkpoints are a few MiB.
pub const MAX_HEADER_BYTES: u64 = 100 << 20;

/// Most dimensions that a tensor may have.
const MAX_RANK: usize = 8;

/// One checked tensor of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderEntry {
    pub stored: StoredType,
    /// Dimensions, outermost first, none of them 0.
    pub shape: Vec<usize>,
    /// First byte, counted from the start of the file.
    pub offset: u64,
    /// Length in bytes, equal to what type and shape need.
    pub bytes: u64,
}

/// Parses and checks the header of a whole safetensors file, given its bytes.
///
/// What is returned lies inside `file`, has the size its shape and type need, and overlaps
/// nothing else. Memory use is bounded by the header bytes that are really there.
pub fn parse_header(file: &[u8]) -> Result<BTreeMap<String, HeaderEntry>, HeaderProblem> {
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(HeaderProblem::TooShort(file.len() as u64));
    };
    let claimed = u64::from_le_bytes(*length);
    let available = rest.len() as u64;
    if claimed > available {
        return Err(HeaderProblem::HeaderBeyondFile { claimed, available });
    }
    if claimed > MAX_HEADER_BYTES {
        return Err(HeaderProblem::HeaderTooLarge {
            claimed,
            limit: MAX_HEADER_BYTES,
        });
    }
    // In range of usize: it is at most rest.len().
    let (json, data) = rest.split_at(claimed as usize);
    let not_json =
        |e: &dyn fmt::Display| HeaderProblem::HeaderNotJson(excerpt(&e.to_string(), 200));
    let json = std::str::from_utf8(json).map_err(|e| not_json(&e))?;
    let raw: RawHeader = serde_json::from_str(json).map_err(|e| not_json(&e))?;
    check(raw, 8 + claimed, data.len() as u64)
}

fn check(
    raw: RawHeader,
    data_start: u64,
    data_len: u64,
) -> Result<BTreeMap<String, HeaderEntry>, HeaderProblem> {
    let mut entries = BTreeMap::new();
    for (name, tensor) in raw.tensors {
        let entry = check_one(&name, tensor, data_start, data_len)?;
        if entries.insert(name.clone(), entry).is_some() {
            return Err(HeaderProblem::DuplicateTensor(shown(&name)));
        }
    }
    check_layout(&entries, data_start, data_len)?;
    Ok(entries)
}

fn check_one(
    name: &str,
    raw: RawTensor,
    data_start: u64,
    data_len: u64,
) -> Result<HeaderEntry, HeaderProblem> {
    let Some(stored) = StoredType::from_safetensors_name(&raw.dtype) else {
        let known: Vec<_> = StoredType::ALL
            .iter()
            .filter_map(|t| t.safetensors_name())
            .collect();
        return Err(HeaderProblem::UnknownDtype {
            tensor: shown(name),
            dtype: excerpt(&raw.dtype, 40),
            known: known.join(", "),
        });
    };
    let bad_shape = |reason| HeaderProblem::BadShape {
        tensor: shown(name),
        shape: excerpt(&format!("{:?}", raw.shape), 80),
        reason,
    };
    if raw.shape.len() > MAX_RANK {
        return Err(bad_shape("it has more than 8 dimensions"));
    }
    if raw.shape.contains(&0) {
        return Err(bad_shape("a dimension is 0"));
    }
    let shape = raw
        .shape
        .iter()
        .map(|&d| usize::try_from(d))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| bad_shape("its size overflows"))?;
    let needed = stored
        .bytes_for(&shape)
        .ok_or_else(|| bad_shape("its size overflows"))?;
    let (begin, end) = raw.data_offsets;
    if begin > end {
        return Err(HeaderProblem::OffsetsReversed {
            tensor: shown(name),
            begin,
            end,
        });
    }
    if end > data_len {
        return Err(HeaderProblem::OutOfRange {
            tensor: shown(name),
            end,
            available: data_len,
        });
    }
    if end - begin != needed {
        return Err(HeaderProblem::WrongSize {
            tensor: shown(name),
            needed,
            span: end - begin,
        });
    }
    Ok(HeaderEntry {
        stored,
        shape,
        offset: data_start + begin,
        bytes: needed,
    })
}

/// The data must be covered exactly once: nothing shared, nothing left over.
fn check_layout(
    entries: &BTreeMap<String, HeaderEntry>,
    data_start: u64,
    data_len: u64,
) -> Result<(), HeaderProblem> {
    let mut order: Vec<(&String, &HeaderEntry)> = entries.iter().collect();
    order.sort_by_key(|(_, e)| e.offset);
    let mut covered = data_start;
    let mut previous = "";
    for (name, entry) in order {
        if entry.offset < covered {
            return Err(HeaderProblem::Overlap {
                first: shown(previous),
                second: shown(name),
                at: entry.offset - data_start,
            });
        }
        if entry.offset > covered {
            return Err(HeaderProblem::Hole {
                begin: covered - data_start,
                end: entry.offset - data_start,
            });
        }
        covered = entry.offset + entry.bytes;
        previous = name;
    }
    if covered != data_start + data_len {
        return Err(HeaderProblem::Hole {
            begin: covered - data_start,
            end: data_len,
        });
    }
    Ok(())
}

fn shown(name: &str) -> String {
    excerpt(name, 120)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The header's entries in file order, so that repeated names are still visible.
struct RawHeader {
    tensors: Vec<(String, RawTensor)>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;

        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut tensors = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<BTreeMap<String, String>>()?;
                        continue;
                    }
                    let tensor = map.next_value().map_err(|e| {
                        A::Error::custom(format_args!("tensor `{}`: {e}", shown(&name)))
                    })?;
                    tensors.push((name, tensor));
                }
                Ok(RawHeader { tensors })
            }
        }

        deserializer.deserialize_map(HeaderVisitor)
    }
}
