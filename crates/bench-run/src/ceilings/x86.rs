//! Multiply-adds of x86 instruction sets, as many in flight as the units take.

use super::{Loop, sum_lanes};
use std::arch::asm;
use std::arch::x86_64::*;
use std::hint::black_box;

/// Accumulators of a loop: twice the latency of a unit, on two units.
const CHAINS: usize = 12;

/// Bytes ahead of a read at which memory is called for.
const AHEAD: usize = 2048;

/// Calls for the 256 bytes that lie [`AHEAD`] of an address.
#[inline(always)]
fn ahead(at: *const u64) {
    for line in 0..4 {
        // SAFETY: prefetching faults nowhere.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.wrapping_byte_add(AHEAD + 64 * line).cast()) };
    }
}

pub(super) fn sum(words: &[u64]) -> Option<u64> {
    #[target_feature(enable = "avx512f")]
    fn wide(words: &[u64]) -> u64 {
        sum_lanes(words, ahead)
    }
    #[target_feature(enable = "avx2")]
    fn half(words: &[u64]) -> u64 {
        sum_lanes(words, ahead)
    }
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the feature is there.
        return Some(unsafe { wide(words) });
    }
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the feature is there.
        return Some(unsafe { half(words) });
    }
    None
}

pub(super) fn f32_loops(has: &dyn Fn(&str) -> bool) -> Vec<Loop> {
    let mut all = Vec::new();
    if has("avx512") {
        all.push(Loop {
            with: "avx512f",
            ops: (2 * 16 * CHAINS) as f64,
            // SAFETY: the device has the feature.
            run: |rounds| unsafe { f32_512(rounds) },
        });
    }
    if has("avx2") {
        all.push(Loop {
            with: "fma",
            ops: (2 * 8 * CHAINS) as f64,
            // SAFETY: the device has the feature.
            run: |rounds| unsafe { f32_256(rounds) },
        });
    }
    all
}

pub(super) fn bf16_loops(has: &dyn Fn(&str) -> bool) -> Vec<Loop> {
    let mut all = Vec::new();
    if has("avx512bf16") {
        all.push(Loop {
            with: "avx512bf16",
            ops: (2 * 32 * CHAINS) as f64,
            // SAFETY: the device has the feature.
            run: |rounds| unsafe { bf16_512(rounds) },
        });
    }
    if has("amx") {
        all.push(Loop {
            with: "amx-bf16",
            ops: (4 * 2 * 16 * 16 * 32) as f64,
            // SAFETY: the device has tiles and may use them.
            run: |rounds| unsafe { bf16_tiles(rounds) },
        });
    }
    all
}

pub(super) fn int8_loops(has: &dyn Fn(&str) -> bool) -> Vec<Loop> {
    let mut all = Vec::new();
    if has("avx512") && is_x86_feature_detected!("avx512vnni") {
        all.push(Loop {
            with: "avx512vnni",
            ops: (2 * 64 * CHAINS) as f64,
            // SAFETY: the CPU has the feature.
            run: |rounds| unsafe { int8_512(rounds) },
        });
    }
    if has("avx2") && is_x86_feature_detected!("avxvnni") {
        all.push(Loop {
            with: "avxvnni",
            ops: (2 * 32 * CHAINS) as f64,
            // SAFETY: the CPU has the feature.
            run: |rounds| unsafe { int8_vnni(rounds) },
        });
    }
    if has("avx2") {
        all.push(Loop {
            with: "avx2",
            ops: (2 * 32 * CHAINS) as f64,
            // SAFETY: the device has the feature.
            run: |rounds| unsafe { int8_256(rounds) },
        });
    }
    if has("amx") && amx_int8() {
        all.push(Loop {
            with: "amx-int8",
            ops: (4 * 2 * 16 * 16 * 64) as f64,
            // SAFETY: the device has tiles and may use them, these too.
            run: |rounds| unsafe { int8_tiles(rounds) },
        });
    }
    all
}

fn amx_int8() -> bool {
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx >> 25 & 1 == 1
}

macro_rules! chains {
    ($name:ident, $feature:literal, $vector:ty, $set:expr, $step:expr) => {
        #[target_feature(enable = $feature)]
        fn $name(rounds: u64) {
            let [a, b]: [$vector; 2] = black_box([$set; 2]);
            let mut sums: [$vector; CHAINS] = black_box([$set; CHAINS]);
            for _ in 0..rounds {
                for s in &mut sums {
                    *s = $step(*s, a, b);
                }
            }
            black_box(sums);
        }
    };
}

chains!(
    f32_512,
    "avx512f",
    __m512,
    _mm512_set1_ps(0.5),
    |s, a, b| _mm512_fmadd_ps(s, a, b)
);
chains!(
    f32_256,
    "avx2,fma",
    __m256,
    _mm256_set1_ps(0.5),
    |s, a, b| _mm256_fmadd_ps(s, a, b)
);
chains!(
    int8_512,
    "avx512f,avx512vnni",
    __m512i,
    _mm512_set1_epi8(3),
    |s, a, b| _mm512_dpbusd_epi32(s, a, b)
);
chains!(
    int8_vnni,
    "avx2,avxvnni",
    __m256i,
    _mm256_set1_epi8(3),
    |s, a, b| _mm256_dpbusd_avx_epi32(s, a, b)
);
chains!(int8_256, "avx2", __m256i, _mm256_set1_epi8(3), |s, a, b| {
    let pairs = _mm256_maddubs_epi16(_mm256_xor_si256(s, a), b);
    _mm256_add_epi32(s, _mm256_madd_epi16(pairs, a))
});

#[target_feature(enable = "avx512f,avx512bf16")]
fn bf16_512(rounds: u64) {
    // SAFETY: vectors of the same size, of which any bits are valid.
    let half: __m512bh = unsafe { std::mem::transmute(_mm512_set1_epi16(0x3f00)) };
    let [a, b] = black_box([half; 2]);
    let mut sums = black_box([_mm512_setzero_ps(); CHAINS]);
    for _ in 0..rounds {
        for s in &mut sums {
            *s = _mm512_dpbf16_ps(*s, a, b);
        }
    }
    black_box(sums);
}

/// Eight tiles of 16 rows of 64 bytes.
#[repr(align(64))]
struct TileConfig([u8; 64]);

fn tile_config() -> TileConfig {
    let mut c = [0; 64];
    c[0] = 1;
    for tile in 0..8 {
        c[16 + 2 * tile] = 64;
        c[48 + tile] = 16;
    }
    TileConfig(c)
}

macro_rules! tiles {
    ($name:ident, $product:literal) => {
        /// # Safety
        /// The process may use tiles, and the CPU has this product.
        unsafe fn $name(rounds: u64) {
            let config = tile_config();
            // SAFETY: touches tile registers only and leaves them as it found them,
            // unused; their contents after configuration are zeros.
            unsafe {
                asm!(
                    "ldtilecfg [{config}]",
                    "2:",
                    concat!($product, " tmm0, tmm4, tmm6"),
                    concat!($product, " tmm1, tmm4, tmm7"),
                    concat!($product, " tmm2, tmm5, tmm6"),
                    concat!($product, " tmm3, tmm5, tmm7"),
                    "dec {rounds}",
                    "jnz 2b",
                    "tilerelease",
                    config = in(reg) config.0.as_ptr(),
                    rounds = inout(reg) rounds.max(1) => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, readonly),
                );
            }
        }
    };
}

tiles!(bf16_tiles, "tdpbf16ps");
tiles!(int8_tiles, "tdpbssd");
