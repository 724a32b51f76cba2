//! SentencePiece's merging of pieces by score, with bytes for what has no piece.
//!
//! The text starts as characters. Of all neighbours whose concatenation is a piece, the pair with
//! the highest score is joined (the leftmost of equals), until no pair is left.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};
use std::path::{Path, PathBuf};

use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::{Model, ModelWrapper, Token};

/// A piece that may take part in merging.
#[derive(Debug, Clone, Copy)]
struct Piece {
    id: u32,
    score: f32,
    /// Joined on the way to longer pieces, but taken apart again when it is left over.
    unused: bool,
}

/// What a token is for, as SentencePiece counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

#[derive(Debug, Clone)]
pub(super) struct Spm {
    tokens: Vec<String>,
    /// All tokens, for lookups by name.
    ids: HashMap<String, u32>,
    pieces: HashMap<String, Piece>,
    bytes: Option<Box<[u32; 256]>>,
    unknown: Option<u32>,
}

impl Spm {
    /// `tokens` are distinct; `scores` and `kinds` are as long.
    pub(super) fn new(
        tokens: Vec<String>,
        scores: &[f32],
        kinds: &[TokenKind],
        unknown: Option<u32>,
    ) -> Self {
        let numbered = || tokens.iter().zip(0u32..);
        let ids: HashMap<String, u32> = numbered().map(|(t, id)| (t.clone(), id)).collect();
        let mut pieces = HashMap::new();
        for (((token, id), &score), kind) in numbered().zip(scores).zip(kinds) {
            let unused = match kind {
                TokenKind::Normal | TokenKind::UserDefined => false,
                TokenKind::Unused => true,
                TokenKind::Unknown | TokenKind::Control | TokenKind::Byte => continue,
            };
            let piece = Piece { id, score, unused };
            pieces.insert(token.clone(), piece);
        }
        let mut bytes = Box::new([0; 256]);
        let found = (0..=255u8).all(|b| match ids.get(&format!("<0x{b:02X}>")) {
            Some(&id) => {
                bytes[usize::from(b)] = id;
                true
            }
            None => false,
        });
        Self {
            bytes: found.then_some(bytes),
            tokens,
            ids,
            pieces,
            unknown,
        }
    }

    /// The ids of `text`, each with its range of bytes.
    fn encode(&self, text: &str) -> Result<Vec<(u32, std::ops::Range<usize>)>, String> {
        let mut out = Vec::new();
        let mut merged = Merging::new(self, text);
        merged.run();
        for symbol in merged.symbols.iter().filter(|s| s.start < s.end) {
            self.emit(
                text,
                symbol.start,
                symbol.end,
                &merged.taken_apart,
                &mut out,
            )?;
        }
        Ok(out)
    }

    /// Appends the token of a symbol, of the parts of an unused one, or of its bytes.
    fn emit(
        &self,
        text: &str,
        start: usize,
        end: usize,
        parts: &HashMap<&str, usize>,
        out: &mut Vec<(u32, std::ops::Range<usize>)>,
    ) -> Result<(), String> {
        let mut stack = vec![(start, end)];
        while let Some((start, end)) = stack.pop() {
            let surface = &text[start..end];
            match (self.pieces.get(surface), parts.get(surface)) {
                (Some(piece), None) => out.push((piece.id, start..end)),
                (Some(piece), Some(_)) if !piece.unused => out.push((piece.id, start..end)),
                (_, Some(&left)) => {
                    stack.push((start + left, end));
                    stack.push((start, start + left));
                }
                (None, None) => self.emit_unknown(surface, start, out)?,
            }
        }
        Ok(())
    }

    fn emit_unknown(
        &self,
        surface: &str,
        start: usize,
        out: &mut Vec<(u32, std::ops::Range<usize>)>,
    ) -> Result<(), String> {
        if let Some(ids) = &self.bytes {
            // All bytes but the last cover nothing, as in the library's own byte fallback.
            let range = start..start + surface.len();
            out.extend(
                surface
                    .bytes()
                    .map(|b| (ids[usize::from(b)], range.clone())),
            );
            return Ok(());
        }
        let Some(unknown) = self.unknown else {
            return Err(format!(
                "{surface:?} has no token, and there is no unknown token"
            ));
        };
        match out.last_mut() {
            // Neighbouring unknown characters are one token.
            Some((id, range)) if *id == unknown && range.end == start => {
                range.end = start + surface.len();
            }
            _ => out.push((unknown, start..start + surface.len())),
        }
        Ok(())
    }
}

