//! A file in memory.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

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
