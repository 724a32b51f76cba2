//! The layout `grouped` of the block schemes: each row by itself, its numbers in
//! groups of 32 consecutive elements.
//!
//! A row of G groups is, in this order and padded with zeros to whole 16 bytes:
//!
//! - the codes, the same number of bytes for each group. Of four bits, word j holds
//!   elements 8j to 8j + 7: byte i elements 8j + i (low half) and 8j + 4 + i. Of two
//!   bits, word j holds elements 16j to 16j + 15: byte i, bits 2s, element 16j + 4s +
//!   i. Of eight bits they are in order.
//! - further bits: of one bit, a word in which byte i, bit s is element 4s + i; of
//!   two bits (q6_k), two words like codes of two bits.
//! - the scales: those of 32-element blocks as in the file; of q4_k and q5_k 16 bytes
//!   for each block of 256: d and dmin, the low halves of eight scales and of eight
//!   mins, the high two bits of the scales and of the mins; of q6_k, q3_k and q2_k a
//!   byte for each 16 elements (q3_k's six bits become an int8), then d (and dmin) of
//!   all blocks; of iq4_xs d, the scales' high bits and their low halves; of w4_paro
//!   the block's head.
//!
//! So four neighbours are four bytes of a word after one shift and one mask,
//! whatever the scheme, and lanes that take neighbouring groups read neighbouring
//! pieces of 16 bytes.

use registry::{MOST_CODES, WeightLayout, WeightShape, codes};

/// The layout's name.
pub const GROUPED: &str = "grouped";

/// Elements of a group.
const GROUP: usize = 32;

/// How a scheme comes apart.
struct Form {
    name: &'static str,
    /// Elements and bytes of a block in the file.
    block: usize,
    bytes: usize,
    /// Bytes of a group's codes and of its further bits.
    codes: usize,
    high: usize,
    /// Bytes of the scales of a row of that many groups.
    sides: fn(groups: usize) -> usize,
    /// Writes the scales of block `b` of a row.
    side: fn(block: &[u8], b: usize, groups: usize, out: &mut [u8]),
}

/// Copies `N` bytes of scales for each block.
fn copy<const N: usize>(from: &[u8], b: usize, out: &mut [u8]) {
    out[b * N..][..N].copy_from_slice(&from[..N]);
}

/// d, dmin and eight pairs of six bits, so that each is found by one shift.
fn six_bits(block: &[u8], b: usize, out: &mut [u8]) {
    let packed = &block[4..16];
    let (mut low, mut high) = ([0u32; 2], 0u32);
    for s in 0..8 {
        let pair = match s < 4 {
            true => [packed[s] & 63, packed[s + 4] & 63],
            false => [
                packed[s + 4] & 15 | packed[s - 4] >> 6 << 4,
                packed[s + 4] >> 4 | packed[s] >> 6 << 4,
            ],
        };
        for (i, v) in pair.into_iter().enumerate() {
            low[i] |= u32::from(v & 15) << (4 * s);
            high |= u32::from(v >> 4) << (2 * s + 16 * i);
        }
    }
    let out = &mut out[b * 16..][..16];
    out[..4].copy_from_slice(&block[..4]);
    for (out, word) in out[4..].chunks_exact_mut(4).zip([low[0], low[1], high]) {
        out.copy_from_slice(&word.to_le_bytes());
    }
}

fn q3_k_scale(packed: &[u8], s: usize) -> u8 {
    let low = packed[s % 8] >> (s / 8 * 4) & 15;
    let high = packed[8 + s % 4] >> (s / 4 * 2) & 3;
    (low | high << 4).wrapping_sub(32)
}

