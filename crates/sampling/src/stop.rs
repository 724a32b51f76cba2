use thiserror::Error;

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stop {
    /// The stop string of this index in the list given to [`StopMatcher::new`].
    Text { index: usize },
    /// A stop token.
    Token { token: u32 },
}

/// What one piece of text set free.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Released {
    /// Text to show, after all text released so far. Often empty, or longer than the
    /// piece.
    pub text: String,
    /// Set when generation is over; nothing is released after that.
    pub stop: Option<Stop>,
}

/// A stop string that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "stop string {index} is empty, wanted at least one character; leave it out to have no stop string"
)]
pub struct EmptyStop {
    pub index: usize,
}

/// Watches streamed text for stop strings and tokens, and holds back only what may
/// still turn out to be the beginning of a stop string.
///
/// The stop string that is complete first ends the text; of several that end at the
/// same place, the longest (and of equal ones the first in the list). The text is cut
/// where it begins; neither it nor anything behind it is released. That depends on
/// the text alone, not on how it was divided into pieces.
///
/// Costs a step per byte and stop string (Knuth–Morris–Pratt), whatever the text.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    strings: Vec<Needle>,
    tokens: Vec<u32>,
    /// Text seen but not released: shorter than the longest stop string.
    held: String,
    stopped: Option<Stop>,
}

impl StopMatcher {
    /// # Errors
    /// An empty stop string, which would match everywhere.
    pub fn new<S: AsRef<str>>(strings: &[S], tokens: &[u32]) -> Result<Self, EmptyStop> {
        let strings: Vec<&str> = strings.iter().map(AsRef::as_ref).collect();
        if let Some(index) = strings.iter().position(|s| s.is_empty()) {
            return Err(EmptyStop { index });
        }
        let mut tokens = tokens.to_vec();
        tokens.sort_unstable();
        tokens.dedup();
        Ok(Self {
            strings: strings.into_iter().map(Needle::new).collect(),
            tokens,
            held: String::new(),
            stopped: None,
        })
    }

    /// Takes a token and the text it adds (which may be empty). A stop token's own text
    /// is not released; what was held back before it is.
    pub fn push_token(&mut self, token: u32, piece: &str) -> Released {
        if self.stopped.is_none() && self.tokens.binary_search(&token).is_ok() {
            self.stopped = Some(Stop::Token { token });
            return Released {
                text: std::mem::take(&mut self.held),
                stop: self.stopped,
            };
        }
        self.push(piece)
    }

    /// Takes the next piece of text.
    pub fn push(&mut self, piece: &str) -> Released {
        if self.stopped.is_some() {
            return Released {
                text: String::new(),
                stop: self.stopped,
            };
        }
        for (at, byte) in piece.bytes().enumerate() {
            let mut longest: Option<(usize, usize)> = None;
            for (index, string) in self.strings.iter_mut().enumerate() {
                if string.step(byte) && longest.is_none_or(|(_, len)| string.len() > len) {
                    longest = Some((index, string.len()));
                }
            }
            if let Some((index, len)) = longest {
                self.held.push_str(&piece[..=at]);
                self.held.truncate(self.held.len() - len);
                self.stopped = Some(Stop::Text { index });
                return Released {
                    text: std::mem::take(&mut self.held),
                    stop: self.stopped,
                };
            }
        }
        self.held.push_str(piece);
        let begun = self.strings.iter().map(|s| s.matched).max().unwrap_or(0);
        let tail = self.held.split_off(self.held.len() - begun);
        Released {
            text: std::mem::replace(&mut self.held, tail),
            stop: None,
        }
    }

    /// The text still held back, for a generation that ends for another reason (length,
    /// cancellation). Empty after a stop. The matcher is then as new.
    pub fn finish(&mut self) -> String {
        self.stopped = None;
        for string in &mut self.strings {
            string.matched = 0;
        }
        std::mem::take(&mut self.held)
    }

    /// Why generation ended, if it has.
    pub fn stopped(&self) -> Option<Stop> {
        self.stopped
    }
}

/// One stop string as an automaton over bytes. Both it and the text are UTF-8, so a
/// match, or the beginning of one, starts and ends between characters.
#[derive(Debug, Clone)]
struct Needle {
    bytes: Vec<u8>,
    /// `fallback[n]`: the longest proper prefix that also ends the first `n` + 1 bytes.
    fallback: Vec<usize>,
    /// How many of its first bytes the text ends with.
    matched: usize,
}

impl Needle {
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes().to_vec();
        let mut fallback = vec![0; bytes.len()];
        let mut matched = 0;
        for at in 1..bytes.len() {
            matched = advance(&bytes, &fallback, matched, bytes[at]);
            fallback[at] = matched;
        }
        Self {
            bytes,
            fallback,
            matched: 0,
        }
    }

    fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Takes the next byte of the text; true when it completes the string.
    fn step(&mut self, byte: u8) -> bool {
        self.matched = advance(&self.bytes, &self.fallback, self.matched, byte);
        self.matched == self.bytes.len()
    }
}

/// The length of the longest prefix of `bytes` that the text ends with once `byte`
/// follows a match of `matched` < `bytes.len()`.
fn advance(bytes: &[u8], fallback: &[usize], mut matched: usize, byte: u8) -> usize {
    while matched > 0 && bytes[matched] != byte {
        matched = fallback[matched - 1];
    }
    matched + usize::from(bytes[matched] == byte)
}
