//! Checked reading of little-endian numbers and strings.

use super::problem::GgufProblem;

/// A place in a file's bytes; every read is checked against what is left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    /// Bytes read so far, counted from the start of the file.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn left(&self) -> u64 {
        self.bytes.len().saturating_sub(self.at) as u64
    }

    /// The next `n` bytes; `what` says to whom they belong.
    pub(super) fn take(&mut self, n: u64, what: &str) -> Result<&'a [u8], GgufProblem> {
        if n > self.left() {
            return Err(GgufProblem::Truncated {
                what: what.to_string(),
                at: self.at as u64,
                needed: n,
                available: self.left(),
            });
        }
        // In range of usize: it is at most what is left.
        let end = self.at + n as usize;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], GgufProblem> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, GgufProblem> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, GgufProblem> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A string: its length (u64), then its bytes.
    pub(super) fn string(&mut self, what: &str) -> Result<&'a [u8], GgufProblem> {
        let length = self.u64(what)?;
        self.take(length, what)
    }

    /// A count of things that take at least `least` bytes each, so that no loop or allocation
    /// follows a count that cannot be true.
    pub(super) fn count(&mut self, least: u64, what: &str) -> Result<u64, GgufProblem> {
        let claimed = self.u64(what)?;
        self.check_count(claimed, least, what)?;
        Ok(claimed)
    }

    pub(super) fn check_count(
        &self,
        claimed: u64,
        least: u64,
        what: &str,
    ) -> Result<(), GgufProblem> {
        if claimed > self.left() / least {
            return Err(GgufProblem::TooMany {
                what: what.to_string(),
                claimed,
                available: self.left(),
            });
        }
        Ok(())
    }
}
