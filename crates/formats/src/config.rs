//! Checked access to the fields of a JSON configuration.

use std::ops::RangeInclusive;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result, excerpt};

/// Largest value that any dimension, vocabulary included, may have.
pub const MAX_DIM: usize = 1 << 24;
/// Most layers that a model may have.
pub const MAX_LAYERS: usize = 4096;

/// A JSON object and the file it came from. Every getter checks type and range, and its error
/// names the file, the field (with the path of nested objects), the value found and what was
/// wanted. A field that is `null` counts as absent.
#[derive(Debug, Clone)]
pub struct ConfigView<'a> {
    map: &'a Map<String, Value>,
    file: &'a Path,
    prefix: String,
}

impl<'a> ConfigView<'a> {
    /// Views `value`, read from `file`. Error: not an object.
    pub fn new(value: &'a Value, file: &'a Path) -> Result<Self> {
        match value {
            Value::Object(map) => Ok(Self {
                map,
                file,
                prefix: String::new(),
            }),
            other => Err(Error::json(
                file,
                format!("it holds {}, wanted an object", shown(other)),
            )),
        }
    }

    /// The file that the fields come from.
    pub fn file(&self) -> &'a Path {
        self.file
    }

    /// The raw value of a field that is there and not null.
    pub fn get(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|v| !v.is_null())
    }

    /// Whether a field is there and not null.
    pub fn has(&self, field: &str) -> bool {
        self.get(field).is_some()
    }

    /// A dimension or count: an integer from 1 to [`MAX_DIM`].
    pub fn usize(&self, field: &str) -> Result<usize> {
        self.usize_in(field, 1..=MAX_DIM)
    }

    /// Like [`usize`](Self::usize), or `None` when absent.
    pub fn opt_usize(&self, field: &str) -> Result<Option<usize>> {
        self.opt_usize_in(field, 1..=MAX_DIM)
    }

    /// A number of layers: an integer from 1 to [`MAX_LAYERS`].
    pub fn layers(&self, field: &str) -> Result<usize> {
        self.usize_in(field, 1..=MAX_LAYERS)
    }

    /// An integer in `range`.
    pub fn usize_in(&self, field: &str, range: RangeInclusive<usize>) -> Result<usize> {
        self.required(
            field,
            &whole(&range),
            self.opt_usize_in(field, range.clone())?,
        )
    }

    /// An integer in `range`, or `None` when absent.
    pub fn opt_usize_in(&self, field: &str, range: RangeInclusive<usize>) -> Result<Option<usize>> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        value
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| range.contains(n))
            .map(Some)
            .ok_or_else(|| self.invalid(field, &whole(&range)))
    }

    /// A finite number.
    pub fn f64(&self, field: &str) -> Result<f64> {
        self.required(field, "a finite number", self.opt_f64(field)?)
    }

    /// A finite number, or `None` when absent.
    pub fn opt_f64(&self, field: &str) -> Result<Option<f64>> {
        self.number(field, "a finite number", |_| true)
    }

    /// A finite number above 0, such as an epsilon, a base or a scale.
    pub fn positive_f64(&self, field: &str) -> Result<f64> {
        self.required(field, ABOVE_ZERO, self.opt_positive_f64(field)?)
    }

    /// A finite number above 0, or `None` when absent.
    pub fn opt_positive_f64(&self, field: &str) -> Result<Option<f64>> {
        self.number(field, ABOVE_ZERO, |x| x > 0.0)
    }

    /// A number in `range`, or `None` when absent.
    pub fn opt_f64_in(&self, field: &str, range: RangeInclusive<f64>) -> Result<Option<f64>> {
        let wanted = format!("a number from {} to {}", range.start(), range.end());
        self.number(field, &wanted, |x| range.contains(&x))
    }

    /// `true` or `false`.
    pub fn bool(&self, field: &str) -> Result<bool> {
        self.required(field, "true or false", self.opt_bool(field)?)
    }

    /// `true` or `false`, or `None` when absent.
    pub fn opt_bool(&self, field: &str) -> Result<Option<bool>> {
        self.typed(field, "true or false", Value::as_bool)
    }

    /// A string.
    pub fn str(&self, field: &str) -> Result<&'a str> {
        self.required(field, "a string", self.opt_str(field)?)
    }

    /// A string, or `None` when absent.
    pub fn opt_str(&self, field: &str) -> Result<Option<&'a str>> {
        self.typed(field, "a string", Value::as_str)
    }

    /// A nested object.
    pub fn object(&self, field: &str) -> Result<ConfigView<'a>> {
        self.required(field, "an object", self.opt_object(field)?)
    }

    /// A nested object, or `None` when absent.
    pub fn opt_object(&self, field: &str) -> Result<Option<ConfigView<'a>>> {
        let map = self.typed(field, "an object", Value::as_object)?;
        Ok(map.map(|map| ConfigView {
            map,
            file: self.file,
            prefix: format!("{}{}.", self.prefix, excerpt(field, 60)),
        }))
    }

    /// A list of strings, or `None` when absent.
    pub fn opt_strs(&self, field: &str) -> Result<Option<Vec<&'a str>>> {
        self.list(field, "a list of strings", Value::as_str)
    }

    /// A list of integers in `range` (a lone integer counts as a list of one), or `None` when
    /// absent.
    pub fn opt_usizes_in(
        &self,
        field: &str,
        range: RangeInclusive<usize>,
    ) -> Result<Option<Vec<usize>>> {
        let wanted = format!(
            "a list of integers from {} to {}",
            range.start(),
            range.end()
        );
        let pick = |v: &Value| {
            let n = usize::try_from(v.as_u64()?).ok()?;
            range.contains(&n).then_some(n)
        };
        match self.get(field) {
            Some(Value::Number(_)) => self.typed(field, &wanted, pick).map(|n| n.map(|n| vec![n])),
            _ => self.list(field, &wanted, pick),
        }
    }

    /// A list of finite numbers, or `None` when absent.
    pub fn opt_f64s(&self, field: &str) -> Result<Option<Vec<f64>>> {
        self.list(field, "a list of finite numbers", |v| {
            v.as_f64().filter(|x| x.is_finite())
        })
    }

    /// The error for a field whose value a caller finds unusable for a reason of its own.
    pub fn invalid(&self, field: &str, wanted: &str) -> Error {
        Error::FieldInvalid {
            path: self.file.to_path_buf(),
            field: self.full_name(field),
            found: self.map.get(field).map_or("absent".into(), shown),
            wanted: wanted.to_string(),
        }
    }

    fn full_name(&self, field: &str) -> String {
        format!("{}{}", self.prefix, excerpt(field, 60))
    }

    fn required<T>(&self, field: &str, wanted: &str, found: Option<T>) -> Result<T> {
        found.ok_or_else(|| Error::FieldMissing {
            path: self.file.to_path_buf(),
            field: self.full_name(field),
            wanted: wanted.to_string(),
        })
    }

    fn typed<T>(
        &self,
        field: &str,
        wanted: &str,
        pick: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => pick(value)
                .map(Some)
                .ok_or_else(|| self.invalid(field, wanted)),
        }
    }

    fn list<T>(
        &self,
        field: &str,
        wanted: &str,
        pick: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        self.typed(field, wanted, |v| v.as_array()?.iter().map(&pick).collect())
    }

    fn number(&self, field: &str, wanted: &str, fits: impl Fn(f64) -> bool) -> Result<Option<f64>> {
        self.typed(field, wanted, |v| {
            v.as_f64().filter(|&x| x.is_finite() && fits(x))
        })
    }
}