/// A run of characters; empty once it has been joined to its left neighbour.
#[derive(Debug, Clone, Copy)]
struct Symbol {
    start: usize,
    end: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

/// A pair that can be joined.
#[derive(Debug, Clone, Copy)]
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes of both when the pair was found; other lengths mean that it is out of date.
    bytes: usize,
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_place = || Reverse(self.left).cmp(&Reverse(other.left));
        let by_bytes = || self.bytes.cmp(&other.bytes);
        let by_score = self.score.total_cmp(&other.score);
        by_score.then_with(by_place).then_with(by_bytes)
    }
}

struct Merging<'a> {
    spm: &'a Spm,
    text: &'a str,
    symbols: Vec<Symbol>,
    pairs: BinaryHeap<Pair>,
    /// Unused pieces that came up, with the length of their left part.
    taken_apart: HashMap<&'a str, usize>,
}

impl<'a> Merging<'a> {
    fn new(spm: &'a Spm, text: &'a str) -> Self {
        let mut symbols: Vec<Symbol> = Vec::new();
        for (start, c) in text.char_indices() {
            let at = symbols.len();
            if let Some(last) = symbols.last_mut() {
                last.next = Some(at);
            }
            symbols.push(Symbol {
                start,
                end: start + c.len_utf8(),
                previous: at.checked_sub(1),
                next: None,
            });
        }
        Self {
            spm,
            text,
            symbols,
            pairs: BinaryHeap::new(),
            taken_apart: HashMap::new(),
        }
    }

    fn run(&mut self) {
        for right in 1..self.symbols.len() {
            self.offer(Some(right - 1), Some(right));
        }
        while let Some(pair) = self.pairs.pop() {
            let (left, right) = (self.symbols[pair.left], self.symbols[pair.right]);
            let empty = left.start == left.end || right.start == right.end;
            if empty || right.end - left.start != pair.bytes || left.end != right.start {
                continue;
            }
            self.symbols[pair.left].end = right.end;
            self.symbols[pair.left].next = right.next;
            self.symbols[pair.right].start = right.end;
            if let Some(next) = right.next {
                self.symbols[next].previous = Some(pair.left);
            }
            self.offer(left.previous, Some(pair.left));
            self.offer(Some(pair.left), right.next);
        }
    }

    fn offer(&mut self, left: Option<usize>, right: Option<usize>) {
        let (Some(left), Some(right)) = (left, right) else {
            return;
        };
        let (start, middle) = (self.symbols[left].start, self.symbols[left].end);
        let joined = &self.text[start..self.symbols[right].end];
        let Some(piece) = self.spm.pieces.get(joined) else {
            return;
        };
        self.pairs.push(Pair {
            score: piece.score,
            left,
            right,
            bytes: joined.len(),
        });
        if piece.unused {
            self.taken_apart.insert(joined, middle - start);
        }
    }
}

/// The model behind a tokenizer: the library's, or SentencePiece's merging, which it lacks.
#[derive(Debug, Clone)]
pub(super) enum Core {
    Library(Box<ModelWrapper>),
    Spm(Spm),
}

impl Model for Core {
    type Trainer = TrainerWrapper;

    fn tokenize(&self, sequence: &str) -> tokenizers::Result<Vec<Token>> {
        match self {
            Self::Library(model) => model.tokenize(sequence),
            Self::Spm(spm) => {
                let tokens = spm.encode(sequence)?.into_iter();
                let token = |(id, range): (u32, std::ops::Range<usize>)| {
                    let value = sequence[range.clone()].to_string();
                    Token::new(id, value, (range.start, range.end))
                };
                Ok(tokens.map(token).collect())
            }
        }
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        match self {
            Self::Library(model) => model.token_to_id(token),
            Self::Spm(spm) => spm.ids.get(token).copied(),
        }
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        match self {
            Self::Library(model) => model.id_to_token(id),
            Self::Spm(spm) => spm.tokens.get(usize::try_from(id).ok()?).cloned(),
        }
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        match self {
            Self::Library(model) => model.get_vocab(),
            Self::Spm(spm) => spm.ids.clone(),
        }
    }

    fn get_vocab_size(&self) -> usize {
        match self {
            Self::Library(model) => model.get_vocab_size(),
            Self::Spm(spm) => spm.tokens.len(),
        }
    }

    fn save(&self, folder: &Path, prefix: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        match self {
            Self::Library(model) => model.save(folder, prefix),
            Self::Spm(_) => Err("a SentencePiece model cannot be saved".into()),
        }
    }

    fn get_trainer(&self) -> TrainerWrapper {
        match self {
            Self::Library(model) => model.get_trainer(),
            Self::Spm(_) => BpeTrainer::default().into(),
        }
    }
}
