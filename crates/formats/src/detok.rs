//! Streaming text out of token ids, whole characters at a time.

use std::sync::Arc;

use crate::tokenizer::{PieceState, Tokenizer};

/// Turns token ids into text as they come.
///
/// A token may end within a character; its bytes are held back until the character is complete.
/// Bytes that can no longer become a character are given out as U+FFFD. All pieces and
/// [`flush`](Self::flush) together equal [`Tokenizer::decode`] of all ids (in
/// [`continuing`](Self::continuing) mode: the part of it that follows the prompt).
#[derive(Debug)]
pub struct IncrementalDetokenizer {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    state: PieceState,
    pending: Vec<u8>,
}

impl IncrementalDetokenizer {
    /// For a text of its own, such as an answer: a leading space that the vocabulary adds to every
    /// text is dropped.
    pub fn new(tokenizer: Arc<Tokenizer>, skip_special: bool) -> Self {
        let state = PieceState::start(tokenizer.pieces());
        Self::with_state(tokenizer, skip_special, state)
    }

    /// For text that goes on from a prompt: a leading space is part of it.
    pub fn continuing(tokenizer: Arc<Tokenizer>, skip_special: bool) -> Self {
        Self::with_state(tokenizer, skip_special, PieceState::middle())
    }

    fn with_state(tokenizer: Arc<Tokenizer>, skip_special: bool, state: PieceState) -> Self {
        Self {
            tokenizer,
            skip_special,
            state,
            pending: Vec::new(),
        }
    }

    /// Adds a token; returns the text that is complete by now, possibly none.
    pub fn push(&mut self, id: u32) -> String {
        self.tokenizer
            .append_bytes(id, self.skip_special, &mut self.state, &mut self.pending);
        take_complete(&mut self.pending)
    }

    /// Ends the text: an incomplete character that was held back becomes U+FFFD.
    pub fn flush(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }
}

/// Moves everything out of `pending` but a last character that more bytes could still complete.
fn take_complete(pending: &mut Vec<u8>) -> String {
    let mut text = String::with_capacity(pending.len());
    let mut kept = 0;
    let mut chunks = pending.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        text.push_str(chunk.valid());
        if chunk.invalid().is_empty() {
            continue;
        }
        let last = chunks.peek().is_none();
        let truncated =
            std::str::from_utf8(chunk.invalid()).is_err_and(|e| e.error_len().is_none());
        if last && truncated {
            kept = chunk.invalid().len();
        } else {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    pending.drain(..pending.len() - kept);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn holds_back_only_what_can_still_become_a_character() {
        let take = |bytes: &[u8]| {
            let mut pending = bytes.to_vec();
            let text = take_complete(&mut pending);
            (text, pending)
        };
        assert_eq!(take(b"ab"), ("ab".into(), vec![]));
        assert_eq!(take(b"a\xE2\x82"), ("a".into(), vec![0xE2, 0x82]));
        assert_eq!(take(b"a\xE2b"), ("a\u{FFFD}b".into(), vec![]));
        assert_eq!(take(b"\xFF"), ("\u{FFFD}".into(), vec![]));
        assert_eq!(take(b"\xF0\x9F\x98\x80"), ("😀".into(), vec![]));
        assert_eq!(take(b"\xC0\xF0\x9F"), ("\u{FFFD}".into(), vec![0xF0, 0x9F]));
    }

    /// The same cases on every run; a regression is a case of its own, not a file.
    fn fixed_seed() -> ProptestConfig {
        ProptestConfig {
            cases: 512,
            rng_seed: proptest::test_runner::RngSeed::Fixed(20),
            failure_persistence: None,
            ..ProptestConfig::default()
        }
    }

    proptest! {
    #![proptest_config(fixed_seed())]

        #[test]
        fn any_bytes_in_any_pieces_equal_the_whole(
            pieces in proptest::collection::vec(
                proptest::collection::vec(
                    prop_oneof![any::<u8>(), Just(0xF0u8), Just(0x9F), Just(0x98), Just(0x80)],
                    0..5,
                ),
                0..12,
            )
        ) {
            let mut pending = Vec::new();
            let mut text = String::new();
            for piece in &pieces {
                pending.extend_from_slice(piece);
                text.push_str(&take_complete(&mut pending));
                prop_assert!(pending.len() < 4);
            }
            text.push_str(&String::from_utf8_lossy(&pending));
            prop_assert_eq!(text, String::from_utf8_lossy(&pieces.concat()).into_owned());
        }
    }
}
