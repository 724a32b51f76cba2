//! Reading GGUF: every damaged form is an error of its own.

use std::path::{Path, PathBuf};

use formats::gguf::{GgufKeys, GgufProblem, MAX_DEPTH, Value, parse_gguf, write_gguf};
use formats::{Error, GgufFile, StoredType};
use tempfile::TempDir;

/// A file written by hand, so that anything can be wrong with it.
#[derive(Clone, Default)]
struct Raw {
    keys: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: Vec<u8>,
}

fn text(s: &str) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat()
}

impl Raw {
    fn key(mut self, name: &str, kind: u32, value: &[u8]) -> Self {
        self.keys
            .push([&text(name), &kind.to_le_bytes()[..], value].concat());
        self
    }

    fn tensor(mut self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        let mut entry = text(name);
        entry.extend((dims.len() as u32).to_le_bytes());
        entry.extend(dims.iter().flat_map(|d| d.to_le_bytes()));
        entry.extend(kind.to_le_bytes());
        entry.extend(offset.to_le_bytes());
        self.tensors.push(entry);
        self
    }

    fn data(mut self, bytes: usize) -> Self {
        self.data = (0..bytes).map(|i| i as u8).collect();
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        out.extend(self.keys.concat());
        out.extend(self.tensors.concat());
        if !self.data.is_empty() {
            out.resize(out.len().next_multiple_of(32), 0);
        }
        out.extend(&self.data);
        out
    }
}

const F32: u32 = 0;
const Q4_K: u32 = 12;

fn problem(bytes: &[u8]) -> GgufProblem {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    let error = GgufFile::open(&path).unwrap_err();
    let shown = error.to_string();
    assert!(
        shown.contains("model.gguf") && shown.lines().count() <= 3 && shown.len() < 700,
        "{shown}"
    );
    match error {
        Error::Gguf { problem, .. } => problem,
        other => panic!("{other}"),
    }
}

fn is(problem: &GgufProblem, words: &[&str]) {
    let shown = problem.to_string();
    for word in words {
        assert!(shown.contains(word), "{word}: {shown}");
    }
}

#[test]
fn other_files() {
    for n in 0..4 {
        is(&problem(&b"GGUF"[..n]), &["truncated"]);
    }
    is(&problem(b"GGUF\x03\0\0"), &["the version"]);
    is(&problem(b"PK\x03\x04 and so on"), &["`PK\\x03\\x04`"]);
    is(&problem(b"tjgg\x01\0\0\0"), &["before GGUF", "ggjt"]);
    let version = |v: u32| {
        let mut bytes = Raw::default().bytes();
        bytes[4..8].copy_from_slice(&v.to_le_bytes());
        bytes
    };
    is(&problem(&version(1)), &["version 1", "convert"]);
    is(&problem(&version(0)), &["version 0"]);
    is(&problem(&version(4)), &["version 4", "newer"]);
    assert_eq!(problem(&version(3u32.swap_bytes())), GgufProblem::BigEndian);
    assert_eq!(problem(&version(2u32.swap_bytes())), GgufProblem::BigEndian);
    parse_gguf(&version(2)).unwrap();
}

#[test]
fn counts_and_lengths_beyond_the_file() {
    let good = Raw::default()
        .key("k", 4, &7u32.to_le_bytes())
        .tensor("w", &[4], F32, 0)
        .data(16)
        .bytes();
    parse_gguf(&good).unwrap();
    for claim in [
        1 << 20,
        1 << 40,
        1 << 63,
        u64::MAX,
        u64::MAX / 24,
        u64::MAX / 13,
    ] {
        for (at, what) in [(8, "tensors"), (16, "keys"), (24, "name of key 0")] {
            let mut bytes = good.clone();
            bytes[at..at + 8].copy_from_slice(&claim.to_le_bytes());
            is(&problem(&bytes), &[what]);
        }
        let string = Raw::default().key("k", 8, &claim.to_le_bytes());
        is(&problem(&string.bytes()), &["ends within k"]);
        for kind in [0u32, 7, 8, 9, 12] {
            let array = [&kind.to_le_bytes()[..], &claim.to_le_bytes()].concat();
            is(
                &problem(&Raw::default().key("k", 9, &array).bytes()),
                &["entries in k"],
            );
        }
    }
    // Cut anywhere, it is an error and never a panic.
    for n in 0..good.len() {
        problem(&good[..n]);
    }
}

