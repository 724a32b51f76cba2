//! From tokens to bytes, one token at a time.
//!
//! tokenizer.json describes decoding as steps over a list of tokens. The steps that generative
//! models use all work token by token (apart from what happens at the very start of the text), so
//! they are kept here in a form that can be streamed; others are refused when the file is read.

use std::sync::LazyLock;

use serde_json::Value;

/// How the tokens of one model become bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct PieceDecoder {
    steps: Vec<Step>,
    /// Every one of these is dropped from the first token of a text.
    drop_in_first: Option<char>,
    /// Up to this many of this byte are dropped from the start of a text.
    strip_start: Option<(u8, usize)>,
}

#[derive(Debug, Clone)]
enum Step {
    /// Each character stands for one byte.
    ByteLevel,
    /// `<0x0A>` is the byte 10; other tokens are text.
    ByteFallback,
    Replace(String, String),
}

/// What decoding must remember between tokens.
#[derive(Debug, Clone)]
pub(crate) struct PieceState {
    first: bool,
    strip_left: usize,
}

impl PieceState {
    /// At the start of a text.
    pub(crate) fn start(decoder: &PieceDecoder) -> Self {
        Self {
            first: true,
            strip_left: decoder.strip_start.map_or(0, |(_, n)| n),
        }
    }

    /// Within a text.
    pub(crate) fn middle() -> Self {
        Self {
            first: false,
            strip_left: 0,
        }
    }
}

impl PieceDecoder {
    /// Reads the `decoder` of a tokenizer.json. The error is a sentence for the user.
    pub(super) fn from_json(decoder: Option<&Value>) -> Result<Self, String> {
        let mut out = Self::default();
        let Some(decoder) = decoder.filter(|d| !d.is_null()) else {
            return Err("it has no decoder, so its ids cannot be turned into text".into());
        };
        let mut fused = false;
        if decoder["type"] == "Sequence" {
            let list = decoder["decoders"]
                .as_array()
                .ok_or("its decoder is a Sequence without decoders")?;
            for step in list {
                out.add(step, &mut fused)?;
            }
        } else {
            out.add(decoder, &mut fused)?;
        }
        Ok(out)
    }

    fn add(&mut self, step: &Value, fused: &mut bool) -> Result<(), String> {
        let kind = step["type"].as_str().unwrap_or("without a type");
        let unsupported = || format!("its decoder step {kind} is not supported: {step}");
        match kind {
            "ByteLevel" => self.steps.push(Step::ByteLevel),
            "ByteFallback" => self.steps.push(Step::ByteFallback),
            "Fuse" => *fused = true,
            "Replace" if !*fused => {
                let from = step["pattern"]["String"].as_str();
                let to = step["content"].as_str();
                let (from, to) = from.zip(to).ok_or_else(unsupported)?;
                self.steps.push(Step::Replace(from.into(), to.into()));
            }
            "Metaspace" => {
                let mark = step["replacement"].as_str().unwrap_or("▁");
                let never = match step["prepend_scheme"].as_str() {
                    Some(scheme) => scheme == "never",
                    None => step["add_prefix_space"] == false,
                };
                if !never {
                    self.drop_in_first = mark.chars().next();
                }
                self.steps.push(Step::Replace(mark.into(), " ".into()));
            }
            "Strip" if *fused && step["stop"].as_u64().unwrap_or(0) == 0 => {
                let content = step["content"].as_str().and_then(one_ascii);
                let start = step["start"].as_u64().and_then(|n| usize::try_from(n).ok());
                self.strip_start = Some(content.zip(start).ok_or_else(unsupported)?);
            }
            _ => return Err(unsupported()),
        }
        Ok(())
    }

    /// Appends the bytes of `token`, which follows what `state` has seen.
    pub(crate) fn append(&self, token: &str, state: &mut PieceState, out: &mut Vec<u8>) {
        let from = out.len();
        match self.drop_in_first {
            Some(mark) if state.first && token.contains(mark) => {
                self.append_piece(&token.replace(mark, ""), out);
            }
            _ => self.append_piece(token, out),
        }
        state.first = false;
        if let Some((byte, _)) = self.strip_start
            && state.strip_left > 0
            && out.len() > from
        {
            let new = &out[from..];
            let matching = new.iter().take_while(|b| **b == byte).count();
            let cut = matching.min(state.strip_left);
            let all = cut == new.len();
            out.drain(from..from + cut);
            state.strip_left = if all { state.strip_left - cut } else { 0 };
        }
    }

