//! Checked access to the keys of a GGUF file.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use super::header::Place;
use super::reader::Cursor;
use super::value::{Array, Value, read};
use crate::config::{MAX_DIM, MAX_LAYERS};
use crate::error::{Error, Result, excerpt};
use crate::tensors::MappedFile;

/// The keys of a GGUF file, in order; values are decoded as they are asked for.
#[derive(Debug, Clone)]
pub struct Metadata {
    file: Arc<MappedFile>,
    keys: BTreeMap<String, Place>,
    /// Tensors of all parts.
    tensors: usize,
}

impl Metadata {
    pub(super) fn new(
        file: Arc<MappedFile>,
        keys: BTreeMap<String, Place>,
        tensors: usize,
    ) -> Self {
        Self {
            file,
            keys,
            tensors,
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        self.keys.get(key).and_then(|place| self.read(key, *place))
    }

    /// All keys and values in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        let read = |(key, place): (_, &Place)| Some((key, self.read(key, *place)?));
        self.keys
            .iter()
            .map(|(k, p)| (k.as_str(), p))
            .filter_map(read)
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The file that the keys come from.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Typed access to all keys by their full names.
    pub fn view(&self) -> MetadataView<'_> {
        MetadataView {
            metadata: self,
            prefix: String::new(),
        }
    }

    fn read(&self, key: &str, place: Place) -> Option<Value<'_>> {
        let mut cursor = Cursor::new(self.file.bytes(), place.at);
        // It was checked when the file was opened.
        read(&mut cursor, place.kind, 0, key).ok()
    }
}

/// Typed access to keys, the counterpart of [`crate::ConfigView`]: every getter checks type and
/// range, and its error names the file, the key, the value found and what was wanted.
#[derive(Debug, Clone)]
pub struct MetadataView<'a> {
    metadata: &'a Metadata,
    prefix: String,
}