#[test]
fn keys() {
    let raw = Raw::default;
    is(
        &problem(&raw().key("k", 13, &[]).bytes()),
        &["`k`", "value type 13"],
    );
    is(
        &problem(&raw().key("k", u32::MAX, &[]).bytes()),
        &["4294967295"],
    );
    is(
        &problem(&raw().key("k", 7, &[2]).bytes()),
        &["`k`", "boolean of 2"],
    );
    let bools = [&7u32.to_le_bytes()[..], &2u64.to_le_bytes(), &[1, 9]].concat();
    is(
        &problem(&raw().key("k", 9, &bools).bytes()),
        &["boolean of 9"],
    );
    let twice = raw().key("k", 0, &[1]).key("k", 0, &[1]);
    assert_eq!(
        problem(&twice.bytes()),
        GgufProblem::DuplicateKey("k".into())
    );
    let mut not_text = raw().key("k", 0, &[1]).bytes();
    not_text[32] = 0xFF;
    assert_eq!(problem(&not_text), GgufProblem::NameNotText("key 0".into()));
    for (kind, value) in [
        (4, &0u32.to_le_bytes()[..]),
        (4, &48u32.to_le_bytes()),
        (8, &text("32")),
    ] {
        let bad = raw().key("general.alignment", kind, value);
        is(
            &problem(&bad.bytes()),
            &["general.alignment", "power of two"],
        );
    }
    // An alignment so large that the data would start beyond any file.
    let far = raw().key("general.alignment", 10, &(1u64 << 63).to_le_bytes());
    is(
        &problem(&far.clone().tensor("w", &[4], F32, 0).bytes()),
        &["`w`", "truncated"],
    );
    parse_gguf(&far.bytes()).unwrap();
}

#[test]
fn nested_arrays_end_somewhere() {
    let nested = |depth: usize| {
        let mut value = vec![];
        for _ in 1..depth {
            value.extend(9u32.to_le_bytes());
            value.extend(1u64.to_le_bytes());
        }
        value.extend(0u32.to_le_bytes());
        value.extend(1u64.to_le_bytes());
        value.push(5);
        Raw::default().key("k", 9, &value).bytes()
    };
    parse_gguf(&nested(MAX_DEPTH)).unwrap();
    is(&problem(&nested(MAX_DEPTH + 1)), &["`k`", "deeper than"]);
    is(&problem(&nested(100_000)), &["deeper than"]);
}

#[test]
fn tensors() {
    let raw = Raw::default;
    let one = |dims: &[u64], kind: u32, offset: u64| {
        problem(&raw().tensor("w", dims, kind, offset).data(4096).bytes())
    };
    is(&one(&[1, 1, 1, 1, 1], F32, 0), &["`w`", "5 dimensions"]);
    is(&one(&[4, 0], F32, 0), &["[4, 0]", "is 0"]);
    is(&one(&[u64::MAX, 2], F32, 0), &["overflows"]);
    is(
        &one(&[1 << 32, 1 << 32, 1 << 32, 1], F32, 0),
        &["overflows"],
    );
    is(&one(&[128, 2], Q4_K, 0), &["multiple of 256", "q4_k"]);
    is(&one(&[], Q4_K, 0), &["multiple of 256"]);
    is(&one(&[4], 16, 0), &["type 16 (iq2_xxs)", "q4_k"]);
    is(&one(&[4], 99, 0), &["type 99,"]);
    is(&one(&[4], F32, 8), &["byte 8", "multiple of 32"]);
    let end = |p: GgufProblem| match p {
        GgufProblem::OutOfRange {
            tensor,
            end,
            available,
        } => (tensor, end, available),
        other => panic!("{other}"),
    };
    assert_eq!(end(one(&[1025], F32, 0)), ("w".into(), 4100, 4096));
    assert_eq!(end(one(&[1], F32, 4096)), ("w".into(), 4100, 4096));
    assert_eq!(
        end(one(&[1], F32, u64::MAX - 31)),
        ("w".into(), u64::MAX - 27, 4096)
    );
    assert_eq!(
        end(one(&[64], F32, u64::MAX - 31)),
        ("w".into(), u64::MAX, 4096)
    );
    let twice = raw()
        .tensor("w", &[4], F32, 0)
        .tensor("w", &[4], F32, 32)
        .data(64);
    assert_eq!(
        problem(&twice.bytes()),
        GgufProblem::DuplicateTensor("w".into())
    );
    let over = raw()
        .tensor("a", &[9], F32, 0)
        .tensor("b", &[4], F32, 32)
        .data(64);
    let overlap = GgufProblem::Overlap {
        first: "a".into(),
        second: "b".into(),
        at: 32,
    };
    assert_eq!(problem(&over.bytes()), overlap);
}

