//! Metadata values as they lie in the file.

use std::fmt;

use super::problem::GgufProblem;
use super::reader::Cursor;
use crate::error::excerpt;

/// Deepest nesting of arrays that is read; real files have none.
pub const MAX_DEPTH: usize = 4;

/// The type of a metadata value; the numbers are the file format's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    Str = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::Str,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    pub(super) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// The fewest bytes that a value takes; exact but for strings and arrays.
    const fn least_bytes(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
            Self::Str => 8,
            Self::Array => 12,
        }
    }
}

/// A metadata value. Strings are bytes because nothing makes a file's strings UTF-8.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(&'a [u8]),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> Value<'a> {
    /// A whole number of any type that is not negative.
    pub fn as_u64(self) -> Option<u64> {
        match self {
            Self::U8(v) => Some(v.into()),
            Self::U16(v) => Some(v.into()),
            Self::U32(v) => Some(v.into()),
            Self::U64(v) => Some(v),
            Self::I8(v) => v.try_into().ok(),
            Self::I16(v) => v.try_into().ok(),
            Self::I32(v) => v.try_into().ok(),
            Self::I64(v) => v.try_into().ok(),
            _ => None,
        }
    }

    /// A number of any type.
    pub fn as_f64(self) -> Option<f64> {
        match self {
            Self::F32(v) => Some(v.into()),
            Self::F64(v) => Some(v),
            Self::I8(v) => Some(v.into()),
            Self::I16(v) => Some(v.into()),
            Self::I32(v) => Some(v.into()),
            Self::I64(v) => Some(v as f64),
            other => other.as_u64().map(|v| v as f64),
        }
    }

    /// A string that is UTF-8.
    pub fn as_str(self) -> Option<&'a str> {
        match self {
            Self::Str(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    pub fn as_bool(self) -> Option<bool> {
        match self {
            Self::Bool(v) => Some(v),
            _ => None,
        }
    }

    pub fn as_array(self) -> Option<Array<'a>> {
        match self {
            Self::Array(array) => Some(array),
            _ => None,
        }
    }

    pub fn kind(self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::Str(_) => ValueType::Str,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }
}

/// A line at most: long strings and arrays are cut.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::U8(v) => v.fmt(f),
            Self::I8(v) => v.fmt(f),
            Self::U16(v) => v.fmt(f),
            Self::I16(v) => v.fmt(f),
            Self::U32(v) => v.fmt(f),
            Self::I32(v) => v.fmt(f),
            Self::F32(v) => v.fmt(f),
            Self::Bool(v) => v.fmt(f),
            Self::U64(v) => v.fmt(f),
            Self::I64(v) => v.fmt(f),
            Self::F64(v) => v.fmt(f),
            Self::Str(bytes) => {
                let start = &bytes[..bytes.len().min(400)];
                write!(f, "\"{}\"", excerpt(&String::from_utf8_lossy(start), 80))
            }
            Self::Array(array) => {
                write!(f, "{} of {:?} [", array.len(), array.kind())?;
                for (i, value) in array.iter().take(4).enumerate() {
                    write!(f, "{}{value}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str(if array.len() > 4 { ", …]" } else { "]" })
            }
        }
    }
}

/// Values of one type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Array<'a> {
    pub(super) kind: ValueType,
    pub(super) len: usize,
    /// The values as the file has them.
    pub(super) bytes: &'a [u8],
}

impl<'a> Array<'a> {
    pub fn kind(self) -> ValueType {
        self.kind
    }

    pub fn len(self) -> usize {
        self.len
    }

    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The values in order.
    pub fn iter(self) -> Values<'a> {
        Values {
            kind: self.kind,
            left: self.len,
            cursor: Cursor::new(self.bytes, 0),
        }
    }
}

/// The values of an [`Array`], decoded as they are asked for.
#[derive(Debug, Clone)]
pub struct Values<'a> {
    kind: ValueType,
    left: usize,
    cursor: Cursor<'a>,
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.left = self.left.checked_sub(1)?;
        // It was checked when the file was opened.
        read(&mut self.cursor, self.kind, 0, "").ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // Not longer than what the bytes can hold, whoever made the array.
        let most = self.cursor.left() / self.kind.least_bytes();
        let n = self.left.min(most as usize);
        (n, Some(n))
    }
}

/// Reads and checks a value of `kind` that belongs to `key`.
pub(super) fn read<'a>(
    cursor: &mut Cursor<'a>,
    kind: ValueType,
    depth: usize,
    key: &str,
) -> Result<Value<'a>, GgufProblem> {
    if kind == ValueType::Str {
        return cursor.string(key).map(Value::Str);
    }
    if kind == ValueType::Array {
        return read_array(cursor, depth, key).map(Value::Array);
    }
    let bytes = cursor.take(kind.least_bytes(), key)?;
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    // Little endian: the narrow number is the low bytes of the wide one.
    let bits = u64::from_le_bytes(wide);
    Ok(match kind {
        ValueType::U8 => Value::U8(bits as u8),
        ValueType::I8 => Value::I8(bits as i8),
        ValueType::U16 => Value::U16(bits as u16),
        ValueType::I16 => Value::I16(bits as i16),
        ValueType::U32 => Value::U32(bits as u32),
        ValueType::I32 => Value::I32(bits as i32),
        ValueType::F32 => Value::F32(f32::from_bits(bits as u32)),
        ValueType::Bool => Value::Bool(check_bool(bits as u8, key)?),
        ValueType::U64 => Value::U64(bits),
        ValueType::I64 => Value::I64(bits as i64),
        ValueType::F64 | ValueType::Str | ValueType::Array => Value::F64(f64::from_bits(bits)),
    })
}

fn read_array<'a>(
    cursor: &mut Cursor<'a>,
    depth: usize,
    key: &str,
) -> Result<Array<'a>, GgufProblem> {
    if depth == MAX_DEPTH {
        return Err(GgufProblem::TooDeep {
            key: key.to_string(),
            limit: MAX_DEPTH,
        });
    }
    let kind = read_kind(cursor, key)?;
    let len = cursor.count(kind.least_bytes(), key)?;
    let mut rest = *cursor;
    match kind {
        ValueType::Str | ValueType::Array => {
            for _ in 0..len {
                read(&mut rest, kind, depth + 1, key)?;
            }
        }
        _ => {
            // No overflow: the count was checked against the bytes that are left.
            let bytes = rest.take(len * kind.least_bytes(), key)?;
            if kind == ValueType::Bool {
                for &byte in bytes {
                    check_bool(byte, key)?;
                }
            }
        }
    }
    let bytes = cursor.take((rest.at() - cursor.at()) as u64, key)?;
    Ok(Array {
        kind,
        len: len as usize,
        bytes,
    })
}

pub(super) fn read_kind(cursor: &mut Cursor<'_>, key: &str) -> Result<ValueType, GgufProblem> {
    let number = cursor.u32(key)?;
    ValueType::from_number(number).ok_or_else(|| GgufProblem::UnknownValueType {
        key: key.to_string(),
        number,
    })
}

fn check_bool(byte: u8, key: &str) -> Result<bool, GgufProblem> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        byte => Err(GgufProblem::BadBool {
            key: key.to_string(),
            byte,
        }),
    }
}
