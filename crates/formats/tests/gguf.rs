//! Reading and writing GGUF: every damaged form is an error of its own.

use std::path::{Path, PathBuf};

use formats::gguf::{GgufKeys, GgufProblem, MAX_DEPTH, Value, ValueType, parse_gguf, write_gguf};
use formats::{Error, GgufFile, GgufWriter, StoredType};
use proptest::prelude::*;
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
    assert_eq!(w.bytes, &bytes[start + 96..]);
    assert_eq!(w.to_f32().unwrap().len(), 6 * 256);
    let b = file.tensors.get("b").unwrap();
    assert_eq!(
        (&b.info.shape[..], b.bytes),
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

fn example_keys() -> GgufKeys {
    let mut keys = GgufKeys::new();
    keys.put_str("general.architecture", "demo")
        .put("demo.block_count", Value::U32(2))
        .put("demo.eps", Value::F32(1e-5))
        .put("demo.scale", Value::F64(0.1))
        .put("demo.nan", Value::F32(f32::NAN))
        .put("demo.flag", Value::Bool(true))
        .put("demo.small", Value::I8(-3))
        .put("demo.large", Value::U64(u64::MAX))
        .put("demo.raw", Value::Str(b"\xFF\xFE"))
        .put_u32s("demo.heads", &[4, 8])
        .put_bools("demo.window", &[true, false])
        .put_f32s("demo.factors", &[0.5, 2.0])
        .put_i32s("demo.sections", &[-1, 3])
        .put_strs("demo.names", &["a", "", "é"]);
    keys
}

fn written(keys: &GgufKeys) -> (TempDir, GgufFile) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.gguf");
    write_gguf(&path, keys, &[]).unwrap();
    let file = GgufFile::open(&path).unwrap();
    (dir, file)
}

#[test]
fn typed_access_names_the_key() {
    let (_dir, file) = written(&example_keys());
    let demo = file.config().unwrap();
    assert_eq!(demo.layers("block_count").unwrap(), 2);
    assert_eq!(demo.f64("eps").unwrap(), f64::from(1e-5f32));
    assert_eq!(demo.positive_f64("scale").unwrap(), 0.1);
    assert_eq!(demo.f64("small").unwrap(), -3.0);
    assert!(demo.bool("flag").unwrap());
    assert_eq!(
        demo.opt_usizes_in("heads", 1..=64).unwrap().unwrap(),
        [4, 8]
    );
    assert_eq!(
        demo.opt_usizes_in("block_count", 1..=64).unwrap().unwrap(),
        [2]
    );
    assert_eq!(demo.opt_bools("window").unwrap().unwrap(), [true, false]);
    assert_eq!(demo.opt_f64s("factors").unwrap().unwrap(), [0.5, 2.0]);
    assert_eq!(demo.opt_f64s("sections").unwrap().unwrap(), [-1.0, 3.0]);
    assert_eq!(demo.opt_strs("names").unwrap().unwrap(), ["a", "", "é"]);
    assert_eq!(demo.opt_usize("absent").unwrap(), None);
    assert_eq!(file.view().usize("demo.block_count").unwrap(), 2);
    let array = demo.opt_array("names").unwrap().unwrap();
    assert_eq!(
        (array.kind(), array.len(), array.iter().size_hint()),
        (ValueType::Str, 3, (3, Some(3)))
    );
    let errors = [
        (
            demo.usize("absent").unwrap_err(),
            "`demo.absent` is missing",
        ),
        (
            demo.usize("small").unwrap_err(),
            "`demo.small` is -3; wanted a whole number",
        ),
        (
            demo.usize("large").unwrap_err(),
            "`demo.large` is 18446744073709551615",
        ),
        (
            demo.f64("nan").unwrap_err(),
            "`demo.nan` is NaN; wanted a finite",
        ),
        (demo.str("raw").unwrap_err(), "wanted a UTF-8 string"),
        (demo.bool("eps").unwrap_err(), "wanted true or false"),
        (demo.usize("heads").unwrap_err(), "2 of U32 [4, 8]"),
        (
            demo.opt_usizes_in("sections", 0..=9).unwrap_err(),
            "or a list of them",
        ),
        (demo.opt_strs("heads").unwrap_err(), "UTF-8 strings"),
        (
            demo.opt_f64_in("scale", 1.0..=2.0).unwrap_err(),
            "a number from 1 to 2",
        ),
    ];
    for (error, wanted) in errors {
        let shown = error.to_string();
        assert!(
            shown.contains(wanted) && shown.contains("model.gguf"),
            "{shown}"
        );
    }
}

