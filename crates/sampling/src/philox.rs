//! Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw,
//! "Parallel random numbers: as easy as 1, 2, 3" (SC11). Written here from the
//! paper; the tests hold it to the published known answers.
//!
//! A counter-based generator is a function, not a state: number `n` of a stream
//! costs the same as number 0, which is what makes a draw independent of the order
//! in which sequences are served.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// Weyl increments: the golden ratio and √3 − 1, as 32-bit fractions.
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// Ten rounds of Philox over a 128-bit counter and a 64-bit key, least significant
/// word first.
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..ROUNDS {
        let p0 = u64::from(MULTIPLIERS[0]) * u64::from(c0);
        let p1 = u64::from(MULTIPLIERS[1]) * u64::from(c2);
        (c0, c1, c2, c3) = (
            (p1 >> 32) as u32 ^ c1 ^ k0,
            p1 as u32,
            (p0 >> 32) as u32 ^ c3 ^ k1,
            p0 as u32,
        );
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
    }
    [c0, c1, c2, c3]
}

/// The 128 random bits of one position of one sequence, as two words: the sampler
/// draws from the first; the second is free for a second decision at the same
/// position (such as accepting a drafted token).
///
/// Key: `seed`. Counter: `position` in the low, `sequence` in the high 64 bits.
pub fn bits(seed: u64, sequence: u64, position: u64) -> [u64; 2] {
    let counter = [
        position as u32,
        (position >> 32) as u32,
        sequence as u32,
        (sequence >> 32) as u32,
    ];
    let [a, b, c, d] = philox4x32_10(counter, [seed as u32, (seed >> 32) as u32]);
    [
        u64::from(b) << 32 | u64::from(a),
        u64::from(d) << 32 | u64::from(c),
    ]
}

/// A uniform number in [0, 1) from the top 53 of 64 random bits.
pub fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// A uniform integer in [0, n) from 64 random bits; `n` > 0. The bias of the
/// multiply-and-shift is below n / 2⁶⁴.
pub(crate) fn below(bits: u64, n: u64) -> u64 {
    ((u128::from(bits) * u128::from(n)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The three philox4x32-10 lines of the Random123 distribution's kat_vectors.
    #[test]
    fn published_known_answers() {
        assert_eq!(
            philox4x32_10([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32_10([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32_10(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn bits_use_every_word_of_seed_sequence_and_position() {
        assert_eq!(
            bits(0, 0, 0),
            [0xe169_c58d_6627_e8d5, 0x9b00_dbd8_bc57_ac4c]
        );
        // The third known answer, its words put together.
        assert_eq!(
            bits(
                0x299f_31d0_a409_3822,
                0x0370_7344_1319_8a2e,
                0x85a3_08d3_243f_6a88
            ),
            [0x94fd_cceb_d16c_fe09, 0x2412_6ea1_5001_e420]
        );
    }

    #[test]
    fn unit_and_below_stay_in_range() {
        assert_eq!(unit(0), 0.0);
        assert!(unit(u64::MAX) < 1.0);
        assert_eq!(below(u64::MAX, 1), 0);
        assert_eq!(below(u64::MAX, 10), 9);
        assert_eq!(below(0, u64::MAX), 0);
    }
}
