//! Layout mma16 of the schemes that `quant_blocks.cuh` reads: what scales their
//! numbers. See `layout.rs` for the places, and for the numbers.

/// Bytes of a chunk's parts: low bits, high bits, scales, what scales or shifts those.
pub fn parts(scheme: &str) -> Option<[usize; 4]> {
    Some(match scheme {
        "q4_1" => [2048, 0, 512, 0],
        "q5_0" => [2048, 512, 256, 0],
        "q5_1" => [2048, 512, 512, 0],
        "iq4_nl" => [2048, 0, 256, 0],
        "iq4_xs" => [2048, 0, 128, 32],
        "mxfp4" => [2048, 0, 128, 0],
        "w4_paro" => [2048, 0, 64, 32],
        "q2_k" => [1024, 0, 256, 64],
        "q3_k" => [1024, 512, 256, 32],
        _ => return None,
    })
}

/// Packs the scales of a chunk's row. `src`: its blocks.
pub fn scales(scheme: &str, scales: &mut [u8], d: &mut [u8], row: usize, src: &[u8]) {
    match scheme {
        "q4_1" => small(scales, row, src, 20, 4),
        "q5_0" => small(scales, row, src, 22, 2),
        "q5_1" => small(scales, row, src, 24, 4),
        "iq4_nl" => small(scales, row, src, 18, 2),
        "mxfp4" => small(scales, row, src, 17, 1),
        "w4_paro" => w4_paro(scales, d, row, src),
        _ if src.is_empty() => {}
        "iq4_xs" => iq4_xs(scales, d, row, src),
        "q2_k" => q2_k(scales, d, row, src),
        "q3_k" => q3_k(scales, d, row, src),
        _ => {}
    }
}

/// Place of a row's block of 32 among those of all rows: bytes, halves or words.
fn block_at(row: usize, block: usize) -> usize {
    block / 2 * 32 + row_at(row) * 2 + block % 2
}

/// The same of its blocks of 16.
fn half_block_at(row: usize, block: usize) -> usize {
    block / 4 * 64 + row_at(row) * 4 + block % 4
}

fn row_at(row: usize) -> usize {
    row % 8 * 2 + row / 8
}

/// Blocks of 32 of so many bytes, with `held` bytes in front: scale, least number or
/// exponent.
fn small(scales: &mut [u8], row: usize, src: &[u8], bytes: usize, held: usize) {
    for (b, block) in src.chunks_exact(bytes).enumerate() {
        let at = block_at(row, b) * held;
        scales[at..at + held].copy_from_slice(&block[..held]);
    }
}

fn iq4_xs(scales: &mut [u8], d: &mut [u8], row: usize, src: &[u8]) {
    let at = row_at(row) * 2;
    d[at..at + 2].copy_from_slice(&src[..2]);
    for s in 0..8 {
        let low = src[4 + s / 2] >> (s % 2 * 4) & 15;
        let high = src[2 + s / 4] >> (s % 4 * 2) & 3;
        scales[block_at(row, s)] = (low | high << 4).wrapping_sub(32);
    }
}

fn w4_paro(scales: &mut [u8], d: &mut [u8], row: usize, src: &[u8]) {
    for (b, block) in src.chunks_exact(68).enumerate() {
        let at = b * 16 + row_at(row);
        scales[2 * at..2 * at + 2].copy_from_slice(&block[..2]);
        d[at] = block[2];
    }
}

fn q2_k(scales: &mut [u8], d: &mut [u8], row: usize, src: &[u8]) {
    let at = row_at(row) * 4;
    d[at..at + 4].copy_from_slice(&src[80..84]);
    for (s, both) in src[..16].iter().enumerate() {
        scales[half_block_at(row, s)] = *both;
    }
}

fn q3_k(scales: &mut [u8], d: &mut [u8], row: usize, src: &[u8]) {
    let at = row_at(row) * 2;
    d[at..at + 2].copy_from_slice(&src[108..110]);
    for s in 0..16 {
        let low = src[96 + s % 8] >> (s / 8 * 4) & 15;
        let high = src[104 + s % 4] >> (s / 4 * 2) & 3;
        scales[half_block_at(row, s)] = (low | high << 4).wrapping_sub(32);
    }
}