#[test]
fn sampling_and_ends_of_an_answer() {
    let mut keys = example_keys();
    keys.put("general.sampling.temp", Value::F32(0.5))
        .put("general.sampling.top_k", Value::I32(40))
        .put("general.sampling.top_p", Value::F32(0.75))
        .put("general.sampling.penalty_repeat", Value::F32(1.25))
        .put("tokenizer.ggml.bos_token_id", Value::U32(1))
        .put("tokenizer.ggml.eos_token_id", Value::U32(5))
        .put("tokenizer.ggml.eot_token_id", Value::U32(7))
        .put("tokenizer.ggml.eom_token_id", Value::U32(5));
    let (_dir, file) = written(&keys);
    let found = file.generation().unwrap();
    assert_eq!(found.eos_token_ids, [5, 7]);
    assert_eq!((found.bos_token_id, found.pad_token_id), (Some(1), None));
    assert_eq!(
        (found.temperature, found.top_k, found.top_p),
        (Some(0.5), Some(40), Some(0.75))
    );
    assert_eq!((found.min_p, found.repetition_penalty), (None, Some(1.25)));
    keys.put("general.sampling.min_p", Value::F32(1.5));
    let error = written(&keys).1.generation().unwrap_err().to_string();
    assert!(error.contains("general.sampling.min_p"), "{error}");
}

