//! The tokenizer of a GGUF file, out of its `tokenizer.*` keys.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use serde_json::json;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{Prepend, Replace, Sequence};
use tokenizers::{AddedToken, ModelWrapper, NormalizerWrapper};

use super::pre::Pre;
use super::spm::{Core, Spm, TokenKind};
use super::{Inner, PieceDecoder, Tokenizer, TokenizerConfig, tokenizer_error};
use crate::config::MAX_DIM;
use crate::error::{Error, Result, excerpt};
use crate::gguf::{Metadata, MetadataView, Value};
use crate::guard::guarded;

/// What the two kinds have in common, read and checked.
struct Vocabulary<'a> {
    view: MetadataView<'a>,
    tokens: Vec<String>,
    kinds: Vec<TokenKind>,
    /// Whether the file says what tokens are for.
    typed: bool,
}

/// What they do not.
struct Parts {
    inner: Inner,
    pieces: PieceDecoder,
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    add_bos: bool,
}

pub(super) fn load(metadata: &Metadata) -> Result<Option<Tokenizer>> {
    let view = metadata.view().within("tokenizer.ggml");
    let parts = match view.opt_str("model")? {
        None | Some("no_vocab" | "none") => return Ok(None),
        Some("gpt2") => load_bpe,
        Some("llama") => load_spm,
        Some(other) => {
            let problem = format!(
                "its tokenizer is of kind `{}`; wanted gpt2 or llama; `logits --ids` works without a tokenizer",
                excerpt(other, 40)
            );
            return Err(tokenizer_error(view.file(), problem));
        }
    };
    let vocabulary = Vocabulary::read(view.clone())?;
    // The library trusts what it is given.
    let built = guarded(|| {
        let mut parts = parts(&vocabulary, metadata)?;
        let special = add_tokens(&mut parts, &vocabulary, metadata)?;
        Ok((parts, special))
    });
    let (parts, special) = built.map_err(|e| tokenizer_error(view.file(), e))??;
    let config = config(&parts, &vocabulary, metadata)?;
    Ok(Some(Tokenizer {
        vocab_size: vocabulary.tokens.len(),
        bos: parts.bos,
        eos: parts.eos,
        inner: parts.inner,
        pieces: parts.pieces,
        special,
        config,
        path: metadata.path().to_path_buf(),
    }))
}

impl<'a> Vocabulary<'a> {
    fn read(view: MetadataView<'a>) -> Result<Self> {
        let wanted = "a list of UTF-8 strings";
        let Some(list) = view.opt_strs("tokens")? else {
            return Err(Error::FieldMissing {
                path: view.file().to_path_buf(),
                field: "tokenizer.ggml.tokens".into(),
                wanted: wanted.into(),
            });
        };
        if list.is_empty() || list.len() > MAX_DIM {
            let wanted = format!("{wanted}, 1 to {MAX_DIM} of them");
            return Err(view.invalid("tokens", &wanted));
        }
        let name = |(id, token): (usize, &&str)| match *token {
            // Several tokens may be empty, but names must differ.
            "" => format!("[EMPTY_{id}]"),
            token => token.to_string(),
        };
        let tokens: Vec<String> = list.iter().enumerate().map(name).collect();
        let mut seen: HashMap<&str, usize> = HashMap::with_capacity(tokens.len());
        for (id, token) in tokens.iter().enumerate() {
            if let Some(first) = seen.insert(token, id) {
                let shown = excerpt(token, 60);
                let problem = format!("its tokens {first} and {id} are both `{shown}`");
                return Err(tokenizer_error(view.file(), problem));
            }
        }
        let types = parallel(&view, "token_type", tokens.len(), |value| match value {
            Value::I32(kind) => Some(kind),
            other => i32::try_from(other.as_u64()?).ok(),
        })?;
        let kinds = match &types {
            Some(types) => types.iter().map(|&t| kind_of(t)).collect(),
            None => tokens.iter().map(|token| kind_by_name(token)).collect(),
        };
        Ok(Self {
            typed: types.is_some(),
            view,
            tokens,
            kinds,
        })
    }

    /// A special token's id by its key.
    fn id(&self, key: &str) -> Result<Option<u32>> {
        let last = self.tokens.len() - 1;
        // In range: the vocabulary has at most MAX_DIM tokens.
        Ok(self.view.opt_usize_in(key, 0..=last)?.map(|id| id as u32))
    }

    /// `id` if the vocabulary has it, for the kinds whose special tokens have ids by custom.
    fn usual(&self, id: u32) -> Option<u32> {
        ((id as usize) < self.tokens.len()).then_some(id)
    }