#[test]
fn good_files_are_read() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("good.gguf");
    let bytes = Raw::default()
        .tensor("scalar", &[], F32, 64)
        .tensor("w", &[256, 3, 2], Q4_K, 96)
        .tensor("b", &[2, 3], F32, 0)
        .data(96 + 144 * 6)
        .bytes();
    std::fs::write(&path, &bytes).unwrap();
    let file = GgufFile::open(&path).unwrap();
    assert_eq!((file.version, file.tensors.len()), (3, 3));
    let start = bytes.len() - (96 + 144 * 6);
    let w = file.tensors.get("w").unwrap();
    assert_eq!(
        (w.info.stored, &w.info.shape[..]),
        (StoredType::Q4_K, &[2, 3, 256][..])
    );
    assert_eq!(*w.bytes(), bytes[start + 96..]);
    assert_eq!(w.to_f32().unwrap().len(), 6 * 256);
    let b = file.tensors.get("b").unwrap();
    assert_eq!(
        (&b.info.shape[..], &*b.bytes()),
        (&[3, 2][..], &bytes[start..start + 24])
    );
    assert!(file.tensors.get("scalar").unwrap().info.shape.is_empty());
    assert!(file.tokenizer().unwrap().is_none());
    let error = file.architecture().unwrap_err().to_string();
    assert!(
        error.contains("`general.architecture` is missing"),
        "{error}"
    );
}

/// Writes `count` parts; `change` may spoil the keys of one.
fn parts(dir: &Path, count: u16, change: impl Fn(u16, &mut GgufKeys)) -> Vec<PathBuf> {
    let one = |number: u16| {
        let mut keys = GgufKeys::new();
        if number == 0 {
            keys.put_str("general.architecture", "demo");
        }
        change(number, &mut keys);
        let name = format!("model-{:05}-of-{count:05}.gguf", number + 1);
        let path = dir.join(name);
        let tensor = format!("w{number}");
        let bytes = [number as u8; 4];
        write_gguf(&path, &keys, &[(&tensor, StoredType::F32, &[1], &bytes)]).unwrap();
        path
    };
    (0..count).map(one).collect()
}

fn split(number: u16, count: u16, keys: &mut GgufKeys) {
    keys.put("split.no", Value::U16(number))
        .put("split.count", Value::U16(count))
        .put("split.tensors.count", Value::I32(count.into()));
}

#[test]
fn parts_are_joined() {
    let dir = TempDir::new().unwrap();
    let paths = parts(dir.path(), 3, |n, keys| split(n, 3, keys));
    for path in &paths {
        let file = GgufFile::open(path).unwrap();
        assert_eq!(file.path, paths[0]);
        assert_eq!(file.architecture().unwrap(), "demo");
        assert_eq!(file.tensors.names().collect::<Vec<_>>(), ["w0", "w1", "w2"]);
        for n in 0..3u8 {
            assert_eq!(
                file.tensors.get(&format!("w{n}")).unwrap().bytes(),
                [n; 4].as_slice()
            );
        }
    }
    let renamed = dir.path().join("other.gguf");
    std::fs::copy(&paths[1], &renamed).unwrap();
    let error = GgufFile::open(&renamed).unwrap_err().to_string();
    assert!(
        error.contains("part 2 of 3") && error.contains("-00002-of-00003.gguf"),
        "{error}"
    );
    std::fs::remove_file(&paths[1]).unwrap();
    for path in [&paths[0], &paths[2]] {
        let error = GgufFile::open(path).unwrap_err().to_string();
        assert!(error.contains("part 2 of 3 is missing"), "{error}");
        assert!(error.contains("model-00002-of-00003.gguf"), "{error}");
    }
}

#[test]
fn parts_that_do_not_fit_each_other() {
    let broken = |change: &dyn Fn(u16, &mut GgufKeys)| {
        let dir = TempDir::new().unwrap();
        let paths = parts(dir.path(), 2, change);
        GgufFile::open(&paths[0]).unwrap_err().to_string()
    };
    let numbers = broken(&|_, keys| split(0, 2, keys));
    assert!(
        numbers.contains("part 1 of 2, wanted part 2 of 2"),
        "{numbers}"
    );
    let counts = broken(&|n, keys| split(n, 2 + n, keys));
    assert!(counts.contains("part 2 of 3, wanted"), "{counts}");
    let lonely = broken(&|n, keys| {
        if n == 0 {
            split(0, 2, keys)
        }
    });
    assert!(lonely.contains("part 1 of 1, wanted"), "{lonely}");
    let tensors = broken(&|n, keys| {
        keys.put("split.no", Value::U16(n))
            .put("split.count", Value::U16(2))
            .put("split.tensors.count", Value::I32(5));
    });
    assert!(
        tensors.contains("hold 2 tensors") && tensors.contains("says 5"),
        "{tensors}"
    );
    let beyond = broken(&|_, keys| split(2, 2, keys));
    assert!(beyond.contains("`split.no` is 2"), "{beyond}");

    let dir = TempDir::new().unwrap();
    let paths = parts(dir.path(), 2, |n, keys| split(n, 2, keys));
    let mut keys = GgufKeys::new();
    split(1, 2, &mut keys);
    write_gguf(&paths[1], &keys, &[("w0", StoredType::F32, &[1], &[0; 4])]).unwrap();
    let error = GgufFile::open(&paths[0]).unwrap_err().to_string();
    assert!(error.contains("`w0` is there twice"), "{error}");
}
