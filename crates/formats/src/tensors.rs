//! Memory-mapped tensors: where each one lies, and its bytes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use crate::dtype::StoredType;
use crate::error::{Error, Result};

/// A whole file, mapped read-only.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    /// Maps `path`. Errors: not there, not a regular file, unreadable, empty.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        let meta = file.metadata().map_err(|e| Error::io("read", path, e))?;
        let refuse = |what: &str| {
            let e = std::io::Error::new(std::io::ErrorKind::InvalidInput, what.to_string());
            Error::io("map", path, e)
        };
        if !meta.is_file() {
            return Err(refuse("it is not a regular file"));
        }
        if meta.len() == 0 {
            return Err(refuse("it is empty; download it again"));
        }
        // SAFETY: the mapping is read-only. Like every program that maps model files, this one
        // relies on nobody truncating or rewriting the file in place while it is open.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))?;
        Ok(Self {
            path: path.to_path_buf(),
            map,
        })
    }

    /// Where the file was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All of its bytes; the address is page-aligned and stays put as long as `self`.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Gives the resident pages that lie wholly inside `range` back to the system. They are read
    /// from the file again if they are touched again, so bytes already borrowed stay valid.
    pub fn release(&self, range: Range<usize>) {
        let page = page_size();
        let end_of_file = self.map.len();
        let start = range.start.div_ceil(page).saturating_mul(page);
        // The last page of the file belongs to nobody else even where it is only partly filled.
        let end = if range.end >= end_of_file {
            end_of_file
        } else {
            range.end / page * page
        };
        if start < end {
            advise_dont_need(&self.map, start, end - start);
        }
    }
}

#[cfg(unix)]
fn page_size() -> usize {
    rustix::param::page_size()
}

#[cfg(not(unix))]
fn page_size() -> usize {
    65536
}

#[cfg(unix)]
fn advise_dont_need(map: &Mmap, offset: usize, len: usize) {
    use memmap2::UncheckedAdvice;
    // SAFETY: the mapping is read-only and backed by a file, so dropped pages come back with the
    // same contents; the range lies inside it.
    let advised = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, offset, len) };
    // Advice only: where the system refuses it, memory stays resident and nothing else changes.
    drop(advised);
}

#[cfg(not(unix))]
fn advise_dont_need(_map: &Mmap, _offset: usize, _len: usize) {}

/// Name, shape, type and place of a stored tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name in the file.
    pub name: String,
    /// Dimensions, outermost first; empty for a scalar. No dimension is 0.
    pub shape: Vec<usize>,
    /// How the elements are stored.
    pub stored: StoredType,
    /// Index into [`TensorStore::files`].
    pub file: usize,
    /// First byte, counted from the start of the file. Not necessarily aligned to the type.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// In which order the file has the rows.
    pub order: RowOrder,
}

/// Where the rows of a tensor lie in its file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RowOrder {
    /// One after the other.
    #[default]
    Plain,
    /// Within each `head` rows, row i of the first half and row i of the second half are
    /// neighbours in the file: 0, h, 1, h + 1, … with h = `head` / 2. Llama-type GGUF files keep
    /// the projections of queries and keys so, because their rotation pairs neighbours.
    Interleaved { head: usize },
}

impl RowOrder {
    /// The row of the file that holds row `row`.
    pub fn source(self, row: usize) -> usize {
        match self {
            Self::Plain => row,
            Self::Interleaved { head } => {
                let (first, within, half) = (row / head * head, row % head, head / 2);
                first + within % half * 2 + within / half
            }
        }
    }

    /// Whether it can be the order of `rows` rows.
    fn fits(self, rows: usize) -> bool {
        match self {
            Self::Plain => true,
            Self::Interleaved { head } => {
                head > 0 && head.is_multiple_of(2) && rows.is_multiple_of(head)
            }
        }
    }
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
}

/// A tensor and its bytes as they lie in the file (little endian, row-major, rows in the order of
/// [`TensorInfo::order`]).
#[derive(Debug, Clone, Copy)]
pub struct TensorRef<'a> {
    pub info: &'a TensorInfo,
    pub bytes: &'a [u8],
}

impl<'a> TensorRef<'a> {
    /// The bytes of `rows` (of the outermost dimension) in their own order: borrowed where the file
    /// has that order, gathered where it has another.
    ///
    /// # Panics
    /// When `rows` reaches beyond the tensor.
    pub fn rows(&self, rows: Range<usize>) -> Cow<'a, [u8]> {
        let count = self.info.shape.first().copied().unwrap_or(1);
        assert!(rows.end <= count, "rows {rows:?} of {count}");
        let row = self.bytes.len() / count;
        match self.info.order {
            RowOrder::Plain => Cow::Borrowed(&self.bytes[rows.start * row..rows.end * row]),
            order => {
                let mut gathered = Vec::with_capacity(rows.len() * row);
                for r in rows {
                    gathered.extend_from_slice(&self.bytes[order.source(r) * row..][..row]);
                }
                Cow::Owned(gathered)
            }
        }
    }
}

