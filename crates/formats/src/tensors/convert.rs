//! Tensors that are computed: transposed, decoded, or put into the blocks of a scheme.

use std::ops::Range;
use std::sync::Arc;

use super::map::MappedFile;
use super::view::Node;
use crate::codec::{PARO_GROUP, ParoBlock, decode_row};
use crate::dtype::StoredType;

type Files = [Arc<MappedFile>];

/// Elements converted at a time.
const CHUNK: usize = 4096;

/// Splits `count` cells of a matrix of `width` columns, counted row by row from `first` on, into
/// rectangles: rows, columns, and how many cells lie in earlier ones.
fn rectangles(
    first: usize,
    count: usize,
    width: usize,
    mut each: impl FnMut(Range<usize>, Range<usize>, usize),
) {
    let mut done = 0;
    while done < count {
        let (row, column) = ((first + done) / width, (first + done) % width);
        let left = count - done;
        if column > 0 || left < width {
            let cells = left.min(width - column);
            each(row..row + 1, column..column + cells, done);
            done += cells;
        } else {
            let rows = left / width;
            each(row..row + rows, 0..width, done);
            done += rows * width;
        }
    }
}

/// Matrices [`rows`, `columns`] turned to [`columns`, `rows`], one after the other.
#[derive(Debug)]
pub(super) struct Transpose {
    pub(super) source: Arc<Node>,
    pub(super) matrices: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Bytes of an element.
    pub(super) size: usize,
}

impl Transpose {
    pub(super) fn bytes(&self) -> usize {
        self.matrices * self.rows * self.columns * self.size
    }

    pub(super) fn copy(&self, files: &Files, at: usize, out: &mut [u8]) {
        let (size, mut scratch) = (self.size, Vec::new());
        let cells = out.len() / size;
        rectangles(at / size, cells, self.rows, |rows, columns, done| {
            let width = columns.len();
            let mut row = rows.start;
            while row < rows.end {
                let (matrix, within) = (row / self.columns, row % self.columns);
                let count = (rows.end - row).min(self.columns - within);
                let first = done + (row - rows.start) * width;
                let out = &mut out[first * size..][..count * width * size];
                for (column, k) in columns.clone().enumerate() {
                    let from = (matrix * self.rows + k) * self.columns + within;
                    let line = self
                        .source
                        .read(files, from * size, count * size, &mut scratch);
                    let places = out.chunks_exact_mut(width * size);
                    for (place, cell) in places.zip(line.chunks_exact(size)) {
                        place[column * size..][..size].copy_from_slice(cell);
                    }
                }
                row += count;
            }
        });
    }
}

/// Elements as f32, exactly.
#[derive(Debug)]
pub(super) struct Floats {
    pub(super) source: Arc<Node>,
    pub(super) from: StoredType,
}

impl Floats {
    /// Whether every value of a type is an f32.
    pub(super) fn can_read(from: StoredType) -> bool {
        use StoredType::{I8, I16, U8, U16};
        matches!(from, I8 | I16 | U8 | U16) || decode_row(from, &[], &mut []).is_ok()
    }

    /// The blocks of the source that hold the elements of a range of bytes.
    fn blocks(&self, bytes: &Range<usize>) -> Range<usize> {
        let block = self.from.block_elements();
        bytes.start / 4 / block..(bytes.end / 4).div_ceil(block)
    }

    pub(super) fn source_range(&self, bytes: Range<usize>) -> Range<usize> {
        let (blocks, size) = (self.blocks(&bytes), self.from.block_bytes());
        blocks.start * size..blocks.end * size
    }

    pub(super) fn copy(&self, files: &Files, at: usize, out: &mut [u8]) {
        let (mut scratch, mut values) = (Vec::new(), Vec::new());
        let block = self.from.block_elements();
        for (i, out) in out.chunks_mut(CHUNK * 4).enumerate() {
            let start = at + i * CHUNK * 4;
            let range = start..start + out.len();
            let (blocks, bytes) = (self.blocks(&range), self.source_range(range));
            let bytes = self
                .source
                .read(files, bytes.start, bytes.len(), &mut scratch);
            values.clear();
            values.resize(blocks.len() * block, 0.0);
            self.decode(bytes, &mut values);
            let skip = start / 4 - blocks.start * block;
            for (out, value) in out.as_chunks_mut().0.iter_mut().zip(&values[skip..]) {
                *out = value.to_le_bytes();
            }
        }
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        fn each<const N: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = value(*bytes);
            }
        }
        match self.from {
            StoredType::I8 => each(bytes, out, |b| f32::from(i8::from_le_bytes(b))),
            StoredType::U8 => each(bytes, out, |b| f32::from(u8::from_le_bytes(b))),
            StoredType::I16 => each(bytes, out, |b| f32::from(i16::from_le_bytes(b))),
            StoredType::U16 => each(bytes, out, |b| f32::from(u16::from_le_bytes(b))),
            // `can_read` lets in nothing else, and the lengths are those of whole blocks.
            real => decode_row(real, bytes, out).unwrap_or_default(),
        }
    }
}