const ABOVE_ZERO: &str = "a finite number above 0";

fn whole(range: &RangeInclusive<usize>) -> String {
    format!("an integer from {} to {}", range.start(), range.end())
}

fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) => format!("the list {}", excerpt(&value.to_string(), 60)),
        Value::Object(_) => "an object".into(),
        other => excerpt(&other.to_string(), 60),
    }
}

/// Reads a whole file that may not be larger than `limit` bytes.
pub(crate) fn read_limited(path: &Path, kind: &'static str, limit: u64) -> Result<Vec<u8>> {
    use std::io::Read;

    let file = std::fs::File::open(path).map_err(|e| Error::io("open", path, e))?;
    let meta = file.metadata().map_err(|e| Error::io("read", path, e))?;
    if !meta.is_file() {
        let e = std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is not a regular file");
        return Err(Error::io("read", path, e));
    }
    if meta.len() > limit {
        return Err(Error::TooLarge {
            kind,
            path: path.to_path_buf(),
            bytes: meta.len(),
            limit,
        });
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize);
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::io("read", path, e))?;
    Ok(bytes)
}

/// Parses JSON read from `path`. Python writes NaN and Infinity into JSON, which JSON does not
/// have: those are named in the error rather than reported as a syntax error.
pub(crate) fn parse_json(path: &Path, text: &[u8]) -> Result<Value> {
    serde_json::from_slice(text).map_err(|e| {
        let problem = match non_finite_at(text, &e) {
            Some((literal, Some(field))) => {
                format!("field `{field}` is {literal}, which is not JSON; write a finite number")
            }
            Some((literal, None)) => {
                format!(
                    "line {} has {literal}, which is not JSON; write a finite number",
                    e.line()
                )
            }
            None => excerpt(&e.to_string(), 200),
        };
        Error::json(path, problem)
    })
}

/// The NaN-like literal on which the parser stopped, and the field it belongs to.
fn non_finite_at(text: &[u8], error: &serde_json::Error) -> Option<(&'static str, Option<String>)> {
    let line_start = match error.line() {
        0 | 1 => 0,
        n => {
            text.iter()
                .enumerate()
                .filter(|(_, b)| **b == b'\n')
                .nth(n - 2)?
                .0
                + 1
        }
    };
    // The parser may stop on the literal's first byte or one past it.
    let stop = (line_start + error.column()).min(text.len());
    let lead = |b: &u8| b.is_ascii_alphabetic() || *b == b'-';
    let run = text[..stop].iter().rev().take_while(|b| lead(b)).count();
    let start = stop - run;
    let literal = ["NaN", "Infinity", "-Infinity", "-NaN"]
        .into_iter()
        .find(|l| text[start..].starts_with(l.as_bytes()))?;
    let before = text[..start].trim_ascii_end();
    let field = before.strip_suffix(b":").and_then(|before| {
        let before = before.trim_ascii_end().strip_suffix(b"\"")?;
        let open = before.iter().rposition(|b| *b == b'"')?;
        Some(excerpt(&String::from_utf8_lossy(&before[open + 1..]), 60))
    });
    Some((literal, field))
}
