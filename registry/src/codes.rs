//! The codes of block schemes, taken apart a block at a time: what packing a layout
//! starts from, in loops that compilers turn into vectors. Formats as in ggml's
//! `ggml-quants.c`.

/// Writes the codes of a block, all bits of each element in a byte, in order.
pub type Codes = fn(block: &[u8], out: &mut [u8]);

/// Elements of the largest block.
pub const MOST: usize = 256;

/// How the codes of `scheme` come out of a block of its.
pub fn codes(scheme: &str) -> Option<Codes> {
    Some(match scheme {
        "q8_0" => |x, out| out.copy_from_slice(&x[2..34]),
        "q4_0" | "iq4_nl" => |x, out| halves(&x[2..18], out),
        "q4_1" => |x, out| halves(&x[4..20], out),
        "q5_0" => |x, out| {
            halves(&x[6..22], out);
            bits(&x[2..6], out);
        },
        "q5_1" => |x, out| {
            halves(&x[8..24], out);
            bits(&x[4..8], out);
        },
        "q2_k" => |x, out| k_planes::<2>(&x[16..80], out, 0),
        "q3_k" => |x, out| {
            k_planes::<2>(&x[32..96], out, 0);
            k_planes::<1>(&x[..32], out, 2);
        },
        "q4_k" => |x, out| k_planes::<4>(&x[16..144], out, 0),
        "q5_k" => |x, out| {
            k_planes::<4>(&x[48..176], out, 0);
            k_planes::<1>(&x[16..48], out, 4);
        },
        "q6_k" => |x, out| {
            for (x, out) in x[..128].chunks_exact(64).zip(out.chunks_exact_mut(128)) {
                let (low, high) = out.split_at_mut(64);
                for ((x, low), high) in x.iter().zip(low).zip(high) {
                    (*low, *high) = (x & 15, x >> 4);
                }
            }
            k_planes::<2>(&x[128..192], out, 4);
        },
        "iq4_xs" => |x, out| halves(&x[8..136], out),
        "mxfp4" => |x, out| halves(&x[1..17], out),
        "w4_paro" => |x, out| halves(&x[4..68], out),
        _ => return None,
    })
}

/// Groups of 32: low halves of 16 bytes, then their high halves.
fn halves(x: &[u8], out: &mut [u8]) {
    for (x, out) in x.chunks_exact(16).zip(out.chunks_exact_mut(32)) {
        let (low, high) = out.split_at_mut(16);
        for ((x, low), high) in x.iter().zip(low).zip(high) {
            (*low, *high) = (x & 15, x >> 4);
        }
    }
}

/// A fifth bit each of 32 elements, in order.
fn bits(x: &[u8], out: &mut [u8]) {
    for (x, out) in x.iter().zip(out.chunks_exact_mut(8)) {
        for (i, out) in out.iter_mut().enumerate() {
            *out |= (x >> i & 1) << 4;
        }
    }
}

/// `BITS` bits of each element, put at bit `at` of its code: each 32 bytes hold as
/// many times 32 elements as fit a byte, one plane of bits behind the other.
fn k_planes<const BITS: usize>(x: &[u8], out: &mut [u8], at: usize) {
    for (x, out) in x.chunks_exact(32).zip(out.chunks_exact_mut(256 / BITS)) {
        for (plane, out) in out.chunks_exact_mut(32).enumerate() {
            for (x, out) in x.iter().zip(out) {
                let code = (x >> (plane * BITS) & ((1 << BITS) - 1)) << at;
                // What lies below is there already.
                *out = if at == 0 { code } else { *out | code };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One element of a block, as the format's description has it.
    fn code(scheme: &str, x: &[u8], e: usize) -> u8 {
        let half = |x: &[u8]| x[e / 32 * 16 + e % 16] >> (e % 32 / 16 * 4) & 15;
        let bit = |x: &[u8]| x[e / 8] >> (e % 8) & 1;
        let k_nibble = |x: &[u8]| x[e / 64 * 32 + e % 32] >> (e / 32 % 2 * 4) & 15;
        let k_pair = |x: &[u8]| x[e / 128 * 32 + e % 32] >> (e / 32 % 4 * 2) & 3;
        let k_bit = |x: &[u8]| x[e % 32] >> (e / 32) & 1;
        match scheme {
            "q8_0" => x[2 + e],
            "q4_0" | "iq4_nl" => half(&x[2..]),
            "q4_1" => half(&x[4..]),
            "q5_0" => half(&x[6..]) | bit(&x[2..]) << 4,
            "q5_1" => half(&x[8..]) | bit(&x[4..]) << 4,
            "q2_k" => k_pair(&x[16..]),
            "q3_k" => k_pair(&x[32..]) | k_bit(x) << 2,
            "q4_k" => k_nibble(&x[16..]),
            "q5_k" => k_nibble(&x[48..]) | k_bit(&x[16..]) << 4,
            "q6_k" => {
                let low = x[e / 128 * 64 + e % 64] >> (e / 64 % 2 * 4) & 15;
                low | k_pair(&x[128..]) << 4
            }
            "iq4_xs" => half(&x[8..]),
            "mxfp4" => half(&x[1..]),
            _ => half(&x[4..]),
        }
    }

    #[test]
    fn every_element_is_where_the_format_has_it() {
        let mut found = 0;
        for desc in crate::inventory::iter::<crate::SchemeDesc>() {
            let Some(codes) = codes(desc.name) else {
                continue;
            };
            found += 1;
            let mut state = 1u32;
            let block: Vec<u8> = (0..desc.block_bytes)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                })
                .collect();
            assert!(desc.block <= MOST);
            let mut out = vec![0xff; desc.block];
            codes(&block, &mut out);
            for (e, have) in out.iter().enumerate() {
                assert_eq!(*have, code(desc.name, &block, e), "{} {e}", desc.name);
            }
        }
        assert_eq!(found, 14);
    }
}
