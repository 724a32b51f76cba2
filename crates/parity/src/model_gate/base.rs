//! A reference's logits in a file, so that many candidates are compared with one run
//! of a model that is slow or too large to stand beside them.
//!
//! The file is safetensors: `ids` [tokens] u32, the text of whole chunks, and `logits`
//! [chunks, scored + 1, vocabulary] f32, in the order of [`super::evaluate`]. Its
//! metadata says `chunk` and `first` of [`EvalOptions`].

use super::{EvalOptions, GateError};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// A header is a few hundred bytes.
const MOST_HEADER: u64 = 1 << 16;

fn fault(path: &Path, reason: impl std::fmt::Display) -> GateError {
    GateError::Base {
        path: path.to_path_buf(),
        reason: reason.to_string(),
    }
}

/// What a base of this text and these options begins with.
fn header(ids: &[u32], options: &EvalOptions, vocab: usize) -> Value {
    let chunks = ids.len() / options.chunk;
    let tokens = chunks * options.chunk;
    let rows = options.scored() + 1;
    let end = 4 * tokens;
    json!({
        "__metadata__": {
            "chunk": options.chunk.to_string(),
            "first": options.first.to_string(),
        },
        "ids": {"dtype": "U32", "shape": [tokens], "data_offsets": [0, end]},
        "logits": {
            "dtype": "F32",
            "shape": [chunks, rows, vocab],
            "data_offsets": [end, end + 4 * chunks * rows * vocab],
        },
    })
}

/// Writes a base beside its place and moves it there when it is whole.
pub struct BaseWriter {
    path: PathBuf,
    part: PathBuf,
    file: BufWriter<File>,
    left: usize,
}

impl BaseWriter {
    pub fn create(
        path: &Path,
        ids: &[u32],
        options: &EvalOptions,
        vocab: usize,
    ) -> Result<Self, GateError> {
        let head = header(ids, options, vocab);
        let name = path.file_name();
        let name = name.ok_or_else(|| fault(path, "it names no file"))?;
        let mut part = name.to_os_string();
        part.push(format!(".part-{}", std::process::id()));
        let part = path.with_file_name(part);
        let file = File::create(&part).map_err(|e| fault(path, e))?;
        let chunks = ids.len() / options.chunk;
        let mut writer = BaseWriter {
            path: path.to_path_buf(),
            part,
            file: BufWriter::new(file),
            left: chunks * (options.scored() + 1) * vocab,
        };
        let mut text = head.to_string();
        text += &" ".repeat(text.len().next_multiple_of(8) - text.len());
        writer.put(&(text.len() as u64).to_le_bytes())?;
        writer.put(text.as_bytes())?;
        for id in &ids[..chunks * options.chunk] {
            writer.put(&id.to_le_bytes())?;
        }
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), GateError> {
        let written = self.file.write_all(bytes);
        written.map_err(|e| fault(&self.path, e))
    }

    /// The next chunks' rows.
    pub fn append(&mut self, rows: &[f32]) -> Result<(), GateError> {
        let left = self.left.checked_sub(rows.len());
        self.left = left.ok_or_else(|| fault(&self.path, "more logits than were declared"))?;
        for x in rows {
            self.put(&x.to_le_bytes())?;
        }
        Ok(())
    }

    /// Moves the whole file to its place.
    pub fn finish(mut self) -> Result<(), GateError> {
        if self.left > 0 {
            let reason = format!("{} logits were not written", self.left);
            return Err(fault(&self.path, reason));
        }
        let flushed = self.file.flush();
        flushed
            .and_then(|()| std::fs::rename(&self.part, &self.path))
            .map_err(|e| fault(&self.path, e))
    }
}

impl Drop for BaseWriter {
    fn drop(&mut self) {
        // Gone already where `finish` moved it.
        let _ = std::fs::remove_file(&self.part);
    }
}

/// Reads what [`BaseWriter`] wrote, chunk after chunk.
pub struct BaseReader {
    path: PathBuf,
    file: File,
    row: usize,
}

