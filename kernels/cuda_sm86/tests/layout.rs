//! Layout mma16 against the codecs of `formats`: the place of every number, as the
//! kernels compute it, decoded from packed bytes.

use formats::{StoredType, decode_row};
use half::f16;
use registry::{Scheme, WeightLayout, WeightShape};

const SCHEMES: &[(&str, StoredType)] = &[
    ("q4_0", StoredType::Q4_0),
    ("q8_0", StoredType::Q8_0),
    ("q4_k", StoredType::Q4_K),
    ("q5_k", StoredType::Q5_K),
    ("q6_k", StoredType::Q6_K),
    ("q4_1", StoredType::Q4_1),
    ("q5_0", StoredType::Q5_0),
    ("q5_1", StoredType::Q5_1),
    ("q2_k", StoredType::Q2_K),
    ("q3_k", StoredType::Q3_K),
    ("iq4_nl", StoredType::IQ4_NL),
    ("iq4_xs", StoredType::IQ4_XS),
    ("mxfp4", StoredType::MXFP4),
    ("w4_paro", StoredType::W4_PARO),
];

/// Levels of iq4, and twice those of mxfp4.
const IQ4: [f32; 16] = [
    -127., -104., -83., -65., -49., -35., -22., -10., 1., 13., 25., 38., 53., 69., 89., 113.,
];
const E2M1: [f32; 16] = [
    0., 1., 2., 3., 4., 6., 8., 12., -0., -1., -2., -3., -4., -6., -8., -12.,
];

fn random(n: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..n).map(|_| next()).collect()
}

/// Random blocks with scales that are numbers.
fn blocks(stored: StoredType, count: usize) -> Vec<u8> {
    let bytes = stored.block_bytes();
    let mut all = random(count * bytes, bytes as u64);
    let at: &[usize] = match stored {
        StoredType::Q4_K | StoredType::Q5_K => &[0, 2],
        StoredType::Q6_K => &[208],
        StoredType::Q4_1 | StoredType::Q5_1 => &[0, 2],
        StoredType::Q2_K => &[80, 82],
        StoredType::Q3_K => &[108],
        // Every exponent but the largest, which is no number in some formats.
        StoredType::MXFP4 => &[],
        _ => &[0],
    };
    for (i, block) in all.chunks_exact_mut(bytes).enumerate() {
        for (j, at) in at.iter().enumerate() {
            let d = f16::from_f32(0.01 + 0.001 * (i % 7) as f32 + 0.0003 * j as f32);
            block[*at..at + 2].copy_from_slice(&d.to_le_bytes());
        }
    }
    all
}

fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

fn word(bytes: &[u8], i: usize) -> u32 {
    u32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().expect("four bytes"))
}

