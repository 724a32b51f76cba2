//! A file that appears whole or not at all.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Error, Result};

/// A file written beside its place under a temporary name, which [`commit`](Self::commit) renames;
/// dropped before that, it leaves nothing behind. Every error is [`Error::Unwritable`].
#[derive(Debug)]
pub(crate) struct Replacement {
    path: PathBuf,
    temporary: PathBuf,
    out: Option<BufWriter<File>>,
}

impl Replacement {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let unwritable = |source| Error::Unwritable {
            path: path.to_path_buf(),
            source,
        };
        if path.is_dir() {
            let source = std::io::Error::new(ErrorKind::IsADirectory, "it is a folder");
            return Err(unwritable(source));
        }
        let (temporary, file) = create_beside(path).map_err(unwritable)?;
        Ok(Self {
            path: path.to_path_buf(),
            temporary,
            out: Some(BufWriter::new(file)),
        })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = match &mut self.out {
            Some(out) => out.write_all(bytes),
            None => Err(ErrorKind::BrokenPipe.into()),
        };
        written.map_err(|e| self.unwritable(e))
    }

    /// Makes the bytes durable and puts the file in its place.
    pub(crate) fn commit(mut self) -> Result<()> {
        let Some(out) = self.out.take() else {
            return Err(self.unwritable(ErrorKind::BrokenPipe.into()));
        };
        let synced = out
            .into_inner()
            .map_err(|e| e.into_error())
            .and_then(|file| file.sync_all());
        synced
            .and_then(|()| std::fs::rename(&self.temporary, &self.path))
            .map_err(|e| self.unwritable(e))
    }

    fn unwritable(&self, source: std::io::Error) -> Error {
        Error::Unwritable {
            path: self.path.clone(),
            source,
        }
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        // After a rename nothing has this name. A leftover that cannot be removed is not worth
        // hiding the error that led here.
        drop(std::fs::remove_file(&self.temporary));
    }
}

fn create_beside(path: &Path) -> std::io::Result<(PathBuf, File)> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
    loop {
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        temporary.push(format!(".{}-{count}.tmp", std::process::id()));
        let temporary = path.with_file_name(temporary);
        match File::create_new(&temporary) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => continue,
            Err(e) => return Err(e),
            Ok(file) => return Ok((temporary, file)),
        }
    }
}
