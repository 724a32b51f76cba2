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
//! | q4_1 | 4 × 512 | | 4 × 128 (f16, least number f16) | |
//! | q5_0 | 4 × 512 | 4 × 128 | 4 × 64 (f16) | |
//! | q5_1 | 4 × 512 | 4 × 128 | 4 × 128 (f16, least number f16) | |
//! | iq4_nl | 4 × 512 | | 4 × 64 (f16) | |
//! | iq4_xs | 4 × 512 | | 4 × 32 (i8) | 32 (d) |
//! | mxfp4 | 4 × 512 | | 4 × 32 (exponents) | |
//! | w4_paro | 4 × 512 | | 2 × 32 (f16) | 2 × 16 (zero points) |
//! | q2_k | 4 × 256 | | 4 × 64 (scale, min: nibbles) | 64 (d, dmin) |
//! | q3_k | 4 × 256 | 4 × 128 | 4 × 64 (i8) | 32 (d) |
//!
//! bytes, where 4 × stands for tiles of 64 columns and 8 × for blocks of 32. Lane
//! 4g + t of a warp loads 16 bytes of each tile: rows g and g + 8, of each 32
//! columns those from 8t to 8t + 7 (q6_k: of each 16 those from 4t to 4t + 3), as
//! four words of 16 columns. In a word, nibble f + 4·h (f < 4, h < 2) is the
//! number of row g + 8·(f mod 2) in place 2·(f div 2) + h of its four columns. Where
//! numbers have two bits below (q2_k, q3_k) a lane's words are two of 32 columns, as the
//! high bits of q6_k are. `quant.cuh` and `quant_blocks.cuh` read it; `layout_blocks.rs`
//! packs the scales of the latter.

use crate::common::layout_blocks;
use registry::{Codes, WeightLayout, WeightShape, codes};

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
        _ => return layout_blocks::parts(scheme),
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
        schemes: &[
            "q4_0", "q8_0", "q4_k", "q5_k", "q6_k", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k",
            "iq4_nl", "iq4_xs", "mxfp4", "w4_paro",
        ],
        panel_rows: ROWS,
        panel_bytes: |shape| {
            shape.row_bytes()?;
            (chunk_bytes(shape.scheme.0)? as u64).checked_mul(chunks(shape.k) as u64)
        },
        pack,
    }
}

/// The codes of a chunk's rows, zeros where there are none.
type Numbers = [[u8; COLUMNS]; ROWS];

fn pack(shape: &WeightShape, rows: usize, src: &[u8], dst: &mut [u8]) {
    dst.fill(0);
    let scheme = shape.scheme;
    let found = (
        parts(scheme.0),
        shape.row_bytes(),
        scheme.desc(),
        codes(scheme.0),
    );
    let (Some(parts), Some(row_bytes), Some(desc), Some(codes)) = found else {
        return;
    };
    let size: usize = parts.iter().sum();
    let part_bytes = COLUMNS / desc.block * desc.block_bytes;
    for (c, chunk) in dst.chunks_exact_mut(size).enumerate() {
        let (low, rest) = chunk.split_at_mut(parts[0]);
        let (high, rest) = rest.split_at_mut(parts[1]);
        let (scales, d) = rest.split_at_mut(parts[2]);
        let mut numbers = [[0; COLUMNS]; ROWS];
        for (row, src) in src.chunks_exact(row_bytes as usize).take(rows).enumerate() {
            let blocks = part(src, c, part_bytes);
            unpack(
                codes,
                blocks,
                (desc.block, desc.block_bytes),
                &mut numbers[row],
            );
            let to = &mut *scales;
            match scheme.0 {
                "q4_0" => small_scales(to, row, blocks, 18),
                "q8_0" => {
                    small_scales(to, row, blocks, 34);
                    let held = blocks.len() / desc.block_bytes * desc.block;
                    numbers[row][..held].iter_mut().for_each(|q| *q ^= 0x80);
                }
                "q4_k" | "q5_k" => super_scales(to, d, row, blocks),
                "q6_k" => q6_k_scales(to, d, row, blocks),
                other => layout_blocks::scales(other, to, d, row, blocks),
            }
        }
        match scheme.0 {
            "q8_0" => bytes(&numbers, low),
            "q6_k" => nibbles::<16>(&numbers, low),
            "q2_k" | "q3_k" => pairs(&numbers, 0, low),
            _ => nibbles::<32>(&numbers, low),
        }
        match scheme.0 {
            "q6_k" => pairs(&numbers, 4, high),
            "q3_k" => single_bits::<16>(&numbers, 2, high),
            "q5_0" | "q5_1" | "q5_k" => single_bits::<32>(&numbers, 4, high),
            _ => {}
        }
    }
}

/// The chunk's bytes of a row, fewer at its end.
fn part(src: &[u8], chunk: usize, bytes: usize) -> &[u8] {
    let from = (chunk * bytes).min(src.len());
    &src[from..(from + bytes).min(src.len())]
}

fn unpack(codes: Codes, src: &[u8], (block, bytes): (usize, usize), out: &mut [u8]) {
    let blocks = src.chunks_exact(bytes).zip(out.chunks_exact_mut(block));
    blocks.for_each(|(src, out)| codes(src, out));
}