impl<'a> MetadataView<'a> {
    /// Typed access to the keys that start with `name` and a dot, by what follows it.
    pub fn within(&self, name: &str) -> MetadataView<'a> {
        MetadataView {
            metadata: self.metadata,
            prefix: format!("{}{name}.", self.prefix),
        }
    }

    /// The file that the keys come from.
    pub fn file(&self) -> &'a Path {
        self.metadata.path()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        self.metadata.get(&self.full_name(key))
    }

    /// Whether a key is there.
    pub fn has(&self, key: &str) -> bool {
        self.metadata.keys.contains_key(&self.full_name(key))
    }

    /// A dimension or count: a whole number from 1 to [`MAX_DIM`].
    pub fn usize(&self, key: &str) -> Result<usize> {
        self.usize_in(key, 1..=MAX_DIM)
    }

    /// Like [`usize`](Self::usize), or `None` when absent.
    pub fn opt_usize(&self, key: &str) -> Result<Option<usize>> {
        self.opt_usize_in(key, 1..=MAX_DIM)
    }

    /// A number of layers: a whole number from 1 to [`MAX_LAYERS`], and no more than the file has
    /// tensors (if it has any), so that nothing is made for layers that cannot be there.
    pub fn layers(&self, key: &str) -> Result<usize> {
        let range = match self.metadata.tensors {
            0 => 1..=MAX_LAYERS,
            tensors => 1..=MAX_LAYERS.min(tensors),
        };
        let found = self.opt_usize_in(key, range.clone())?;
        self.required(key, &whole(&range), found)
    }

    /// A whole number in `range`.
    pub fn usize_in(&self, key: &str, range: RangeInclusive<usize>) -> Result<usize> {
        let found = self.opt_usize_in(key, range.clone())?;
        self.required(key, &whole(&range), found)
    }

    /// A whole number in `range`, or `None` when absent.
    pub fn opt_usize_in(&self, key: &str, range: RangeInclusive<usize>) -> Result<Option<usize>> {
        self.typed(key, &whole(&range), |v| in_range(v, &range))
    }

    /// Whole numbers in `range`, one for each layer or the like (a lone one counts as a list of
    /// one), or `None` when absent.
    pub fn opt_usizes_in(
        &self,
        key: &str,
        range: RangeInclusive<usize>,
    ) -> Result<Option<Vec<usize>>> {
        let wanted = format!("{}, or a list of them", whole(&range));
        self.list(key, &wanted, |v| in_range(v, &range))
    }

    /// A finite number.
    pub fn f64(&self, key: &str) -> Result<f64> {
        let found = self.opt_f64(key)?;
        self.required(key, FINITE, found)
    }

    /// A finite number, or `None` when absent.
    pub fn opt_f64(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, FINITE, finite)
    }

    /// A finite number above 0, such as an epsilon, a base or a scale.
    pub fn positive_f64(&self, key: &str) -> Result<f64> {
        let found = self.opt_positive_f64(key)?;
        self.required(key, ABOVE_ZERO, found)
    }

    /// A finite number above 0, or `None` when absent.
    pub fn opt_positive_f64(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, ABOVE_ZERO, |v| finite(v).filter(|&x| x > 0.0))
    }

    /// A number in `range`, or `None` when absent.
    pub fn opt_f64_in(&self, key: &str, range: RangeInclusive<f64>) -> Result<Option<f64>> {
        let wanted = format!("a number from {} to {}", range.start(), range.end());
        self.typed(key, &wanted, |v| v.as_f64().filter(|x| range.contains(x)))
    }

    /// Finite numbers (a lone one counts as a list of one), or `None` when absent.
    pub fn opt_f64s(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.list(key, "finite numbers", finite)
    }

    /// `true` or `false`.
    pub fn bool(&self, key: &str) -> Result<bool> {
        let found = self.opt_bool(key)?;
        self.required(key, "true or false", found)
    }

    /// `true` or `false`, or `None` when absent.
    pub fn opt_bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// Booleans (a lone one counts as a list of one), or `None` when absent.
    pub fn opt_bools(&self, key: &str) -> Result<Option<Vec<bool>>> {
        self.list(key, "booleans", Value::as_bool)
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<&'a str> {
        let found = self.opt_str(key)?;
        self.required(key, "a UTF-8 string", found)
    }

    /// A string, or `None` when absent.
    pub fn opt_str(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a UTF-8 string", Value::as_str)
    }

    /// Strings, or `None` when absent.
    pub fn opt_strs(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        self.list(key, "UTF-8 strings", Value::as_str)
    }

    /// An array, or `None` when absent.
    pub fn opt_array(&self, key: &str) -> Result<Option<Array<'a>>> {
        self.typed(key, "an array", Value::as_array)
    }

    /// The error for a key whose value a caller finds unusable for a reason of its own.
    pub fn invalid(&self, key: &str, wanted: &str) -> Error {
        Error::FieldInvalid {
            path: self.file().to_path_buf(),
            field: self.shown_name(key),
            found: self.get(key).map_or("absent".into(), |v| v.to_string()),
            wanted: wanted.to_string(),
        }
    }

    fn full_name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn shown_name(&self, key: &str) -> String {
        excerpt(&self.full_name(key), 120)
    }

    fn required<T>(&self, key: &str, wanted: &str, found: Option<T>) -> Result<T> {
        found.ok_or_else(|| Error::FieldMissing {
            path: self.file().to_path_buf(),
            field: self.shown_name(key),
            wanted: wanted.to_string(),
        })
    }

    fn typed<T>(
        &self,
        key: &str,
        wanted: &str,
        pick: impl Fn(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        pick(value)
            .map(Some)
            .ok_or_else(|| self.invalid(key, wanted))
    }

    fn list<T>(
        &self,
        key: &str,
        wanted: &str,
        pick: impl Fn(Value<'a>) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        self.typed(key, wanted, |v| match v {
            Value::Array(array) => array.iter().map(&pick).collect(),
            lone => pick(lone).map(|one| vec![one]),
        })
    }
}

const FINITE: &str = "a finite number";
const ABOVE_ZERO: &str = "a finite number above 0";

fn whole(range: &RangeInclusive<usize>) -> String {
    format!("a whole number from {} to {}", range.start(), range.end())
}

fn in_range(value: Value<'_>, range: &RangeInclusive<usize>) -> Option<usize> {
    let n = usize::try_from(value.as_u64()?).ok()?;
    range.contains(&n).then_some(n)
}

fn finite(value: Value<'_>) -> Option<f64> {
    value.as_f64().filter(|x| x.is_finite())
}