static FORMS: &[Form] = &[
    Form {
        name: "q8_0",
        block: 32,
        bytes: 34,
        codes: 32,
        high: 0,
        sides: |g| 2 * g,
        side: |x, b, _, out| copy::<2>(x, b, out),
    },
    Form {
        name: "q4_0",
        block: 32,
        bytes: 18,
        codes: 16,
        high: 0,
        sides: |g| 2 * g,
        side: |x, b, _, out| copy::<2>(x, b, out),
    },
    Form {
        name: "q4_1",
        block: 32,
        bytes: 20,
        codes: 16,
        high: 0,
        sides: |g| 4 * g,
        side: |x, b, _, out| copy::<4>(x, b, out),
    },
    Form {
        name: "q5_0",
        block: 32,
        bytes: 22,
        codes: 16,
        high: 4,
        sides: |g| 2 * g,
        side: |x, b, _, out| copy::<2>(x, b, out),
    },
    Form {
        name: "q5_1",
        block: 32,
        bytes: 24,
        codes: 16,
        high: 4,
        sides: |g| 4 * g,
        side: |x, b, _, out| copy::<4>(x, b, out),
    },
    Form {
        name: "q2_k",
        block: 256,
        bytes: 84,
        codes: 8,
        high: 0,
        sides: |g| 2 * g + g / 8 * 4,
        side: |x, b, g, out| {
            copy::<16>(x, b, out);
            copy::<4>(&x[80..], b, &mut out[2 * g..]);
        },
    },
    Form {
        name: "q3_k",
        block: 256,
        bytes: 110,
        codes: 8,
        high: 4,
        sides: |g| 2 * g + g / 8 * 2,
        side: |x, b, g, out| {
            for (s, out) in out[16 * b..][..16].iter_mut().enumerate() {
                *out = q3_k_scale(&x[96..108], s);
            }
            copy::<2>(&x[108..], b, &mut out[2 * g..]);
        },
    },
    Form {
        name: "q4_k",
        block: 256,
        bytes: 144,
        codes: 16,
        high: 0,
        sides: |g| 2 * g,
        side: |x, b, _, out| six_bits(x, b, out),
    },
    Form {
        name: "q5_k",
        block: 256,
        bytes: 176,
        codes: 16,
        high: 4,
        sides: |g| 2 * g,
        side: |x, b, _, out| six_bits(x, b, out),
    },
    Form {
        name: "q6_k",
        block: 256,
        bytes: 210,
        codes: 16,
        high: 8,
        sides: |g| 2 * g + g / 8 * 2,
        side: |x, b, g, out| {
            copy::<16>(&x[192..], b, out);
            copy::<2>(&x[208..], b, &mut out[2 * g..]);
        },
    },
    Form {
        name: "iq4_nl",
        block: 32,
        bytes: 18,
        codes: 16,
        high: 0,
        sides: |g| 2 * g,
        side: |x, b, _, out| copy::<2>(x, b, out),
    },
    Form {
        name: "iq4_xs",
        block: 256,
        bytes: 136,
        codes: 16,
        high: 0,
        sides: |g| g,
        side: |x, b, _, out| copy::<8>(x, b, out),
    },
    Form {
        name: "mxfp4",
        block: 32,
        bytes: 17,
        codes: 16,
        high: 0,
        sides: |g| g,
        side: |x, b, _, out| out[b] = x[0],
    },
    Form {
        name: "w4_paro",
        block: 128,
        bytes: 68,
        codes: 16,
        high: 0,
        sides: |g| g,
        side: |x, b, _, out| copy::<4>(x, b, out),
    },
];

fn form(shape: &WeightShape) -> Option<&'static Form> {
    FORMS.iter().find(|f| f.name == shape.scheme.0)
}

/// Bytes of a packed row. `None` for other schemes and partial blocks.
pub fn row_bytes(shape: &WeightShape) -> Option<u64> {
    let form = form(shape)?;
    let groups = shape.k / GROUP;
    let whole = shape.k > 0 && shape.k.is_multiple_of(form.block);
    let bytes = groups * (form.codes + form.high) + (form.sides)(groups);
    whole.then(|| bytes.next_multiple_of(16) as u64)
}