    fn append_piece(&self, token: &str, out: &mut Vec<u8>) {
        let mut text = std::borrow::Cow::Borrowed(token);
        for step in &self.steps {
            match step {
                Step::Replace(from, to) => {
                    if text.contains(from.as_str()) {
                        text = text.replace(from.as_str(), to).into();
                    }
                }
                Step::ByteFallback => {
                    if let Some(byte) = fallback_byte(&text) {
                        out.push(byte);
                        return;
                    }
                }
                Step::ByteLevel => {
                    append_byte_level(&text, out);
                    return;
                }
            }
        }
        out.extend_from_slice(text.as_bytes());
    }
}

fn one_ascii(text: &str) -> Option<u8> {
    match text.as_bytes() {
        [byte] if byte.is_ascii() => Some(*byte),
        _ => None,
    }
}

fn fallback_byte(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let digits = hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    digits.then(|| u8::from_str_radix(hex, 16).ok()).flatten()
}

/// A token with a character outside the byte alphabet is plain text, such as an added token.
fn append_byte_level(token: &str, out: &mut Vec<u8>) {
    let from = out.len();
    for c in token.chars() {
        match byte_of(c) {
            Some(byte) => out.push(byte),
            None => {
                out.truncate(from);
                out.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

/// The byte that a character of the byte-level alphabet stands for: printable Latin-1 characters
/// are themselves, the other 68 bytes are numbered upwards from U+0100.
fn byte_of(c: char) -> Option<u8> {
    static SHIFTED: LazyLock<Vec<u8>> =
        LazyLock::new(|| (0..=255).filter(|&b| !stands_for_itself(b)).collect());
    match u32::from(c) {
        code @ 0..=0xFF => Some(code as u8).filter(|&b| stands_for_itself(b)),
        code => SHIFTED.get(code as usize - 0x100).copied(),
    }
}

fn stands_for_itself(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn decoded(decoder: &PieceDecoder, tokens: &[&str]) -> Vec<u8> {
        let mut state = PieceState::start(decoder);
        let mut out = Vec::new();
        for token in tokens {
            decoder.append(token, &mut state, &mut out);
        }
        out
    }

    #[test]
    fn byte_alphabet_is_a_bijection() {
        let bytes: std::collections::BTreeSet<u8> = (0..0x200)
            .filter_map(char::from_u32)
            .filter_map(byte_of)
            .collect();
        assert_eq!(bytes.len(), 256);
        assert_eq!(
            (0..0x200)
                .filter_map(char::from_u32)
                .filter_map(byte_of)
                .count(),
            256
        );
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
        assert_eq!(byte_of('▁'), None);
    }

    #[test]
    fn byte_level() {
        let d = PieceDecoder::from_json(Some(&json!({"type": "ByteLevel"}))).unwrap();
        assert_eq!(
            decoded(&d, &["Hi", "Ġthere", "âĤ", "¬"]),
            "Hi there€".as_bytes()
        );
        assert_eq!(decoded(&d, &["<｜User｜>"]), "<｜User｜>".as_bytes());
    }

    #[test]
    fn sentencepiece_sequence() {
        let d = PieceDecoder::from_json(Some(&json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]})))
        .unwrap();
        assert_eq!(
            decoded(&d, &["▁Hi", "▁", "<0xE2>", "<0x82>", "<0xAC>"]),
            "Hi €".as_bytes()
        );
        assert_eq!(decoded(&d, &["▁", "▁Hi"]), b" Hi");
        assert_eq!(decoded(&d, &["Hi", "▁you"]), b"Hi you");
        assert_eq!(decoded(&d, &["<0xZZ>"]), b"<0xZZ>");
        assert_eq!(decoded(&d, &["<0x+1>"]), b"<0x+1>");
    }

    #[test]
    fn metaspace() {
        let d = PieceDecoder::from_json(Some(
            &json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}),
        ))
        .unwrap();
        assert_eq!(decoded(&d, &["▁Hi", "▁you"]), b"Hi you");
        let d = PieceDecoder::from_json(Some(
            &json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never"}),
        ))
        .unwrap();
        assert_eq!(decoded(&d, &["▁Hi", "▁you"]), b" Hi you");
    }

    #[test]
    fn what_cannot_be_streamed_is_refused() {
        for decoder in [
            json!(null),
            json!({}),
            json!([]),
            json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
            json!({"type": "Sequence"}),
            json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}),
            json!({"type": "Replace", "pattern": {"Regex": "a+"}, "content": ""}),
        ] {
            assert!(
                PieceDecoder::from_json(Some(&decoder)).is_err(),
                "{decoder}"
            );
        }
    }
}
