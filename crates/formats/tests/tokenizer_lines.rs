//! Token ids of 2,000 lines of mixed text against those of the PyPI packages `tokenizers` and
//! `sentencepiece`; golden/lines.py says how the two sides meet.

use std::path::{Path, PathBuf};

use formats::gguf::{GgufKeys, Value, write_gguf};
use formats::{GgufFile, Tokenizer};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    eval_lines: usize,
    lines: Vec<String>,
    bpe: Bpe,
    spm: Vec<(String, f32, i32)>,
    runs: Vec<String>,
    hashes: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Bpe {
    merges: Vec<String>,
    words: Vec<String>,
    added: Vec<String>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn golden() -> Golden {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/lines.json");
    // Another file may be given for a run by hand, made with another seed.
    let path = std::env::var_os("ESPALIER_TOKENIZER_LINES").map_or(path, PathBuf::from);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

impl Golden {
    fn texts(&self) -> Vec<String> {
        let eval = std::fs::read_to_string(fixtures().join("eval.txt")).unwrap();
        let eval = eval.split('\n').filter(|line| !line.is_empty());
        let eval = eval.take(self.eval_lines).map(str::to_string);
        eval.chain(self.lines.iter().cloned()).collect()
    }

    /// Every line's ids are those of the reference.
    #[track_caller]
    fn check(&self, name: &str, tokenizer: &Tokenizer) {
        let texts = self.texts();
        assert_eq!(texts.len(), 2000);
        let hashes = self.hashes[name].as_bytes().as_chunks::<4>().0;
        assert_eq!(hashes.len(), texts.len());
        let differ = texts.iter().zip(hashes).filter_map(|(text, wanted)| {
            let ids = tokenizer.encode(text, false).unwrap();
            let tokens = ids.iter().filter_map(|id| tokenizer.token_text(*id));
            (hash(&ids) != *wanted).then(|| (text, tokens.collect::<Vec<_>>()))
        });
        let differ: Vec<_> = differ.collect();
        let shown = differ.iter().take(5);
        let shown: Vec<String> = shown.map(|(t, ids)| format!("{t:?}: {ids:?}")).collect();
        assert!(
            differ.is_empty(),
            "{name}: {} lines differ\n{}",
            differ.len(),
            shown.join("\n")
        );
    }

    fn bpe(&self, pre: &str) -> GgufKeys {
        // The alphabet of byte-level vocabularies: printable bytes stand for themselves.
        let mut alphabet: Vec<char> = (0..=255u8)
            .map(char::from)
            .filter(|c| matches!(c, '!'..='~' | '¡'..='¬' | '®'..='ÿ'))
            .collect();
        alphabet.extend((256..256 + 256 - alphabet.len() as u32).filter_map(char::from_u32));
        alphabet.sort_unstable();
        let bytes = alphabet.into_iter().map(String::from);
        let merged = self.bpe.merges.iter().map(|m| m.replace(' ', ""));
        let mut tokens: Vec<String> = bytes.chain(merged).collect();
        tokens.extend(self.bpe.words.iter().chain(&self.bpe.added).cloned());
        let mut types = vec![1; tokens.len()];
        types[tokens.len() - 2..].copy_from_slice(&[3, 4]);
        let mut keys = GgufKeys::new();
        keys.put_str("tokenizer.ggml.model", "gpt2")
            .put_str("tokenizer.ggml.pre", pre)
            .put_strs("tokenizer.ggml.tokens", &tokens)
            .put_i32s("tokenizer.ggml.token_type", &types)
            .put_strs("tokenizer.ggml.merges", &self.bpe.merges);
        keys
    }

    fn spm(&self, prefix: bool, symbols: &[String]) -> GgufKeys {
        let mut pieces = self.spm.clone();
        for symbol in symbols {
            match pieces.iter_mut().find(|p| p.0 == *symbol) {
                Some(piece) => piece.2 = 4,
                None => pieces.push((symbol.clone(), 0.0, 4)),
            }
        }
        let texts: Vec<&str> = pieces.iter().map(|p| p.0.as_str()).collect();
        let scores: Vec<f32> = pieces.iter().map(|p| p.1).collect();
        let types: Vec<i32> = pieces.iter().map(|p| p.2).collect();
        let mut keys = GgufKeys::new();
        keys.put_str("tokenizer.ggml.model", "llama")
            .put_strs("tokenizer.ggml.tokens", &texts)
            .put_f32s("tokenizer.ggml.scores", &scores)
            .put_i32s("tokenizer.ggml.token_type", &types)
            .put("tokenizer.ggml.add_space_prefix", Value::Bool(prefix));
        keys
    }
}

/// Four characters of base64 for 24 bits of FNV-1a.
fn hash(ids: &[u32]) -> [u8; 4] {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes = ids.iter().flat_map(|id| id.to_le_bytes());
    let hash = bytes.fold(0x811c_9dc5_u32, |h, b| {
        (h ^ u32::from(b)).wrapping_mul(0x0100_0193)
    });
    [18, 12, 6, 0].map(|shift| DIGITS[(hash >> shift & 63) as usize])
}

fn loaded(keys: &GgufKeys) -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vocab.gguf");
    write_gguf(&path, keys, &[]).unwrap();
    GgufFile::open(&path).unwrap().tokenizer().unwrap().unwrap()
}

#[test]
fn byte_level_splits_equal_tokenizers() {
    let golden = golden();
    let others = ["ferris-9m", "llama", "gemma"];
    let names = golden
        .hashes
        .keys()
        .filter(|n| !others.contains(&n.as_str()));
    assert!(names.clone().count() >= 13);
    for name in names {
        let tokenizer = loaded(&golden.bpe(name));
        golden.check(name, &tokenizer);
        if ["qwen2", "qwen35", "command-r"].contains(&name.as_str()) {
            // These compose characters first.
            continue;
        }
        for text in golden.texts() {
            let ids = tokenizer.encode(&text, false).unwrap();
            assert_eq!(tokenizer.decode(&ids, false), text, "{name}");
        }
    }
}

#[test]
fn a_folder_equals_tokenizers() {
    let folder = Tokenizer::from_dir(&fixtures().join("models/ferris-9m")).unwrap();
    golden().check("ferris-9m", &folder);
}

#[test]
fn scored_pieces_equal_sentencepiece() {
    let golden = golden();
    golden.check("llama", &loaded(&golden.spm(true, &[])));
    golden.check("gemma", &loaded(&golden.spm(false, &golden.runs)));
}

/// The fixture can tell: another split of the same vocabulary shows on many lines.
#[test]
fn another_split_is_seen() {
    let golden = golden();
    let tokenizer = loaded(&golden.bpe("gpt-2"));
    let own = golden.texts().into_iter();
    let own: Vec<_> = own
        .map(|text| hash(&tokenizer.encode(&text, false).unwrap()))
        .collect();
    for (name, hashes) in &golden.hashes {
        let hashes = hashes.as_bytes().as_chunks::<4>().0;
        let differ = own.iter().zip(hashes).filter(|(a, b)| a != b);
        assert_eq!(differ.count() > 100, name != "gpt-2", "{name}");
    }
}
