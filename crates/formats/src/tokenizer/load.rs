//! Reading tokenizer.json.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{
    AddedToken, Model as _, ModelWrapper, NormalizerWrapper, PostProcessorWrapper,
    PreTokenizerWrapper,
};

use super::spm::Core;
use super::{Inner, PieceDecoder, tokenizer_error};
use crate::config::{MAX_DIM, read_limited};
use crate::error::{Error, Result, excerpt};
use crate::guard::guarded;

const MAX_BYTES: u64 = 512 << 20;

pub(super) struct Loaded {
    pub inner: Inner,
    pub pieces: PieceDecoder,
    pub special: BTreeSet<u32>,
    pub vocab_size: usize,
}

#[derive(Deserialize)]
struct Outline<'a> {
    #[serde(borrow)]
    model: &'a RawValue,
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(borrow, default)]
    normalizer: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pre_tokenizer: Option<&'a RawValue>,
    #[serde(borrow, default)]
    post_processor: Option<&'a RawValue>,
    #[serde(default)]
    decoder: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

#[derive(Deserialize)]
struct ModelKind {
    #[serde(rename = "type", default)]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct BpeModel {
    vocab: Vocab,
    merges: Vec<Merge>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: Option<bool>,
    #[serde(default)]
    byte_fallback: Option<bool>,
    #[serde(default)]
    ignore_merges: Option<bool>,
}

pub(super) fn load(path: &Path) -> Result<Loaded> {
    if !path.exists() {
        return Err(Error::Missing {
            wanted: "tokenizer",
            path: path.to_path_buf(),
            hint: "it turns text into token ids, download it into the model's folder; \
                   `logits --ids` works without it"
                .into(),
        });
    }
    let text = read_limited(path, "a tokenizer", MAX_BYTES)?;
    guarded(|| parse(&text))
        .and_then(|parsed| parsed)
        .map_err(|problem| tokenizer_error(path, problem))
}

fn parse(text: &[u8]) -> Result<Loaded, String> {
    let outline: Outline<'_> = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    let (model, model_vocab) = parse_model(outline.model)?;
    let pieces = PieceDecoder::from_json(outline.decoder.as_ref())?;

    let mut inner = Inner::new(Core::Library(Box::new(model)));
    inner
        .with_normalizer(part::<NormalizerWrapper>("normalizer", outline.normalizer)?)
        .with_pre_tokenizer(part::<PreTokenizerWrapper>(
            "pre_tokenizer",
            outline.pre_tokenizer,
        )?)
        .with_post_processor(part::<PostProcessorWrapper>(
            "post_processor",
            outline.post_processor,
        )?);
    let (ids, tokens): (Vec<u32>, Vec<AddedToken>) = outline
        .added_tokens
        .into_iter()
        .map(|added| (added.id, added.token))
        .unzip();
    inner.add_tokens(&tokens);

    let mut special = BTreeSet::new();
    let mut vocab_size = model_vocab;
    for (id, token) in ids.into_iter().zip(&tokens) {
        // The library numbers added tokens by itself; a file with gaps would be renumbered.
        match inner.token_to_id(&token.content) {
            Some(found) if found == id => {}
            found => {
                return Err(format!(
                    "added token `{}` says it has id {id}, but its place gives {}",
                    excerpt(&token.content, 60),
                    found.map_or("none".into(), |n| n.to_string()),
                ));
            }
        }
        vocab_size = vocab_size.max(id as usize + 1);
        if token.special {
            special.insert(id);
        }
    }
    if vocab_size == 0 || vocab_size > MAX_DIM {
        return Err(format!(
            "its largest token id plus one is {vocab_size}, wanted 1 to {MAX_DIM}"
        ));
    }
    Ok(Loaded {
        inner,
        pieces,
        special,
        vocab_size,
    })
}

fn part<'a, T: Deserialize<'a>>(
    name: &str,
    raw: Option<&'a RawValue>,
) -> Result<Option<T>, String> {
    // A null reaches us as a raw `null`, which the wrapped types do not take.
    raw.filter(|raw| raw.get() != "null")
        .map(|raw| serde_json::from_str(raw.get()))
        .transpose()
        .map_err(|e| format!("its {name} is not understood: {e}"))
}

/// The model and its largest id plus one.
fn parse_model(raw: &RawValue) -> Result<(ModelWrapper, usize), String> {
    let fail = |e: serde_json::Error| format!("its model is not understood: {e}");
    let kind: ModelKind = serde_json::from_str(raw.get()).map_err(fail)?;
    if kind.kind.as_deref() != Some("BPE") {
        let model: ModelWrapper = serde_json::from_str(raw.get()).map_err(fail)?;
        let largest = model.get_vocab().values().copied().max();
        return Ok((model, largest.map_or(0, |id| id as usize + 1)));
    }
    let bpe: BpeModel = serde_json::from_str(raw.get()).map_err(fail)?;
    let size = bpe.vocab.values().max().map_or(0, |&id| id as usize + 1);
    // The builder cuts this prefix off every right half without looking.
    if let Some(prefix) = bpe.continuing_subword_prefix.as_deref() {
        let cut = |Merge(_, right): &Merge| right.get(prefix.len()..).is_none();
        if bpe.merges.iter().any(cut) {
            return Err("a merge lacks the continuing_subword_prefix".into());
        }
    }
    let merges = bpe.merges.into_iter().map(|Merge(a, b)| (a, b)).collect();
    let mut builder = BPE::builder()
        .cache_capacity(super::cached_pieces(size))
        .vocab_and_merges(bpe.vocab, merges)
        .fuse_unk(bpe.fuse_unk.unwrap_or(false))
        .byte_fallback(bpe.byte_fallback.unwrap_or(false))
        .ignore_merges(bpe.ignore_merges.unwrap_or(false));
    if let Some(token) = bpe.unk_token {
        builder = builder.unk_token(token);
    }
    if let Some(prefix) = bpe.continuing_subword_prefix {
        builder = builder.continuing_subword_prefix(prefix);
    }
    if let Some(suffix) = bpe.end_of_word_suffix {
        builder = builder.end_of_word_suffix(suffix);
    }
    let model = builder
        .build()
        .map_err(|e| format!("its merges do not fit its vocabulary: {e}"))?;
    Ok((ModelWrapper::BPE(model), size))
}

/// A pair of tokens to join, written `["a", "b"]` or, in older files, `"a b"`.
struct Merge(String, String);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MergeVisitor;

        impl<'de> Visitor<'de> for MergeVisitor {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge, [\"a\", \"b\"] or \"a b\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Merge, E> {
                match text.split_once(' ') {
                    Some((a, b)) if !b.contains(' ') => Ok(Merge(a.into(), b.into())),
                    _ => Err(E::custom(format_args!(
                        "merge {:?} is not two tokens",
                        excerpt(text, 60)
                    ))),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merge, A::Error> {
                let mut next = || seq.next_element::<String>();
                match (next()?, next()?, next()?) {
                    (Some(a), Some(b), None) => Ok(Merge(a, b)),
                    _ => Err(A::Error::custom("a merge is not two tokens")),
                }
            }
        }

        deserializer.deserialize_any(MergeVisitor)
    }
}
