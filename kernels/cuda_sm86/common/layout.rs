//! The weight layout of block-quantised matrices.
//!
//! `mma16`: panels of 16 rows, cut into chunks of 256 columns, zeros behind the
//! last. A chunk holds, one behind the other,
//!
//! | scheme | low bits | high bits | scales | d |
//! |---|---|---|---|---|
//! | q4_0 | 4 × 512 | | 4 × 64 (f16) | |
//! | q8_0 | 8 × 512 (q + 128) | | 4 × 64 (f16) | |
//! | q4_k | 4 × 512 | | 4 × 64 (scale, min) | 64 (d, dmin) |
//! | q5_k | 4 × 512 | 4 × 128 | 4 × 64 (scale, min) | 64 (d, dmin) |
//! | q6_k | 4 × 512 | 4 × 256 | 4 × 64 (i8) | 32 (d) |
//!
//! bytes, where 4 × stands for tiles of 64 columns and 8 × for blocks of 32. Lane
//! 4g + t of a warp loads 16 bytes of each tile: rows g and g + 8, of each 32
//! columns those from 8t to 8t + 7 (q6_k: of each 16 those from 4t to 4t + 3), as
//! four words of 16 columns. In a word, nibble f + 4·h (f < 4, h < 2) is the
//! number of row g + 8·(f mod 2) in place 2·(f div 2) + h of its four columns.
//! `quant.cuh` reads it.

use registry::{WeightLayout, WeightShape};

pub const MMA16: &str = "mma16";

pub const ROWS: usize = 16;
pub const COLUMNS: usize = 256;

/// Bytes of a chunk's parts: low bits, high bits, scales, d.
fn parts(scheme: &str) -> Option<[usize; 4]> {
    Some(match scheme {
        "q4_0" => [2048, 0, 256, 0],
        "q8_0" => [4096, 0, 256, 0],
        "q4_k" => [2048, 0, 256, 64],
        "q5_k" => [2048, 512, 256, 64],
        "q6_k" => [2048, 1024, 256, 32],
        _ => return None,
    })
}

/// Bytes of a chunk.
pub fn chunk_bytes(scheme: &str) -> Option<usize> {
    Some(parts(scheme)?.iter().sum())
}

/// Chunks of a row of `k` columns.
pub fn chunks(k: usize) -> usize {
    k.div_ceil(COLUMNS)
}

registry::inventory::submit! {
    WeightLayout {
        name: MMA16,
        schemes: &["q4_0", "q8_0", "q4_k", "q5_k", "q6_k"],
        panel_rows: ROWS,
        panel_bytes: |shape| {
            shape.row_bytes()?;
            (chunk_bytes(shape.scheme.0)? as u64).checked_mul(chunks(shape.k) as u64)
        },
        pack,
    }
}

/// Where a column's number lies in its chunk.
struct Place {
    tile: usize,
    /// Word of the lane's four in its tile.
    word: usize,
    /// Of the four columns that a lane has in a word.
    column: usize,
    /// Lane of row 0.
    lane: usize,
}

impl Place {
    fn of(column: usize, sub: usize) -> Place {
        let i = column % sub;
        let own = sub / 4;
        Place {
            tile: column / 64,
            word: column % 64 / sub * (sub / 16) + i % own / 4,
            column: i % 4,
            lane: i / own,
        }
    }

    fn lane(&self, row: usize) -> usize {
        row % 8 * 4 + self.lane
    }

    /// Nibble of a row in the word.
    fn field(&self, row: usize) -> usize {
        self.column / 2 * 2 + row / 8
    }

    fn half(&self) -> usize {
        self.column % 2
    }
}

fn or_bits(dst: &mut [u8], bit: usize, value: u8) {
    dst[bit / 8] |= value << (bit % 8);
}

fn pack(shape: &WeightShape, rows: usize, src: &[u8], dst: &mut [u8]) {
    dst.fill(0);
    let (Some(parts), Some(row_bytes)) = (parts(shape.scheme.0), shape.row_bytes()) else {
        return;
    };
    let size: usize = parts.iter().sum();
    for (c, chunk) in dst.chunks_exact_mut(size).enumerate() {
        let (low, rest) = chunk.split_at_mut(parts[0]);
        let (high, rest) = rest.split_at_mut(parts[1]);
        let (scales, d) = rest.split_at_mut(parts[2]);
        let mut to = Chunk {
            low,
            high,
            scales,
            d,
        };
        for (row, src) in src.chunks_exact(row_bytes as usize).take(rows).enumerate() {
            match shape.scheme.0 {
                "q4_0" => small_blocks(&mut to, row, part(src, c, 8 * 18), 18),
                "q8_0" => small_blocks(&mut to, row, part(src, c, 8 * 34), 34),
                "q4_k" => super_block(&mut to, row, part(src, c, 144), 16, None),
                "q5_k" => super_block(&mut to, row, part(src, c, 176), 48, Some(16)),
                _ => q6_k(&mut to, row, part(src, c, 210)),
            }
        }
    }
}