/// Bytes of an mxfp4 block, and of its 32 nibbles.
const MXFP4: usize = StoredType::MXFP4.block_bytes();
const MXFP4_NIBBLES: usize = MXFP4 - 1;

/// mxfp4 from two tensors: nibbles, neighbours of a row sharing a byte (the first one below), and
/// a scale for each 32.
#[derive(Debug)]
pub(super) struct Microscaling {
    pub(super) blocks: Arc<Node>,
    pub(super) scales: Arc<Node>,
    /// Number of blocks.
    pub(super) count: usize,
}

impl Microscaling {
    pub(super) fn sources(&self, each: &mut dyn FnMut(&Node, usize)) {
        each(&self.blocks, self.count * MXFP4_NIBBLES);
        each(&self.scales, self.count);
    }

    pub(super) fn copy(&self, files: &Files, at: usize, out: &mut [u8]) {
        let (mut scratch, mut more) = (Vec::new(), Vec::new());
        for (i, out) in out.chunks_mut(CHUNK * MXFP4).enumerate() {
            let (first, count) = (at / MXFP4 + i * CHUNK, out.len() / MXFP4);
            let nibbles = self.blocks.read(
                files,
                first * MXFP4_NIBBLES,
                count * MXFP4_NIBBLES,
                &mut scratch,
            );
            let scales = self.scales.read(files, first, count, &mut more);
            let blocks = nibbles.as_chunks::<MXFP4_NIBBLES>().0.iter().zip(scales);
            for (out, (pairs, scale)) in out.as_chunks_mut::<MXFP4>().0.iter_mut().zip(blocks) {
                out[0] = *scale;
                let element = |e: usize| pairs[e / 2] >> (e % 2 * 4) & 15;
                for (i, out) in out[1..].iter_mut().enumerate() {
                    *out = element(i) | element(i + MXFP4_NIBBLES) << 4;
                }
            }
        }
    }
}

/// Place of each of eight neighbouring output channels among the nibbles of a word.
const PARO_NIBBLE: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// w4_paro blocks, rows along the output channels, from the tensors of a ParoQuant checkpoint,
/// whose words hold eight output channels of one input.
#[derive(Debug)]
pub(super) struct Paro {
    /// i32 [k, n / 8].
    pub(super) qweight: Arc<Node>,
    /// i32 [k / 128, n / 8].
    pub(super) qzeros: Arc<Node>,
    /// f16 [k / 128, n].
    pub(super) scales: Arc<Node>,
    pub(super) n: usize,
    pub(super) k: usize,
}

impl Paro {
    pub(super) fn sources(&self, each: &mut dyn FnMut(&Node, usize)) {
        each(&self.qweight, self.k * self.n / 2);
        each(&self.qzeros, self.k / PARO_GROUP * self.n / 2);
        each(&self.scales, self.k / PARO_GROUP * self.n * 2);
    }

    pub(super) fn copy(&self, files: &Files, at: usize, out: &mut [u8]) {
        let blocks = out.as_chunks_mut::<{ ParoBlock::BYTES }>().0;
        let first = at / ParoBlock::BYTES;
        let width = self.k / PARO_GROUP;
        rectangles(first, blocks.len(), width, |rows, groups, done| {
            let out = &mut blocks[done..][..rows.len() * groups.len()];
            for (column, group) in groups.clone().enumerate() {
                let places = out.iter_mut().skip(column).step_by(groups.len());
                self.group(files, group, rows.clone(), places);
            }
        });
    }

    /// The blocks of `rows` in one group of inputs.
    fn group<'o>(
        &self,
        files: &Files,
        group: usize,
        rows: Range<usize>,
        places: impl Iterator<Item = &'o mut [u8; ParoBlock::BYTES]>,
    ) {
        // The words that hold the rows' nibbles, of one row of such words.
        let words = rows.start / 8..rows.end.div_ceil(8);
        let at = |row: usize| (row * (self.n / 8) + words.start) * 4;
        let nibble = |line: &[u8], row: usize| {
            let word = line.as_chunks().0[row / 8 - words.start];
            (u32::from_le_bytes(word) >> (4 * PARO_NIBBLE[row % 8]) & 15) as u8
        };
        let (mut scratch, mut more) = (Vec::new(), Vec::new());
        let len = words.len() * 4;
        let zeros = self.qzeros.read(files, at(group), len, &mut scratch);
        let first = (group * self.n + rows.start) * 2;
        let scales = self.scales.read(files, first, rows.len() * 2, &mut more);
        let mut places: Vec<_> = places.collect();
        for (i, place) in places.iter_mut().enumerate() {
            let scale = scales.as_chunks().0[i];
            **place = ParoBlock::empty(scale, nibble(zeros, rows.start + i));
        }
        for k in 0..PARO_GROUP {
            let weights = at(group * PARO_GROUP + k);
            let weights = self.qweight.read(files, weights, len, &mut scratch);
            for (i, place) in places.iter_mut().enumerate() {
                ParoBlock::set(place, k, nibble(weights, rows.start + i));
            }
        }
    }
}