/// `element` of `quant.cuh`, in Rust.
fn element(scheme: &str, chunk: &[u8], row: usize, k: usize) -> f32 {
    let sub = match scheme {
        "q6_k" | "q2_k" | "q3_k" => 16,
        _ => 32,
    };
    let (tile, i, own) = (k / 64, k % sub, sub / 4);
    let w = k % 64 / sub * (sub / 16) + i % own / 4;
    let lane = row % 8 * 4 + i / own;
    let f = i % 4 / 2 * 2 + row / 8;
    let low = || word(chunk, tile * 128 + lane * 4 + w) >> (4 * f + 16 * (i % 2)) & 15;
    let rows = row % 8 * 8 + row / 8 * 4;
    // A row's own number, its block of 32, its block of 16.
    let (own, block, short) = (
        row % 8 * 2 + row / 8,
        tile * 32 + rows / 2 + k % 64 / 32,
        tile * 64 + rows + k % 64 / 16,
    );
    let two_bits =
        || word(chunk, tile * 64 + lane * 2 + w / 2) >> (16 * (i % 2) + 2 * (w % 2 * 4 + f)) & 3;
    let high_bit =
        |from: usize| word(&chunk[from..], tile * 32 + lane) >> (16 * (i % 2) + 4 * w + f) & 1;
    match scheme {
        "q4_1" => {
            let s = 2048 + 4 * block;
            half(chunk, s) * low() as f32 + half(chunk, s + 2)
        }
        "q5_0" => {
            let q = low() | high_bit(2048) << 4;
            half(chunk, 2560 + 2 * block) * (q as f32 - 16.0)
        }
        "q5_1" => {
            let (q, s) = (low() | high_bit(2048) << 4, 2560 + 4 * block);
            half(chunk, s) * q as f32 + half(chunk, s + 2)
        }
        "iq4_nl" => half(chunk, 2048 + 2 * block) * IQ4[low() as usize],
        "iq4_xs" => {
            let scale = half(chunk, 2176 + 2 * own) * f32::from(chunk[2048 + block] as i8);
            scale * IQ4[low() as usize]
        }
        "mxfp4" => {
            let e = f64::from(chunk[2048 + block]) - 128.0;
            (e.exp2() * f64::from(E2M1[low() as usize])) as f32
        }
        "w4_paro" => {
            let at = k / 128 * 16 + own;
            (low() as f32 - f32::from(chunk[2112 + at])) * half(chunk, 2048 + 2 * at)
        }
        "q2_k" => {
            let s = chunk[1024 + short];
            let scale = half(chunk, 1280 + 4 * own) * f32::from(s & 15);
            scale * two_bits() as f32 - half(chunk, 1282 + 4 * own) * f32::from(s >> 4)
        }
        "q3_k" => {
            let q = (two_bits() | high_bit(1024) << 2) as f32 - 4.0;
            half(chunk, 1792 + 2 * own) * f32::from(chunk[1536 + short] as i8) * q
        }
        "q4_0" => {
            let d = half(chunk, 2048 + tile * 64 + rows + k % 64 / 32 * 2);
            d * (low() as f32 - 8.0)
        }
        "q8_0" => {
            let at = k / 32 * 512 + lane * 16 + (w % 2 * 2 + row / 8) * 4 + i % 4;
            let d = half(chunk, 4096 + tile * 64 + rows + k % 64 / 32 * 2);
            d * (f32::from(chunk[at]) - 128.0)
        }
        "q4_k" | "q5_k" => {
            let high = if scheme == "q4_k" { 0 } else { 512 };
            let mut q = low();
            if high > 0 {
                let h = word(&chunk[2048..], tile * 32 + lane);
                q |= (h >> (16 * (i % 2) + 4 * w + f) & 1) << 4;
            }
            let s = 2048 + high + tile * 64 + rows + k % 64 / 32 * 2;
            let d = 2304 + high + rows;
            half(chunk, d) * f32::from(chunk[s]) * q as f32
                - half(chunk, d + 2) * f32::from(chunk[s + 1])
        }
        _ => {
            let h = word(&chunk[2048..], tile * 64 + lane * 2 + w / 2);
            let q = low() | (h >> (16 * (i % 2) + 2 * (w % 2 * 4 + f)) & 3) << 4;
            let s = chunk[3072 + tile * 64 + rows + k % 64 / 16] as i8;
            half(chunk, 3328 + row % 8 * 4 + row / 8 * 2) * f32::from(s) * (q as f32 - 32.0)
        }
    }
}

#[test]
fn packed_numbers_are_those_of_the_file() {
    // The tree must be linked for its layout to be registered.
    assert_eq!(cuda_sm86::BACKEND, "cuda_sm86");
    let layout = WeightLayout::find("mma16").expect("the layout");
    for &(name, stored) in SCHEMES {
        let (n, k) = (
            21,
            match stored.block_elements() {
                32 => 288,
                128 => 384,
                _ => 512,
            },
        );
        let shape = WeightShape {
            scheme: Scheme::find(name).expect("a scheme"),
            n,
            k,
        };
        let row_bytes = shape.row_bytes().expect("whole blocks") as usize;
        let file = blocks(stored, n * k / stored.block_elements());
        let panel = (layout.panel_bytes)(&shape).expect("a size") as usize;
        assert_eq!(layout.bytes(&shape), Some(2 * panel as u64));
        let chunk = panel / k.div_ceil(256);
        let mut packed = vec![0xa5; 2 * panel];
        for (p, dst) in packed.chunks_exact_mut(panel).enumerate() {
            let rows = (n - 16 * p).min(16);
            let src = &file[16 * p * row_bytes..][..rows * row_bytes];
            (layout.pack)(&shape, rows, src, dst);
        }
        for row in 0..n {
            let mut want = vec![0f32; k];
            let src = &file[row * row_bytes..][..row_bytes];
            decode_row(stored, src, &mut want).expect("whole blocks");
            for (i, want) in want.iter().enumerate() {
                let at = row / 16 * panel + i / 256 * chunk;
                let got = element(name, &packed[at..][..chunk], row % 16, i % 256);
                assert_eq!(got, *want, "{name} row {row} column {i}");
            }
        }
    }
}
