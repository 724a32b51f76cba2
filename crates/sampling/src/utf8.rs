/// Turns bytes into text as they come, never splitting a character: the bytes of an
/// unfinished one wait for the rest.
///
/// Bytes that cannot be UTF-8 become U+FFFD, as by [`String::from_utf8_lossy`]: all
/// text released equals that of the bytes taken as one.
#[derive(Debug, Clone, Default)]
pub struct Utf8Stream {
    /// The beginning of one character: at most 3 bytes between calls.
    pending: Vec<u8>,
}

impl Utf8Stream {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes and returns the text that is complete with them.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::with_capacity(self.pending.len());
        let mut done = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            done += chunk.valid().len();
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            // Only the last chunk can be a character that more bytes would finish.
            let at_end = done + invalid.len() == self.pending.len();
            if at_end && is_unfinished(invalid) {
                break;
            }
            text.push(char::REPLACEMENT_CHARACTER);
            done += invalid.len();
        }
        self.pending.drain(..done);
        text
    }

    /// Whether the beginning of a character is waiting.
    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Ends the stream: a character that was never finished becomes U+FFFD. The stream
    /// is then as new.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}

fn is_unfinished(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}
