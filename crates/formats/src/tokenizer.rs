//! Text to token ids and back.
//!
//! Splitting and merging are the `tokenizers` crate's; reading tokenizer.json and turning ids back
//! into bytes are ours. Reading, because the crate buffers the whole vocabulary several times on
//! its way in; decoding, because text that is streamed needs the bytes of each single token.

mod config;
mod gguf;
mod load;
mod pieces;
mod pre;
mod spm;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tokenizers::{
    DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl,
};

use crate::error::{Error, Result, excerpt};
use crate::gguf::Metadata;
use crate::guard::guarded;
use spm::Core;

pub use config::TokenizerConfig;
pub(crate) use pieces::{PieceDecoder, PieceState};

type Inner = TokenizerImpl<
    Core,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

/// A model's tokenizer: tokenizer.json and what tokenizer_config.json adds to it, or what a GGUF
/// file has of it.
pub struct Tokenizer {
    inner: Inner,
    pieces: PieceDecoder,
    special: BTreeSet<u32>,
    vocab_size: usize,
    config: TokenizerConfig,
    bos: Option<u32>,
    eos: Option<u32>,
    path: PathBuf,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("path", &self.path)
            .field("vocab_size", &self.vocab_size)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Loads tokenizer.json, and tokenizer_config.json where there is one, from a model folder.
    ///
    /// Errors: no tokenizer.json, either file damaged, a decoder that cannot be streamed.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let config = TokenizerConfig::from_dir(dir)?;
        let path = dir.join("tokenizer.json");
        let loaded = load::load(&path)?;
        let id_of = |token: &Option<String>| {
            let token = token.as_deref()?;
            loaded.inner.token_to_id(token)
        };
        Ok(Self {
            bos: id_of(&config.bos_token),
            eos: id_of(&config.eos_token),
            inner: loaded.inner,
            pieces: loaded.pieces,
            special: loaded.special,
            vocab_size: loaded.vocab_size,
            config,
            path,
        })
    }

    /// The tokenizer in a GGUF file; `None` for a file that says it has none.
    ///
    /// Errors: one that is damaged, of another kind than `gpt2` or `llama`, or whose pre-tokenizer
    /// is not known.
    pub fn from_gguf(metadata: &Metadata) -> Result<Option<Self>> {
        gguf::load(metadata)
    }

    /// Token ids of `text`. Special tokens written out in the text become their ids. With
    /// `add_special`, the model's beginning (and end) tokens are added as its tokenizer says.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let mut ids = self.encode_inner(text, add_special)?;
        let TokenizerConfig {
            add_bos_token,
            add_eos_token,
            ..
        } = self.config;
        if add_special && (add_bos_token.is_some() || add_eos_token.is_some()) {
            // Only a post-processor adds tokens of its own.
            let plain = match self.inner.get_post_processor() {
                Some(_) => self.encode_inner(text, false)?,
                None => ids.clone(),
            };
            apply_override(add_bos_token, self.bos, &plain, &mut ids, End::Front);
            apply_override(add_eos_token, self.eos, &plain, &mut ids, End::Back);
        }
        Ok(ids)
    }

    fn encode_inner(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding = guarded(|| self.inner.encode_fast(text, add_special))
            .and_then(|encoded| encoded.map_err(|e| e.to_string()))
            .map_err(|e| self.error(format!("it cannot encode this text: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of `ids`. Bytes that are not UTF-8 become U+FFFD; ids that the vocabulary does not
    /// have are skipped, and special tokens too with `skip_special`.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        String::from_utf8_lossy(&self.decode_bytes(ids, skip_special)).into_owned()
    }

    /// Like [`decode`](Self::decode), but the bytes as they are.
    pub fn decode_bytes(&self, ids: &[u32], skip_special: bool) -> Vec<u8> {
        let mut state = PieceState::start(&self.pieces);
        let mut bytes = Vec::new();
        for &id in ids {
            self.append_bytes(id, skip_special, &mut state, &mut bytes);
        }
        bytes
    }

    pub(crate) fn append_bytes(
        &self,
        id: u32,
        skip_special: bool,
        state: &mut PieceState,
        out: &mut Vec<u8>,
    ) {
        if skip_special && self.is_special(id) {
            return;
        }
        if let Some(token) = self.inner.id_to_token(id) {
            self.pieces.append(&token, state, out);
        }
    }

    pub(crate) fn pieces(&self) -> &PieceDecoder {
        &self.pieces
    }

    /// Largest token id plus one, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Checks that a model with `model_vocab` output rows can take every id of this tokenizer.
    /// (More rows than ids is common: vocabularies are padded.)
    pub fn check_vocab(&self, model_vocab: usize) -> Result<()> {
        if self.vocab_size <= model_vocab {
            return Ok(());
        }
        Err(self.error(format!(
            "it has token ids up to {}, but the model's vocabulary has {model_vocab} entries; the tokenizer and the weights belong to different models",
            self.vocab_size - 1
        )))
    }

    /// Bytes that a token adds in the middle of a text; `None` for an id without a token.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let token = self.inner.id_to_token(id)?;
        let mut bytes = Vec::new();
        self.pieces
            .append(&token, &mut PieceState::middle(), &mut bytes);
        Some(bytes)
    }

    /// A token as the vocabulary spells it.
    pub fn token_text(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token as the vocabulary spells it, such as `<|im_end|>`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether `id` is a special token (control, not text).
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// All special token ids, ascending.
    pub fn special_ids(&self) -> impl Iterator<Item = u32> {
        self.special.iter().copied()
    }

    /// The beginning-of-text token that the configuration names.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// The end-of-text token that the configuration names.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos
    }

    /// What tokenizer_config.json says, or a GGUF file in its place.
    pub fn config(&self) -> &TokenizerConfig {
        &self.config
    }

    fn error(&self, problem: String) -> Error {
        tokenizer_error(&self.path, problem)
    }
}

pub(crate) fn tokenizer_error(path: &Path, problem: impl Into<String>) -> Error {
    Error::Tokenizer {
        path: path.to_path_buf(),
        problem: excerpt(&problem.into(), 300),
    }
}

/// How many pieces of text the library shall remember the tokens of. It allocates room for them at
/// once, so a small vocabulary gets less than the library's own choice.
fn cached_pieces(vocabulary: usize) -> usize {
    vocabulary.min(10_000)
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Front,
    Back,
}

/// Makes `ids` carry (or not carry) `token` at one end where tokenizer_config.json says so,
/// whatever tokenizer.json's own template did; `plain` is the text without added tokens.
fn apply_override(
    wanted: Option<bool>,
    token: Option<u32>,
    plain: &[u32],
    ids: &mut Vec<u32>,
    end: End,
) {
    let (Some(wanted), Some(token)) = (wanted, token) else {
        return;
    };
    let at = |ids: &[u32]| match end {
        End::Front => ids.first().copied(),
        End::Back => ids.last().copied(),
    };
    let added = ids.len() > plain.len() && at(ids) == Some(token);
    match (wanted, added, end) {
        (true, false, End::Front) => ids.insert(0, token),
        (true, false, End::Back) => ids.push(token),
        (false, true, End::Front) => drop(ids.remove(0)),
        (false, true, End::Back) => drop(ids.pop()),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