impl BaseReader {
    /// Opens a base of exactly this text, these chunks and this vocabulary.
    pub fn open(
        path: &Path,
        ids: &[u32],
        options: &EvalOptions,
        vocab: usize,
    ) -> Result<Self, GateError> {
        let mut file = File::open(path).map_err(|e| fault(path, e))?;
        let mut size = [0; 8];
        let unreadable = |e| fault(path, format!("it is no base: {e}"));
        file.read_exact(&mut size).map_err(unreadable)?;
        let size = u64::from_le_bytes(size);
        if size > MOST_HEADER {
            return Err(fault(path, "it is no base: its header is too long"));
        }
        let mut text = vec![0; size as usize];
        file.read_exact(&mut text).map_err(unreadable)?;
        let found: Value = serde_json::from_slice(&text)
            .map_err(|e| fault(path, format!("it is no base: {e}")))?;
        let wanted = header(ids, options, vocab);
        for (what, at) in [
            ("chunks", "/__metadata__"),
            ("text", "/ids"),
            ("logits", "/logits"),
        ] {
            let (found, wanted) = (found.pointer(at), wanted.pointer(at));
            if found != wanted {
                let say = |v: Option<&Value>| v.map_or("nothing".into(), Value::to_string);
                return Err(fault(
                    path,
                    format!(
                        "its {what} are {} and not {}: use the same text, --chunk, --first and --chunks as when it was saved, and a model of the same vocabulary",
                        say(found),
                        say(wanted)
                    ),
                ));
            }
        }
        let bytes = wanted.pointer("/logits/data_offsets/1");
        let bytes = bytes.and_then(Value::as_u64).unwrap_or(0) + 8 + size;
        let length = file.metadata().map_err(|e| fault(path, e))?.len();
        if length != bytes {
            let reason = format!("it has {length} bytes and not {bytes}: save it anew");
            return Err(fault(path, reason));
        }
        let tokens = ids.len() / options.chunk * options.chunk;
        let mut stored = vec![0; 4 * tokens];
        file.read_exact(&mut stored).map_err(unreadable)?;
        let stored = stored.as_chunks::<4>().0.iter();
        if !stored
            .map(|b| u32::from_le_bytes(*b))
            .eq(ids[..tokens].iter().copied())
        {
            return Err(fault(path, "it was saved of another text or tokenizer"));
        }
        Ok(BaseReader {
            path: path.to_path_buf(),
            file,
            row: (options.scored() + 1) * vocab,
        })
    }

    /// The next `chunks` chunks' rows.
    pub fn next(&mut self, chunks: usize) -> Result<Vec<f32>, GateError> {
        let mut bytes = vec![0; 4 * chunks * self.row];
        self.file
            .read_exact(&mut bytes)
            .map_err(|e| fault(&self.path, e))?;
        let words = bytes.as_chunks::<4>().0.iter();
        Ok(words.map(|b| f32::from_le_bytes(*b)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOW: EvalOptions = EvalOptions {
        chunk: 4,
        first: 1,
        batch: 1,
    };

    #[test]
    fn a_base_comes_back_and_fits_its_own_text_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("base.safetensors");
        let ids: Vec<u32> = (0..9).collect();
        let rows: Vec<f32> = (0..2 * 3 * 5).map(|i| i as f32 / 3.0).collect();
        let mut writer = BaseWriter::create(&path, &ids, &HOW, 5).expect("a writer");
        assert!(!path.exists());
        writer.append(&rows[..15]).expect("room");
        writer.append(&rows[15..]).expect("room");
        assert!(writer.append(&[0.0]).is_err());
        writer.finish().expect("a whole file");
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 1);

        let mut reader = BaseReader::open(&path, &ids, &HOW, 5).expect("a base");
        assert_eq!(reader.next(1).expect("a chunk"), rows[..15]);
        assert_eq!(reader.next(1).expect("a chunk"), rows[15..]);
        assert!(reader.next(1).is_err());

        let mut other = ids.clone();
        other[2] = 77;
        let wider = EvalOptions { first: 0, ..HOW };
        for (ids, how, vocab) in [(&other, HOW, 5), (&ids, wider, 5), (&ids, HOW, 6)] {
            assert!(BaseReader::open(&path, ids, &how, vocab).is_err());
        }
        let whole = std::fs::read(&path).expect("bytes");
        for cut in [0, 7, 20, whole.len() - 1] {
            std::fs::write(&path, &whole[..cut]).expect("a shorter file");
            assert!(BaseReader::open(&path, &ids, &HOW, 5).is_err(), "{cut}");
        }
    }

    #[test]
    fn half_a_base_is_not_left_behind() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("base.safetensors");
        let ids: Vec<u32> = (0..8).collect();
        let mut writer = BaseWriter::create(&path, &ids, &HOW, 5).expect("a writer");
        writer.append(&[0.5; 15]).expect("room");
        assert!(writer.finish().is_err());
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 0);
    }
}
