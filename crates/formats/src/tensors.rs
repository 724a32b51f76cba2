//! Memory-mapped tensors: where each one lies, and its bytes.
//!
//! A [`TensorStore`] holds what the files hold, and tensors that are *made* of those by a
//! [`Recipe`] when their rows are asked for. Who reads a tensor cannot tell the two apart.

mod convert;
mod map;
mod pattern;
mod random;
mod recipe;
mod view;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::dtype::StoredType;
use crate::error::{Error, Result};
use view::Node;

pub use map::MappedFile;
pub use pattern::RowPattern;
pub use recipe::{Recipe, RecipeProblem};

/// Name, shape, type and place of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    /// Dimensions, outermost first; empty for a scalar. No dimension is 0.
    pub shape: Vec<usize>,
    /// How the elements are stored.
    pub stored: StoredType,
    /// Length in bytes.
    pub bytes: u64,
    /// Where the bytes lie; `None` for a tensor that is made of several stretches, or computed.
    pub place: Option<Place>,
}

/// Where a tensor's bytes start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Index into [`TensorStore::files`].
    pub file: usize,
    /// First byte, counted from the start of the file. Not necessarily aligned to the type.
    pub offset: u64,
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Storage scheme, see [`StoredType::scheme`].
    pub fn scheme(&self) -> &'static str {
        self.stored.scheme()
    }

    // In range by the check in `TensorStore::new`: both ends fit a mapping, hence usize.
    fn range(&self) -> Option<(usize, Range<usize>)> {
        let place = self.place?;
        let range = place.offset as usize..(place.offset + self.bytes) as usize;
        Some((place.file, range))
    }
}

/// A tensor and its bytes (little endian, row-major).
#[derive(Debug, Clone, Copy)]
pub struct TensorRef<'a> {
    pub info: &'a TensorInfo,
    source: Source<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Source<'a> {
    Bytes(&'a [u8]),
    Made(&'a Node, &'a [Arc<MappedFile>]),
}

impl<'a> TensorRef<'a> {
    /// All bytes: borrowed where the file has them so, made where not.
    pub fn bytes(&self) -> Cow<'a, [u8]> {
        self.part(0, self.info.bytes as usize)
    }

    /// The bytes of `rows` (of the outermost dimension): borrowed where they lie in one stretch of
    /// a file, gathered or computed where not.
    ///
    /// # Panics
    /// When `rows` reaches beyond the tensor.
    pub fn rows(&self, rows: Range<usize>) -> Cow<'a, [u8]> {
        let count = self.info.shape.first().copied().unwrap_or(1);
        assert!(rows.end <= count, "rows {rows:?} of {count}");
        let row = self.info.bytes as usize / count;
        self.part(rows.start * row, rows.len() * row)
    }

    fn part(&self, at: usize, len: usize) -> Cow<'a, [u8]> {
        match self.source {
            _ if len == 0 => Cow::Borrowed(&[]),
            Source::Bytes(bytes) => Cow::Borrowed(&bytes[at..at + len]),
            Source::Made(node, files) => match node.borrow(files, at, len) {
                Some(bytes) => Cow::Borrowed(bytes),
                None => {
                    let mut made = vec![0; len];
                    node.copy(files, at, &mut made);
                    Cow::Owned(made)
                }
            },
        }
    }
}

/// Mapped files, the tensors in them, and tensors made of those.
#[derive(Debug, Clone, Default)]
pub struct TensorStore {
    files: Vec<Arc<MappedFile>>,
    stored: BTreeMap<String, TensorInfo>,
    made: BTreeMap<String, Made>,
}

/// A tensor that a recipe makes.
#[derive(Debug, Clone)]
struct Made {
    info: TensorInfo,
    node: Arc<Node>,
    /// Stored tensors that it is made of, in order, each once.
    sources: Arc<[String]>,
}

impl TensorStore {
    /// Joins files and the tensors that a format reader found in them.
    ///
    /// # Panics
    /// When a tensor's range does not lie inside its file, or its size is not that of its type and
    /// shape: readers check both and report them with the context that only they have.
    pub fn new(files: Vec<Arc<MappedFile>>, tensors: BTreeMap<String, TensorInfo>) -> Self {
        for (name, t) in &tensors {
            let inside = t.place.is_some_and(|place| {
                let len = files[place.file].bytes().len() as u64;
                place
                    .offset
                    .checked_add(t.bytes)
                    .is_some_and(|end| end <= len)
            });
            let sized = t.stored.bytes_for(&t.shape) == Some(t.bytes);
            assert!(inside && sized, "reader let a bad range through: {name}");
        }
        Self {
            files,
            stored: tensors,
            made: BTreeMap::new(),
        }
    }

