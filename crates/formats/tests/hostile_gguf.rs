//! GGUF files that lie: every count, length, type and offset of valid files is set to values that
//! cannot be true, and the files of seeds/ are opened. Each is read or refused within a megabyte,
//! without a panic. One test, so that nothing else in the process allocates meanwhile.

#[path = "common/counting.rs"]
mod counting;

use std::path::Path;

use counting::peak_of;
use formats::gguf::{GgufKeys, Value, parse_gguf, write_gguf};
use formats::{GgufFile, StoredType};

const MEGABYTE: usize = 1 << 20;

/// Opens a file and reads all that a model's loader would, except its tensors' data.
fn read(path: &Path) -> Result<(), String> {
    let file = GgufFile::open(path).map_err(|e| e.to_string())?;
    for (key, value) in file.metadata.iter() {
        assert!(value.to_string().len() < 2000, "{key}");
    }
    for tensor in file.tensors.iter() {
        assert_eq!(tensor.bytes().len() as u64, tensor.info.bytes);
    }
    file.generation().map_err(|e| e.to_string())?;
    let tokenizer = file.tokenizer().map_err(|e| e.to_string())?;
    if let Some(tokenizer) = tokenizer {
        tokenizer.encode("ab", true).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Whether a file was read; if not, its error is short.
fn survives(path: &Path, what: &str) -> bool {
    let mut answer = Ok(());
    let peak = peak_of(|| answer = read(path));
    assert!(peak <= MEGABYTE, "{what}: {peak} bytes");
    if let Err(error) = &answer {
        assert!(
            error.lines().count() <= 3 && error.len() < 800,
            "{what}: {error}"
        );
    }
    answer.is_ok()
}

/// A number in a file: where, and how many bytes.
struct Field {
    at: usize,
    width: usize,
    what: String,
}

/// Finds every number that says how what follows is to be read.
struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    fields: Vec<Field>,
}

impl Walk<'_> {
    fn number(&mut self, width: usize, what: &str) -> u64 {
        let mut word = [0; 8];
        word[..width].copy_from_slice(&self.bytes[self.at..self.at + width]);
        let (at, what) = (self.at, what.to_string());
        self.fields.push(Field { at, width, what });
        self.at += width;
        u64::from_le_bytes(word)
    }

    fn text(&mut self, what: &str) {
        self.at += self.number(8, what) as usize;
    }

    fn value(&mut self, kind: u64) {
        match kind {
            8 => self.text("length of a string"),
            9 => {
                let kind = self.number(4, "type of an array");
                for _ in 0..self.number(8, "length of an array") {
                    self.value(kind);
                }
            }
            4 | 5 => drop(self.number(4, "value")),
            _ => self.at += [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8][kind as usize],
        }
    }

    fn file(mut self) -> Vec<Field> {
        self.at = 4;
        self.number(4, "version");
        let tensors = self.number(8, "number of tensors");
        for _ in 0..self.number(8, "number of keys") {
            self.text("length of a key");
            let kind = self.number(4, "type of a value");
            self.value(kind);
        }
        for _ in 0..tensors {
            self.text("length of a name");
            for _ in 0..self.number(4, "rank") {
                self.number(8, "dimension");
            }
            self.number(4, "type of a tensor");
            self.number(8, "offset");
        }
        self.fields
    }
}

fn valid(dir: &Path, tokenizer: &str) -> Vec<u8> {
    let mut keys = GgufKeys::new();
    keys.put_str("general.architecture", "llama")
        .put("llama.block_count", Value::U32(1))
        .put("general.alignment", Value::U32(32))
        .put_i32s("numbers", &[1, 2, 3])
        .put_str("tokenizer.ggml.model", tokenizer)
        .put_str("tokenizer.ggml.pre", "llama-bpe")
        .put_strs("tokenizer.ggml.tokens", &["<s>", "a", "b", "ab"])
        .put_strs("tokenizer.ggml.merges", &["a b"])
        .put_f32s("tokenizer.ggml.scores", &[0.0, 0.0, 0.0, -1.0])
        .put_i32s("tokenizer.ggml.token_type", &[3, 1, 1, 1])
        .put("tokenizer.ggml.bos_token_id", Value::U32(0));
    let path = dir.join("valid.gguf");
    let (f, q) = ([1; 24], [1; 144]);
    let tensors: &[formats::TensorToWrite<'_>] = &[
        ("f", StoredType::F32, &[2, 3], &f),
        ("q", StoredType::Q4_K, &[1, 256], &q),
    ];
    write_gguf(&path, &keys, tensors).unwrap();
    std::fs::read(&path).unwrap()
}

/// Values that are near the true one, small, and beyond any file.
fn lies(truth: u64, width: usize, file: usize) -> impl Iterator<Item = u64> {
    let most = u64::MAX >> (64 - 8 * width);
    let near = [truth.wrapping_sub(1), truth + 1, 2 * truth, truth / 2];
    let small = (0..16).chain([24, 28, 30, 31, 32, 39, 40, 255, 256]);
    let shifts = [16, 20, 24, 31, 32, 40, 48, 60, 61, 62, 63];
    let large = shifts.into_iter().map(|s| 1u64 << s);
    let edge = [file as u64, most / 24, most / 13, most / 2, most - 1, most];
    let all = near.into_iter().chain(small).chain(large).chain(edge);
    all.filter(move |&v| v != truth && v <= most)
}

#[test]
fn nothing_is_taken_at_its_word() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/seeds");
    let mut files: Vec<_> = std::fs::read_dir(seeds)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "gguf"))
        .collect();
    files.sort();
    assert!(files.len() > 25);
    for path in files {
        assert!(std::fs::metadata(&path).unwrap().len() <= 160);
        survives(&path, &path.display().to_string());
    }

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    let (mut read, mut refused) = (0, 0);
    for tokenizer in ["llama", "gpt2"] {
        let good = valid(dir.path(), tokenizer);
        std::fs::write(&path, &good).unwrap();
        assert!(survives(&path, "valid"), "{tokenizer}");
        let walk = Walk {
            bytes: &good,
            at: 0,
            fields: Vec::new(),
        };
        let fields = walk.file();
        assert!(fields.len() > 50, "{}", fields.len());
        for Field { at, width, what } in fields {
            let mut word = [0; 8];
            word[..width].copy_from_slice(&good[at..at + width]);
            for lie in lies(u64::from_le_bytes(word), width, good.len()) {
                let mut bytes = good.clone();
                bytes[at..at + width].copy_from_slice(&lie.to_le_bytes()[..width]);
                let what = format!("{what} at {at} set to {lie}");
                // Most are refused by the header alone, which needs no file.
                let mut header = Ok(());
                let peak = peak_of(|| header = parse_gguf(&bytes).map(drop));
                assert!(
                    peak <= 16 * bytes.len() + (64 << 10),
                    "{what}: {peak} bytes"
                );
                if header.is_err() {
                    refused += 1;
                    continue;
                }
                // Some file systems wait for the disk where a file is overwritten.
                std::fs::remove_file(&path).unwrap();
                std::fs::write(&path, &bytes).unwrap();
                match survives(&path, &what) {
                    true => read += 1,
                    false => refused += 1,
                }
            }
        }
        let header = parse_gguf(&good).unwrap();
        let end = header.tensors.values().map(|t| t.offset + t.bytes).max();
        for cut in 0..end.unwrap() as usize {
            parse_gguf(&good[..cut]).unwrap_err();
        }
    }
    // Values that change may be harmless, other numbers are not.
    assert!(read > 100 && refused > read, "{read} and {refused}");
}
