//! What made tensors are made of: a tree whose leaves are stretches of mapped files.
//!
//! A node is a run of bytes: those of its tensor, row-major. It is asked for whole elements or
//! blocks only.

use std::ops::Range;
use std::sync::Arc;

use super::convert::{Floats, Microscaling, Paro, Transpose};
use super::map::MappedFile;
use super::pattern::Taken;
use super::random::Random;

type Files = [Arc<MappedFile>];

#[derive(Debug)]
pub(super) enum Node {
    /// Bytes of a file from `offset` on.
    Stored {
        file: usize,
        offset: usize,
    },
    /// Rows of `row` bytes.
    Rows {
        source: Arc<Node>,
        taken: Taken,
        row: usize,
    },
    /// One after the other: each part and the byte where it ends.
    Stack(Vec<(Arc<Node>, usize)>),
    Transpose(Transpose),
    Floats(Floats),
    Microscaling(Microscaling),
    Paro(Paro),
    /// Of no file.
    Random(Random),
}

impl Node {
    /// The bytes from `at` on, if a file has them in one stretch.
    pub(super) fn borrow<'a>(&self, files: &'a Files, at: usize, len: usize) -> Option<&'a [u8]> {
        match self {
            Self::Stored { file, offset } => Some(&files[*file].bytes()[offset + at..][..len]),
            Self::Rows { source, taken, row } => {
                let (from, run) = taken.source(at / row);
                let within = at % row;
                (within + len <= run * row)
                    .then(|| source.borrow(files, from * row + within, len))?
            }
            Self::Stack(parts) => {
                let (part, start, end) = part_at(parts, at)?;
                (at + len <= end).then(|| part.borrow(files, at - start, len))?
            }
            _ => None,
        }
    }

    /// Writes the bytes from `at` on, as many as `out` has.
    pub(super) fn copy(&self, files: &Files, at: usize, out: &mut [u8]) {
        match self {
            Self::Stored { .. } | Self::Rows { .. } | Self::Stack(_) => {
                self.pieces(at, out.len(), &mut |source, from, place| {
                    let out = &mut out[place];
                    match source.borrow(files, from, out.len()) {
                        Some(bytes) => out.copy_from_slice(bytes),
                        None => source.copy(files, from, out),
                    }
                });
            }
            Self::Transpose(made) => made.copy(files, at, out),
            Self::Floats(made) => made.copy(files, at, out),
            Self::Microscaling(made) => made.copy(files, at, out),
            Self::Paro(made) => made.copy(files, at, out),
            Self::Random(made) => made.copy(at, out),
        }
    }

    /// The bytes from `at` on, borrowed or written to `scratch`.
    pub(super) fn read<'a>(
        &self,
        files: &'a Files,
        at: usize,
        len: usize,
        scratch: &'a mut Vec<u8>,
    ) -> &'a [u8] {
        match self.borrow(files, at, len) {
            Some(bytes) => bytes,
            None => {
                scratch.resize(len, 0);
                self.copy(files, at, scratch);
                scratch
            }
        }
    }

    /// Calls `each` with the sources of `len` bytes from `at` on: node, byte in it, and the range
    /// of the `len` bytes that it gives.
    fn pieces(&self, at: usize, len: usize, each: &mut dyn FnMut(&Node, usize, Range<usize>)) {
        let mut done = 0;
        while done < len {
            let here = at + done;
            let (source, from, most) = match self {
                Self::Rows { source, taken, row } => {
                    let (from, run) = taken.source(here / row);
                    let within = here % row;
                    (source, from * row + within, run * row - within)
                }
                Self::Stack(parts) => match part_at(parts, here) {
                    Some((part, start, end)) => (part, here - start, end - here),
                    None => return,
                },
                _ => return each(self, here, done..len),
            };
            let count = most.min(len - done);
            each(source, from, done..done + count);
            done += count;
        }
    }

    /// Calls `each` with the stretches of files that the bytes of `range` are made of. They may
    /// be wider than what is read of them.
    pub(super) fn stretches(&self, range: Range<usize>, each: &mut dyn FnMut(usize, Range<usize>)) {
        match self {
            Self::Stored { file, offset } => each(*file, offset + range.start..offset + range.end),
            // Whole: most rows share their pages with others that are not taken.
            Self::Rows { source, taken, row } => {
                let rows = taken.span();
                source.stretches(rows.start * row..rows.end * row, each);
            }
            Self::Stack(_) => {
                self.pieces(range.start, range.len(), &mut |source, from, place| {
                    source.stretches(from..from + place.len(), each);
                });
            }
            Self::Transpose(made) => made.source.stretches(0..made.bytes(), each),
            Self::Floats(made) => made.source.stretches(made.source_range(range), each),
            Self::Microscaling(made) => made.sources(&mut |node, len| node.stretches(0..len, each)),
            Self::Paro(made) => made.sources(&mut |node, len| node.stretches(0..len, each)),
            Self::Random(_) => {}
        }
    }

    /// Where all of its bytes lie, if in one stretch.
    pub(super) fn place(&self) -> Option<(usize, usize)> {
        match self {
            Self::Stored { file, offset } => Some((*file, *offset)),
            _ => None,
        }
    }
}

fn part_at(parts: &[(Arc<Node>, usize)], at: usize) -> Option<(&Arc<Node>, usize, usize)> {
    let index = parts.partition_point(|(_, end)| *end <= at);
    let start = match index {
        0 => 0,
        _ => parts[index - 1].1,
    };
    parts.get(index).map(|(part, end)| (part, start, *end))
}