/// The chunk's bytes of a row, fewer at its end.
fn part(src: &[u8], chunk: usize, bytes: usize) -> &[u8] {
    let from = (chunk * bytes).min(src.len());
    &src[from..(from + bytes).min(src.len())]
}

struct Chunk<'a> {
    low: &'a mut [u8],
    high: &'a mut [u8],
    scales: &'a mut [u8],
    d: &'a mut [u8],
}

impl Chunk<'_> {
    fn nibble(&mut self, p: &Place, row: usize, q: u8) {
        let word = p.tile * 128 + p.lane(row) * 4 + p.word;
        or_bits(
            self.low,
            word * 32 + 4 * p.field(row) + 16 * p.half(),
            q & 15,
        );
    }
}

/// q4_0 and q8_0: blocks of 32 with one f16.
fn small_blocks(to: &mut Chunk<'_>, row: usize, src: &[u8], bytes: usize) {
    for (b, block) in src.chunks_exact(bytes).enumerate() {
        let at = b / 2 * 64 + row % 8 * 8 + row / 8 * 4 + b % 2 * 2;
        to.scales[at..at + 2].copy_from_slice(&block[..2]);
        for i in 0..32 {
            let p = Place::of(b * 32 + i, 32);
            if bytes == 18 {
                let byte = block[2 + i % 16];
                to.nibble(&p, row, if i < 16 { byte & 15 } else { byte >> 4 });
            } else {
                let word = p.word % 2 * 2 + row / 8;
                to.low[b * 512 + p.lane(row) * 16 + word * 4 + p.column] = block[2 + i] ^ 0x80;
            }
        }
    }
}

/// Scale and minimum of sub-block `s` in the 12 bytes of q4_k and q5_k.
fn scale_and_min(packed: &[u8], s: usize) -> [u8; 2] {
    if s < 4 {
        return [packed[s] & 63, packed[s + 4] & 63];
    }
    let low = packed[s + 4];
    [
        low & 15 | packed[s - 4] >> 6 << 4,
        low >> 4 | packed[s] >> 6 << 4,
    ]
}

/// q4_k and q5_k; `nibbles` and `high` are where those bytes start.
fn super_block(to: &mut Chunk<'_>, row: usize, src: &[u8], nibbles: usize, high: Option<usize>) {
    if src.is_empty() {
        return;
    }
    let at = row % 8 * 8 + row / 8 * 4;
    to.d[at..at + 4].copy_from_slice(&src[..4]);
    for s in 0..8 {
        let at = s / 2 * 64 + row % 8 * 8 + row / 8 * 4 + s % 2 * 2;
        to.scales[at..at + 2].copy_from_slice(&scale_and_min(&src[4..16], s));
    }
    for e in 0..256 {
        let p = Place::of(e, 32);
        let q = src[nibbles + e / 64 * 32 + e % 32] >> (e / 32 % 2 * 4) & 15;
        to.nibble(&p, row, q);
        if let Some(high) = high {
            let bit = src[high + e % 32] >> (e / 32) & 1;
            let word = p.tile * 32 + p.lane(row);
            or_bits(
                to.high,
                word * 32 + 16 * p.half() + 4 * p.word + p.field(row),
                bit,
            );
        }
    }
}

fn q6_k(to: &mut Chunk<'_>, row: usize, src: &[u8]) {
    if src.is_empty() {
        return;
    }
    let at = row % 8 * 4 + row / 8 * 2;
    to.d[at..at + 2].copy_from_slice(&src[208..210]);
    for s in 0..16 {
        to.scales[s / 4 * 64 + row % 8 * 8 + row / 8 * 4 + s % 4] = src[192 + s];
    }
    for e in 0..256 {
        let p = Place::of(e, 16);
        let q = src[e / 128 * 64 + e % 64] >> (e / 64 % 2 * 4) & 15;
        to.nibble(&p, row, q);
        let pair = src[128 + e / 128 * 32 + e % 32] >> (e / 32 % 4 * 2) & 3;
        let word = p.tile * 64 + p.lane(row) * 2 + p.word / 2;
        let bit = 16 * p.half() + 2 * (p.word % 2 * 4 + p.field(row));
        or_bits(to.high, word * 32 + bit, pair);
    }
}