#[test]
fn what_is_written_is_read_back() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.gguf");
    let blocks: Vec<u8> = (0..2 * 144).map(|i| i as u8).collect();
    let floats = [1.0f32, -2.0, 3.5].map(f32::to_le_bytes).concat();
    for alignment in [None, Some(8u32), Some(4096)] {
        let mut keys = example_keys();
        if let Some(alignment) = alignment {
            keys.put("general.alignment", Value::U32(alignment));
        }
        write_gguf(
            &path,
            &keys,
            &[
                ("f", StoredType::F32, &[3], &floats),
                ("q", StoredType::Q4_K, &[2, 256], &blocks),
                ("g", StoredType::F32, &[1, 3, 1], &floats),
            ],
        )
        .unwrap();
        let file = GgufFile::open(&path).unwrap();
        for (name, shape, bytes) in [
            ("f", &[3][..], &floats),
            ("q", &[2, 256], &blocks),
            ("g", &[1, 3, 1], &floats),
        ] {
            let tensor = file.tensors.get(name).unwrap();
            assert_eq!(
                (&tensor.info.shape[..], tensor.bytes),
                (shape, &bytes[..]),
                "{name}"
            );
            assert_eq!(tensor.info.offset % u64::from(alignment.unwrap_or(32)), 0);
        }
        // Copied key by key, every value survives.
        let mut copy = GgufKeys::new();
        for (key, value) in file.metadata.iter() {
            copy.put(key, value);
        }
        let (_dir, again) = written(&copy);
        assert_eq!(again.metadata.len(), file.metadata.len());
        for ((a, x), (b, y)) in file.metadata.iter().zip(again.metadata.iter()) {
            assert_eq!((a, format!("{x:?}")), (b, format!("{y:?}")));
        }
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn the_writer_refuses_and_leaves_nothing_behind() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.gguf");
    let create = |keys: &GgufKeys, tensors: &[(&str, StoredType, &[usize])]| {
        GgufWriter::create(&path, keys, tensors)
            .map(drop)
            .unwrap_err()
            .to_string()
    };
    let keys = GgufKeys::new();
    let f32 = StoredType::F32;
    for (error, wanted) in [
        (
            create(&keys, &[("w", f32, &[1]), ("w", f32, &[1])]),
            "taken",
        ),
        (
            create(&keys, &[("w", StoredType::Bool, &[1])]),
            "no type for bool",
        ),
        (
            create(&keys, &[("w", StoredType::Q6_K, &[256, 8])]),
            "multiple of 256",
        ),
        (create(&keys, &[("w", f32, &[usize::MAX, 9])]), "overflows"),
        (create(&keys, &[("w", f32, &[0])]), "dimensions"),
        (create(&keys, &[("w", f32, &[1, 1, 1, 1, 1])]), "dimensions"),
        (
            create(
                GgufKeys::new()
                    .put("a", Value::U8(1))
                    .put("a", Value::U8(2)),
                &[],
            ),
            "twice",
        ),
        (
            create(GgufKeys::new().put("general.alignment", Value::U32(3)), &[]),
            "power of two",
        ),
    ] {
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
    let writer = || GgufWriter::create(&path, &keys, &[("w", f32, &[2])]).unwrap();
    let mut too_much = writer();
    too_much.write(&[0; 4]).unwrap();
    assert!(
        too_much
            .write(&[0; 5])
            .unwrap_err()
            .to_string()
            .contains("4 are left")
    );
    drop(too_much);
    let mut too_little = writer();
    too_little.write(&[0; 4]).unwrap();
    assert!(
        too_little
            .finish()
            .unwrap_err()
            .to_string()
            .contains("4 bytes of it")
    );
    let mut past = writer();
    past.write(&[0; 8]).unwrap();
    assert!(
        past.write(&[0; 1])
            .unwrap_err()
            .to_string()
            .contains("all tensors")
    );
    drop(past);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let nowhere = dir.path().join("no/such/folder.gguf");
    let error = write_gguf(&nowhere, &keys, &[]).unwrap_err();
    assert!(matches!(error, Error::Unwritable { .. }), "{error}");
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
            assert_eq!(file.tensors.get(&format!("w{n}")).unwrap().bytes, [n; 4]);
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

/// The same cases on every run; a regression is a case of its own, not a file.
fn fixed_seed(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        rng_seed: proptest::test_runner::RngSeed::Fixed(20),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn seed_file() -> Vec<u8> {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("seed.gguf");
    let mut keys = example_keys();
    keys.put_str("tokenizer.ggml.model", "llama")
        .put_strs(
            "tokenizer.ggml.tokens",
            &["<unk>", "<s>", "</s>", "a", "▁a"],
        )
        .put_f32s("tokenizer.ggml.scores", &[0.0, 0.0, 0.0, -1.0, -2.0])
        .put_i32s("tokenizer.ggml.token_type", &[2, 3, 3, 1, 1]);
    let (f, q) = ([0; 24], [1; 144]);
    let tensors: &[formats::TensorToWrite<'_>] = &[
        ("f", StoredType::F32, &[2, 3], &f),
        ("q", StoredType::Q4_K, &[1, 256], &q),
    ];
    write_gguf(&path, &keys, tensors).unwrap();
    std::fs::read(&path).unwrap()
}

/// Whatever `bytes` are: no panic, and what is accepted holds together.
fn survives(bytes: &[u8]) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x.gguf");
    std::fs::write(&path, bytes).unwrap();
    let Ok(file) = GgufFile::open(&path) else {
        return;
    };
    for tensor in file.tensors.iter() {
        if tensor.info.bytes < 1 << 20 {
            drop(tensor.to_f32());
        }
    }
    for (key, value) in file.metadata.iter() {
        assert!(value.to_string().len() < 2000, "{key}");
        if let Value::Array(array) = value {
            assert_eq!(array.iter().count(), array.len());
        }
    }
    drop(file.generation());
    if let Ok(Some(tokenizer)) = file.tokenizer() {
        drop(tokenizer.encode("aa a <s>é", true));
    }
}

proptest! {
    #![proptest_config(fixed_seed(600))]

    #[test]
    fn changed_bytes_are_survived(
        changes in proptest::collection::vec(
            (any::<prop::sample::Index>(), prop_oneof![any::<u8>(), Just(0), Just(1), Just(0xFF)]),
            1..6,
        ),
    ) {
        static SEED: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(seed_file);
        let mut bytes = SEED.clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        survives(&bytes);
    }

    #[test]
    fn changed_words_are_survived(
        at in any::<prop::sample::Index>(),
        word in prop_oneof![any::<u64>(), 0u64..40, Just(u64::MAX), Just(1 << 63), Just(1 << 32)],
        cut in any::<prop::sample::Index>(),
    ) {
        static SEED: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(seed_file);
        let mut bytes = SEED.clone();
        let at = at.index(bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        survives(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        survives(&bytes);
    }

    #[test]
    fn noise_is_survived(
        version in 2u32..4,
        counts in proptest::array::uniform2(0u64..6),
        noise in proptest::collection::vec(prop_oneof![3 => Just(0u8), 2 => 0u8..14, 1 => any::<u8>()], 0..300),
    ) {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(version.to_le_bytes());
        bytes.extend(counts.iter().flat_map(|c| c.to_le_bytes()));
        bytes.extend(noise);
        survives(&bytes);
    }
}