/// Mapped files and the tensors in them, ordered by name.
#[derive(Debug, Clone, Default)]
pub struct TensorStore {
    files: Vec<Arc<MappedFile>>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl TensorStore {
    /// Joins files and the tensors that a format reader found in them.
    ///
    /// # Panics
    /// When a tensor's range does not lie inside its file, or its size is not that of its type and
    /// shape: readers check both and report them with the context that only they have.
    pub fn new(files: Vec<Arc<MappedFile>>, tensors: BTreeMap<String, TensorInfo>) -> Self {
        for (name, t) in &tensors {
            let len = files[t.file].bytes().len() as u64;
            let inside = t.offset.checked_add(t.bytes).is_some_and(|end| end <= len);
            let sized = t.stored.bytes_for(&t.shape) == Some(t.bytes);
            assert!(inside && sized, "reader let a bad range through: {name}");
        }
        Self { files, tensors }
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<TensorRef<'_>> {
        self.tensors.get(name).map(|info| self.resolve(info))
    }

    /// Whether there is a tensor called `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// All tensors in name order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = TensorRef<'_>> {
        self.tensors.values().map(|info| self.resolve(info))
    }

    /// All names in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Sum of all tensors' bytes.
    pub fn total_bytes(&self) -> u64 {
        self.tensors.values().map(|t| t.bytes).sum()
    }

    /// The mapped files.
    pub fn files(&self) -> &[Arc<MappedFile>] {
        &self.files
    }

    /// Says in which order the file has the rows of `name`. Unknown names are ignored.
    ///
    /// # Panics
    /// When the number of its rows does not fit the order.
    pub fn set_order(&mut self, name: &str, order: RowOrder) {
        if let Some(info) = self.tensors.get_mut(name) {
            let rows = info.shape.first().copied().unwrap_or(1);
            assert!(order.fits(rows), "{name}: {rows} rows in {order:?}");
            info.order = order;
        }
    }

    /// The mapping that holds `name` and the tensor's byte range in it, for a device that imports
    /// host memory instead of copying it; `None` too where the file has the rows in another order.
    pub fn region(&self, name: &str) -> Option<(Arc<MappedFile>, Range<usize>)> {
        let info = self.tensors.get(name)?;
        if info.order != RowOrder::Plain {
            return None;
        }
        Some((Arc::clone(&self.files[info.file]), range_of(info)))
    }

    /// Lets go of the resident pages of `name` once a repacked copy exists; see
    /// [`MappedFile::release`]. Unknown names are ignored.
    pub fn release(&self, name: &str) {
        if let Some(info) = self.tensors.get(name) {
            self.files[info.file].release(range_of(info));
        }
    }

    /// Lets go of the resident pages of every file.
    pub fn release_all(&self) {
        for file in &self.files {
            file.release(0..file.bytes().len());
        }
    }

    fn resolve<'a>(&'a self, info: &'a TensorInfo) -> TensorRef<'a> {
        TensorRef {
            info,
            bytes: &self.files[info.file].bytes()[range_of(info)],
        }
    }
}

// In range by the check in `TensorStore::new`: both ends fit a mapping, hence usize.
fn range_of(info: &TensorInfo) -> Range<usize> {
    info.offset as usize..(info.offset + info.bytes) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_rows_are_found() {
        let order = RowOrder::Interleaved { head: 6 };
        let sources: Vec<usize> = (0..12).map(|r| order.source(r)).collect();
        assert_eq!(sources, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
        assert!(order.fits(12) && !order.fits(8));
        assert!(!RowOrder::Interleaved { head: 3 }.fits(6));
        assert!(!RowOrder::Interleaved { head: 0 }.fits(6));
    }

    #[test]
    fn rows_come_in_their_own_order() {
        let mut info = TensorInfo {
            name: "w".into(),
            shape: vec![4, 2],
            stored: StoredType::U8,
            file: 0,
            offset: 0,
            bytes: 8,
            order: RowOrder::Interleaved { head: 4 },
        };
        let bytes = [0, 1, 2, 3, 4, 5, 6, 7];
        let tensor = TensorRef {
            info: &info,
            bytes: &bytes,
        };
        assert_eq!(*tensor.rows(0..4), [0, 1, 4, 5, 2, 3, 6, 7]);
        assert_eq!(*tensor.rows(1..3), [4, 5, 2, 3]);
        info.order = RowOrder::Plain;
        let tensor = TensorRef {
            info: &info,
            bytes: &bytes,
        };
        assert_eq!(*tensor.rows(1..3), [2, 3, 4, 5]);
    }
}