/// Puts `BITS` bits of each code of a group, from bit `from` on, where the group
/// keeps them: four neighbours are in the four bytes of a word, at the same shift.
fn put<const BITS: usize>(codes: &[u8], from: usize, out: &mut [u8]) {
    let mask = u32::from_le_bytes([((1u32 << BITS) - 1) as u8; 4]);
    let words = codes.chunks_exact(32 / BITS).zip(out.chunks_exact_mut(4));
    for (codes, out) in words {
        let fours = codes.as_chunks().0.iter().enumerate();
        let word = fours.fold(0, |word, (i, four)| {
            word | (u32::from_le_bytes(*four) >> from & mask) << (i * BITS)
        });
        out.copy_from_slice(&word.to_le_bytes());
    }
}

fn put_bits(bits: usize, codes: &[u8], from: usize, out: &mut [u8]) {
    match bits {
        1 => put::<1>(codes, from, out),
        2 => put::<2>(codes, from, out),
        4 => put::<4>(codes, from, out),
        _ => put::<8>(codes, from, out),
    }
}

fn pack(shape: &WeightShape, rows: usize, src: &[u8], dst: &mut [u8]) {
    let (Some(form), Some(bytes)) = (form(shape), row_bytes(shape)) else {
        return;
    };
    let Some(codes_of) = codes(form.name) else {
        return;
    };
    let groups = shape.k / GROUP;
    let source_row = shape.k / form.block * form.bytes;
    let (code_bits, high_bits) = (form.codes / 4, form.high / 4);
    let mut block_codes = [0; MOST_CODES];
    let block_codes = &mut block_codes[..form.block];
    dst.fill(0);
    let packed = dst.chunks_exact_mut(bytes as usize);
    for (src, out) in src.chunks_exact(source_row).take(rows).zip(packed) {
        let (low, rest) = out.split_at_mut(groups * form.codes);
        let (high, sides) = rest.split_at_mut(groups * form.high);
        for (b, block) in src.chunks_exact(form.bytes).enumerate() {
            codes_of(block, block_codes);
            for (i, codes) in block_codes.chunks_exact(GROUP).enumerate() {
                let g = b * form.block / GROUP + i;
                put_bits(
                    code_bits,
                    codes,
                    0,
                    &mut low[g * form.codes..][..form.codes],
                );
                if high_bits > 0 {
                    let high = &mut high[g * form.high..][..form.high];
                    put_bits(high_bits, codes, code_bits, high);
                }
            }
            (form.side)(block, b, groups, sides);
        }
    }
}

registry::inventory::submit! {
    WeightLayout {
        name: GROUPED,
        schemes: &[
            "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k",
            "iq4_nl", "iq4_xs", "mxfp4", "w4_paro",
        ],
        panel_rows: 1,
        panel_bytes: row_bytes,
        pack,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use registry::{Scheme, SchemeDesc};

    #[test]
    fn rows_are_as_large_as_in_the_file_but_for_padding() {
        for form in FORMS {
            let desc = registry::inventory::iter::<SchemeDesc>().find(|d| d.name == form.name);
            let desc = desc.expect("a scheme of the registry");
            assert_eq!((form.block, form.bytes), (desc.block, desc.block_bytes));
            let shape = WeightShape {
                scheme: Scheme(form.name),
                n: 3,
                k: 4096,
            };
            let (packed, file) = (row_bytes(&shape), shape.row_bytes());
            let more = if form.name == "q3_k" { 64 } else { 0 };
            assert_eq!(packed, file.map(|b| b + more), "{}", form.name);
            let partial = WeightShape { k: 4080, ..shape };
            assert_eq!(row_bytes(&partial), None);
        }
    }

    #[test]
    fn neighbours_are_bytes_of_a_word() {
        for bits in [1, 2, 4, 8] {
            let mut out = vec![0u8; 4 * bits];
            let codes: Vec<u8> = (0..GROUP).map(|e| u8::from(e / 4 == 5) << 3).collect();
            put_bits(bits, &codes, 3, &mut out);
            let words: Vec<u32> = (out.as_chunks().0.iter())
                .map(|w| u32::from_le_bytes(*w))
                .collect();
            let (word, shift) = (5 * bits / 8, 5 * bits % 8);
            assert_eq!(words[word], 0x0101_0101 << shift, "{bits}");
            assert_eq!(words.iter().filter(|w| **w != 0).count(), 1);
        }
    }
}