/// The numbers of four columns that lane 4g + t has in word `w` of tile `tile`, of
/// rows g and g + 8, a byte each.
fn four<const SUB: usize>(
    numbers: &Numbers,
    (tile, g, t, w): (usize, usize, usize, usize),
) -> [u32; 2] {
    let words = SUB / 16;
    let at = tile * 64 + w / words * SUB + t * (SUB / 4) + w % words * 4;
    [g, g + 8].map(|row| {
        let n = &numbers[row][at..at + 4];
        u32::from_le_bytes([n[0], n[1], n[2], n[3]])
    })
}

/// Calls `each` with every tile, row g < 8 and quarter t: where a lane's bytes are.
fn lanes(mut each: impl FnMut(usize, usize, usize, usize)) {
    for tile in 0..COLUMNS / 64 {
        for g in 0..8 {
            for t in 0..4 {
                each(tile * 32 + g * 4 + t, tile, g, t);
            }
        }
    }
}

/// Low bits: of a word's bytes, each with both rows, the middle ones change places.
fn nibbles<const SUB: usize>(numbers: &Numbers, low: &mut [u8]) {
    lanes(|lane, tile, g, t| {
        let out = &mut low[lane * 16..][..16];
        for (w, out) in out.chunks_exact_mut(4).enumerate() {
            let [a, b] = four::<SUB>(numbers, (tile, g, t, w)).map(|n| n & 0x0f0f_0f0f);
            let x = (a | b << 4).to_le_bytes();
            out.copy_from_slice(&[x[0], x[2], x[1], x[3]]);
        }
    });
}

/// Bit `from` of a lane's 16 columns and two rows: a word.
fn single_bits<const SUB: usize>(numbers: &Numbers, from: usize, high: &mut [u8]) {
    lanes(|lane, tile, g, t| {
        let word = (0..4).fold(0, |word, w| {
            let four = four::<SUB>(numbers, (tile, g, t, w));
            let [a, b] = four.map(|n| n >> from & 0x0101_0101);
            let x = (a | b << 1).to_le_bytes().map(u32::from);
            word | (x[0] | x[2] << 2 | x[1] << 16 | x[3] << 18) << (4 * w)
        });
        high[lane * 4..][..4].copy_from_slice(&word.to_le_bytes());
    });
}

/// Two bits, from bit `from` on, of a lane's 16 columns and two rows: two words.
fn pairs(numbers: &Numbers, from: usize, out: &mut [u8]) {
    lanes(|lane, tile, g, t| {
        let out = &mut out[lane * 8..][..8];
        for (i, out) in out.chunks_exact_mut(4).enumerate() {
            let word = (0..2).fold(0, |word, w| {
                let four = four::<16>(numbers, (tile, g, t, 2 * i + w));
                let [a, b] = four.map(|n| n >> from & 0x0303_0303);
                let x = (a | b << 2).to_le_bytes().map(u32::from);
                word | (x[0] | x[2] << 4 | x[1] << 16 | x[3] << 20) << (8 * w)
            });
            out.copy_from_slice(&word.to_le_bytes());
        }
    });
}

/// Whole bytes: of each block of 32, a lane's eight columns of both rows.
fn bytes(numbers: &Numbers, low: &mut [u8]) {
    lanes(|lane, tile, g, t| {
        for w in 0..4 {
            let rows = four::<32>(numbers, (tile, g, t, w));
            for (r, n) in rows.into_iter().enumerate() {
                let at = (tile * 2 + w / 2) * 512 + lane % 32 * 16 + (w % 2 * 2 + r) * 4;
                low[at..at + 4].copy_from_slice(&n.to_le_bytes());
            }
        }
    });
}

/// q4_0 and q8_0: blocks of 32 with one f16.
fn small_scales(scales: &mut [u8], row: usize, src: &[u8], bytes: usize) {
    for (b, block) in src.chunks_exact(bytes).enumerate() {
        let at = b / 2 * 64 + row % 8 * 8 + row / 8 * 4 + b % 2 * 2;
        scales[at..at + 2].copy_from_slice(&block[..2]);
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

/// q4_k and q5_k.
fn super_scales(scales: &mut [u8], d: &mut [u8], row: usize, src: &[u8]) {
    if src.is_empty() {
        return;
    }
    let at = row % 8 * 8 + row / 8 * 4;
    d[at..at + 4].copy_from_slice(&src[..4]);
    for s in 0..8 {
        let at = s / 2 * 64 + row % 8 * 8 + row / 8 * 4 + s % 2 * 2;
        scales[at..at + 2].copy_from_slice(&scale_and_min(&src[4..16], s));
    }
}

fn q6_k_scales(scales: &mut [u8], d: &mut [u8], row: usize, src: &[u8]) {
    if src.is_empty() {
        return;
    }
    let at = row % 8 * 4 + row / 8 * 2;
    d[at..at + 2].copy_from_slice(&src[208..210]);
    for s in 0..16 {
        scales[s / 4 * 64 + row % 8 * 8 + row / 8 * 4 + s % 4] = src[192 + s];
    }
}