    /// Makes a tensor called `name` as `recipe` says. Nothing is read until its rows are asked
    /// for; the recipe sees the tensors that are there now, so one may also stand in for a tensor
    /// that it is made of, under the same name.
    ///
    /// Errors: [`Error::Recipe`] for a tensor that is not there, and for shapes and types that do
    /// not fit the recipe. The store is then as before.
    pub fn define(&mut self, name: &str, recipe: &Recipe) -> Result<()> {
        let made = recipe::make(self, name, recipe).map_err(|problem| Error::Recipe {
            tensor: crate::error::excerpt(name, 120),
            problem,
        })?;
        self.made.insert(name.to_string(), made);
        Ok(())
    }

    /// Forgets what [`define`](Self::define) made as `name`: what the files hold under that name,
    /// if they do, is seen again. Tensors made of it stay.
    pub fn forget(&mut self, name: &str) {
        self.made.remove(name);
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<TensorRef<'_>> {
        match self.made.get(name) {
            Some(made) => Some(self.made_ref(made)),
            None => self.stored.get(name).map(|info| self.stored_ref(info)),
        }
    }

    /// Whether there is a tensor called `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.made.contains_key(name) || self.stored.contains_key(name)
    }

    /// All tensors in name order, those made included.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = TensorRef<'_>> {
        let mut all: BTreeMap<&str, TensorRef<'_>> =
            self.stored().map(|t| (t.info.name.as_str(), t)).collect();
        let made = self.made.iter();
        all.extend(made.map(|(name, made)| (name.as_str(), self.made_ref(made))));
        all.into_values()
    }

    /// What the files hold, in name order and as they hold it, whatever was made of it.
    pub fn stored(&self) -> impl ExactSizeIterator<Item = TensorRef<'_>> {
        self.stored.values().map(|info| self.stored_ref(info))
    }

    /// All names in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.iter().map(|t| t.info.name.as_str())
    }

    /// The names of the stored tensors that `name` is made of, each once; its own name where the
    /// files hold it as it is, none for a tensor that is not there.
    pub fn sources<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        let made = self.made.get(name);
        let own = match made {
            Some(_) => None,
            None => self.stored.get_key_value(name),
        };
        let made = made.into_iter().flat_map(|made| made.sources.iter());
        made.chain(own.map(|(name, _)| name)).map(String::as_str)
    }

    /// Number of tensors, those made included.
    pub fn len(&self) -> usize {
        self.iter().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.stored.is_empty() && self.made.is_empty()
    }

    /// Bytes of all tensors that the files hold.
    pub fn total_bytes(&self) -> u64 {
        self.stored.values().map(|t| t.bytes).sum()
    }

    /// The mapped files.
    pub fn files(&self) -> &[Arc<MappedFile>] {
        &self.files
    }

    /// The mapping that holds `name` and the tensor's byte range in it, for a device that imports
    /// host memory instead of copying it; `None` too where the bytes lie in no one stretch.
    pub fn region(&self, name: &str) -> Option<(Arc<MappedFile>, Range<usize>)> {
        let (file, range) = self.get(name)?.info.range()?;
        Some((Arc::clone(&self.files[file]), range))
    }

    /// Lets go of the resident pages of `name` once a repacked copy exists, for a made tensor those
    /// of its sources; see [`MappedFile::release`]. Unknown names are ignored.
    pub fn release(&self, name: &str) {
        if let Some(made) = self.made.get(name) {
            let bytes = made.info.bytes as usize;
            made.node.stretches(0..bytes, &mut |file, range| {
                self.files[file].release(range);
            });
        } else if let Some((file, range)) = self.stored.get(name).and_then(TensorInfo::range) {
            self.files[file].release(range);
        }
    }

    /// Lets go of the resident pages of every file.
    pub fn release_all(&self) {
        for file in &self.files {
            file.release(0..file.bytes().len());
        }
    }

    fn stored_ref<'a>(&'a self, info: &'a TensorInfo) -> TensorRef<'a> {
        let bytes = match info.range() {
            Some((file, range)) => &self.files[file].bytes()[range],
            // `new` lets no stored tensor in that has no place.
            None => &[],
        };
        let source = Source::Bytes(bytes);
        TensorRef { info, source }
    }

    fn made_ref<'a>(&'a self, made: &'a Made) -> TensorRef<'a> {
        TensorRef {
            info: &made.info,
            source: Source::Made(&made.node, &self.files),
        }
    }
}

#[cfg(test)]
mod tests;