    fn text(&self, id: Option<u32>) -> Option<String> {
        self.tokens.get(usize::try_from(id?).ok()?).cloned()
    }
}

/// A list with an entry for each token, or `None` when absent.
fn parallel<T>(
    view: &MetadataView<'_>,
    key: &str,
    length: usize,
    pick: impl Fn(Value<'_>) -> Option<T>,
) -> Result<Option<Vec<T>>> {
    let Some(array) = view.opt_array(key)? else {
        return Ok(None);
    };
    let wanted = format!("{length} numbers, one for each token");
    if array.len() != length {
        return Err(view.invalid(key, &wanted));
    }
    let picked: Option<Vec<T>> = array.iter().map(pick).collect();
    picked.map(Some).ok_or_else(|| view.invalid(key, &wanted))
}

fn kind_of(number: i32) -> TokenKind {
    match number {
        2 => TokenKind::Unknown,
        3 => TokenKind::Control,
        4 => TokenKind::UserDefined,
        5 => TokenKind::Unused,
        6 => TokenKind::Byte,
        _ => TokenKind::Normal,
    }
}

/// For files that do not say what tokens are for.
fn kind_by_name(token: &str) -> TokenKind {
    match token {
        "<unk>" => TokenKind::Unknown,
        "<s>" | "</s>" => TokenKind::Control,
        _ if token.len() == 6 && token.starts_with("<0x") && token.ends_with('>') => {
            TokenKind::Byte
        }
        _ => TokenKind::Normal,
    }
}

fn load_bpe(vocabulary: &Vocabulary<'_>, metadata: &Metadata) -> Result<Parts> {
    let fail = |problem: String| tokenizer_error(metadata.path(), problem);
    let view = &vocabulary.view;
    let name = view.opt_str("pre")?.unwrap_or("");
    let Some(pre) = Pre::named(name) else {
        return Err(fail(format!(
            "its pre-tokenizer `{}` is not known, so text would be split wrongly; `logits --ids` works without it; known: {}",
            excerpt(name, 40),
            Pre::known()
        )));
    };
    let Some(merges) = view.opt_strs("merges")? else {
        return Err(Error::FieldMissing {
            path: view.file().to_path_buf(),
            field: "tokenizer.ggml.merges".into(),
            wanted: "a list of UTF-8 strings".into(),
        });
    };
    let merges = merges.into_iter().map(|merge| {
        // A token may start with a space but has none inside.
        let at = merge.char_indices().skip(1).find(|(_, c)| *c == ' ');
        let (left, right) = merge.split_at(at.map(|(at, _)| at)?);
        Some((left.to_string(), right[1..].to_string()))
    });
    let merges: Option<Vec<_>> = merges.collect();
    let merges = merges.ok_or_else(|| view.invalid("merges", "pairs of tokens, each `a b`"))?;
    let ids = vocabulary.tokens.iter().cloned().zip(0u32..);
    let model = BPE::builder()
        .vocab_and_merges(ids.collect::<tokenizers::models::bpe::Vocab>(), merges)
        .ignore_merges(pre.ignore_merges)
        .cache_capacity(super::cached_pieces(vocabulary.tokens.len()))
        .build()
        .map_err(|e| fail(format!("its merges do not fit its vocabulary: {e}")))?;
    let mut inner = Inner::new(Core::Library(Box::new(ModelWrapper::BPE(model))));
    inner
        .with_normalizer(pre.normalizer())
        .with_pre_tokenizer(Some(pre.pre_tokenizer().map_err(fail)?));
    let decoder = json!({"type": "ByteLevel"});
    Ok(Parts {
        inner,
        pieces: PieceDecoder::from_json(Some(&decoder)).map_err(fail)?,
        bos: vocabulary.id("bos_token_id")?,
        eos: vocabulary.id("eos_token_id")?,
        unknown: vocabulary.id("unknown_token_id")?,
        add_bos: pre.add_bos,
    })
}

fn load_spm(vocabulary: &Vocabulary<'_>, metadata: &Metadata) -> Result<Parts> {
    let fail = |problem: String| tokenizer_error(metadata.path(), problem);
    let view = &vocabulary.view;
    let length = vocabulary.tokens.len();
    let scores = parallel(view, "scores", length, |value| {
        let score = value.as_f64()? as f32;
        (!score.is_nan()).then_some(score)
    })?;
    let Some(scores) = scores else {
        return Err(Error::FieldMissing {
            path: view.file().to_path_buf(),
            field: "tokenizer.ggml.scores".into(),
            wanted: format!("{length} numbers, one for each token"),
        });
    };
    let unknown = vocabulary.id("unknown_token_id")?.or(vocabulary.usual(0));
    let spm = Spm::new(
        vocabulary.tokens.clone(),
        &scores,
        &vocabulary.kinds,
        unknown,
    );
    let prefix = view.opt_bool("add_space_prefix")?.unwrap_or(true);
    let spaces = Replace::new(" ", "▁").map_err(|e| fail(e.to_string()))?;
    let mut normalizers = vec![NormalizerWrapper::Replace(spaces)];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        let prepend = Prepend::new("▁".to_string());
        normalizers.insert(0, NormalizerWrapper::Prepend(prepend));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let mut inner = Inner::new(Core::Spm(spm));
    inner.with_normalizer(Some(NormalizerWrapper::Sequence(Sequence::new(
        normalizers,
    ))));
    let decoder = json!({"type": "Sequence", "decoders": decoders});
    Ok(Parts {
        inner,
        pieces: PieceDecoder::from_json(Some(&decoder)).map_err(fail)?,
        bos: vocabulary.id("bos_token_id")?.or(vocabulary.usual(1)),
        eos: vocabulary.id("eos_token_id")?.or(vocabulary.usual(2)),
        unknown,
        add_bos: true,
    })
}

/// Makes the tokens that are recognised when written out in a text known to the tokenizer; returns
/// those that are not text.
fn add_tokens(
    parts: &mut Parts,
    vocabulary: &Vocabulary<'_>,
    metadata: &Metadata,
) -> Result<BTreeSet<u32>> {
    let architecture = metadata.view().opt_str("general.architecture")?;
    let spm = matches!(parts.inner.get_model(), Core::Spm(_));
    // Phi-3's tokenizer drops spaces after its control tokens, which GGUF has no key for.
    let swallows_space = |token: &str| {
        spm && architecture == Some("phi3") && !["<unk>", "<s>", "<|endoftext|>"].contains(&token)
    };
    let ends = [parts.bos, parts.eos];
    let mut special = BTreeSet::new();
    let mut added = Vec::new();
    for ((token, kind), id) in vocabulary.tokens.iter().zip(&vocabulary.kinds).zip(0u32..) {
        // A file without types still has its ends; one with types may have text as an end.
        let end = !vocabulary.typed && ends.contains(&Some(id));
        let control = end || matches!(kind, TokenKind::Control | TokenKind::Unknown);
        if control {
            special.insert(id);
        }
        if control || *kind == TokenKind::UserDefined {
            let rstrip = control && swallows_space(token);
            added.push(
                AddedToken::from(token.as_str(), control)
                    .normalized(false)
                    .rstrip(rstrip),
            );
        }
    }
    parts.inner.add_tokens(&added);
    Ok(special)
}

fn config(
    parts: &Parts,
    vocabulary: &Vocabulary<'_>,
    metadata: &Metadata,
) -> Result<TokenizerConfig> {
    let view = &vocabulary.view;
    let add_bos = view.opt_bool("add_bos_token")?.unwrap_or(parts.add_bos);
    let add_eos = view.opt_bool("add_eos_token")?.unwrap_or(false);
    Ok(TokenizerConfig {
        bos_token: vocabulary.text(parts.bos),
        eos_token: vocabulary.text(parts.eos),
        // Files that write an absurd id for "none" are not refused.
        pad_token: vocabulary.text(vocabulary.id("padding_token_id").ok().flatten()),
        unk_token: vocabulary.text(parts.unknown),
        add_bos_token: Some(add_bos),
        add_eos_token: Some(add_eos),
        chat_templates: chat_templates(metadata)?,
        chat_template_file: Path::to_path_buf(metadata.path()),
    })
}

/// `tokenizer.chat_template`, and the named ones, which have their names behind it.
fn chat_templates(metadata: &Metadata) -> Result<Vec<(String, String)>> {
    const KEY: &str = "tokenizer.chat_template";
    let view = metadata.view();
    let mut templates = Vec::new();
    if let Some(text) = view.opt_str(KEY)? {
        templates.push(("default".to_string(), text.to_string()));
    }
    for (key, _) in metadata.iter() {
        let name = key
            .strip_prefix(KEY)
            .and_then(|rest| rest.strip_prefix('.'));
        if let Some(name) = name.filter(|name| *name != "default") {
            templates.push((name.to_string(), view.str(key)?.to_string()));
        }
    }
    Ok(templates)
}
