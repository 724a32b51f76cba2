//! Writing GGUF, typed access to what was written, and random damage to it.

use formats::gguf::{GgufKeys, Value, ValueType, write_gguf};
use formats::{Error, GgufFile, GgufWriter, StoredType};
use proptest::prelude::*;
use tempfile::TempDir;

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
    let mut keys = GgufKeys::new();
    keys.put("general.sampling.top_k", Value::I32(-1))
        .put("tokenizer.ggml.bos_token_id", Value::U32(u32::MAX));
    let found = written(&keys).1.generation().unwrap();
    assert_eq!((found.top_k, found.bos_token_id), (Some(0), None));
    // Ends that no key names are known by their names.
    let ends = |tokens: &[&str]| {
        let mut keys = GgufKeys::new();
        keys.put_strs("tokenizer.ggml.tokens", tokens)
            .put("tokenizer.ggml.eos_token_id", Value::U32(1));
        written(&keys).1.generation().unwrap().eos_token_ids
    };
    assert_eq!(ends(&["<|eot_id|>", "</s>", "a", "<|end|>"]), [1, 0, 3]);
    assert_eq!(ends(&["<|end|>", "<|return|>", "<|call|>"]), [1, 2]);
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
                (&tensor.info.shape[..], &*tensor.bytes()),
                (shape, &bytes[..]),
                "{name}"
            );
            assert_eq!(
                tensor.info.place.unwrap().offset % u64::from(alignment.unwrap_or(32)),
                0
            );
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
