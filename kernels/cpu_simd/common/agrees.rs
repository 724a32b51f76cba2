//! Tests that hold an instruction set to [`Portable`], bit for bit.

use super::int::IntSimd;
use super::simd::{LANES, Portable, Simd, fold};

type Lanes = [f32; LANES];

fn load<S: Simd>(s: S, a: &Lanes) -> S::V {
    // SAFETY: sixteen lanes of an array.
    unsafe { s.load(a.as_ptr()) }
}

/// Any NaN is as good as another.
fn same(got: Lanes, want: Lanes, what: &str) {
    let equal = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    assert!(
        got.iter().zip(&want).all(equal),
        "{what}: {got:?} instead of {want:?}"
    );
}

fn next(state: &mut u32) -> u32 {
    *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    *state
}

/// Finite numbers of either sign within 2^±32.
fn numbers(state: &mut u32) -> Lanes {
    std::array::from_fn(|_| {
        let bits = next(state);
        let exponent = 127 - 32 + (next(state) >> 26);
        f32::from_bits((bits & 0x807f_ffff) | exponent << 23)
    })
}

/// Bits of any kind: NaN, infinite and subnormal ones, ties of both 16-bit
/// formats, and in later rounds arbitrary ones.
fn specials(round: u32, state: &mut u32) -> Lanes {
    const SOME: [u32; 24] = [
        0x0000_0000,
        0x8000_0000,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0000,
        0xffff_ffff,
        0x7f80_0001,
        0x0000_0001,
        0x807f_ffff,
        0x7f7f_ffff,
        0xff7f_8000,
        0x3f80_8000,
        0x3f81_8000,
        0x3f80_8001,
        0x3f80_1000,
        0x3f80_3000,
        0x3f80_1001,
        0x477f_e000,
        0x477f_efff,
        0x477f_f000,
        0x3300_0000,
        0x3300_0001,
        0x387f_f000,
        0xb380_0000,
    ];
    std::array::from_fn(|i| match round {
        0..3 => f32::from_bits(SOME[(8 * round as usize + i) % SOME.len()]),
        _ => f32::from_bits(next(state)),
    })
}

/// Sums of sixteen vectors of reciprocals.
pub fn sums<S: Simd>(s: S) -> Lanes {
    let all: [S::V; LANES] = std::array::from_fn(|v| {
        let a: Lanes = std::array::from_fn(|i| 1.0 / ((v * 5 + i * 3) as f32 + 1.0));
        load(s, &a)
    });
    s.to_array(s.sums(all))
}

/// Everything of [`Simd`] but the order of [`Simd::sums`], which may differ in
/// last bits.
pub fn lanes<S: Simd>(s: S) {
    let (p, mut state) = (Portable, 1);
    for _ in 0..50 {
        let [a, b, c] = [(); 3].map(|()| numbers(&mut state));
        let (x, y) = (load(s, &a), load(s, &b));
        for (got, want, what) in [
            (s.add(x, y), p.add(a, b), "add"),
            (s.sub(x, y), p.sub(a, b), "sub"),
            (s.mul(x, y), p.mul(a, b), "mul"),
            (s.div(x, y), p.div(a, b), "div"),
            (s.splat(a[3]), p.splat(a[3]), "splat"),
        ] {
            same(s.to_array(got), want, what);
        }
        let fused = std::array::from_fn(|i| a[i].mul_add(b[i], c[i]));
        same(s.to_array(s.fma(x, y, load(s, &c))), fused, "fma");
        assert_eq!(s.sum(x), fold(a));
        assert_eq!(s.max_lane(x), p.max_lane(a));
    }
    for first in (-127..=128).step_by(LANES) {
        let n = std::array::from_fn(|i| (first + i as i32).min(128) as f32);
        same(s.to_array(s.pow2(load(s, &n))), p.pow2(n), "pow2");
    }
    for round in 0..50 {
        let a = specials(round, &mut state);
        let mut b = specials(round / 2, &mut state);
        b[1] = a[1];
        let (yes, no) = (numbers(&mut state), numbers(&mut state));
        let (x, y) = (load(s, &a), load(s, &b));
        let chosen = s.select_le(x, y, load(s, &yes), load(s, &no));
        for (got, want, what) in [
            (s.max(x, y), p.max(a, b), "max"),
            (s.min(x, y), p.min(a, b), "min"),
            (chosen, p.select_le(a, b, yes, no), "select_le"),
        ] {
            same(s.to_array(got), want, what);
        }
        sixteen_bits(s, a);
    }
    for n in 0..=LANES {
        let a = numbers(&mut state);
        let (mut got, mut want) = ([0.5; LANES], [0.5; LANES]);
        // SAFETY: n lanes of arrays of sixteen.
        let (x, y) = unsafe { (s.load_n(a.as_ptr(), n), p.load_n(a.as_ptr(), n)) };
        same(s.to_array(x), y, "load_n");
        // SAFETY: as above.
        unsafe {
            s.store_n(got.as_mut_ptr(), load(s, &a), n);
            p.store_n(want.as_mut_ptr(), a, n);
        }
        same(got, want, "store_n");
    }
    let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6;
    assert!(sums(s).iter().zip(&sums(p)).all(close));
    // SAFETY: no address is read.
    unsafe { s.prefetch(std::ptr::null()) };
}

/// Conversions to and from halves and bf16.
fn sixteen_bits<S: Simd>(s: S, a: Lanes) {
    let p = Portable;
    let words: [u16; 2 * LANES] = std::array::from_fn(|i| match i % 2 {
        0 => a[i / 2].to_bits() as u16,
        _ => (a[i / 2].to_bits() >> 16) as u16,
    });
    let from = words.as_ptr();
    let x = load(s, &a);
    let (mut got, mut want) = ([[0u16; LANES]; 2], [[0u16; LANES]; 2]);
    // SAFETY: sixteen or 32 elements of arrays.
    unsafe {
        same(s.to_array(s.load_f16(from)), p.load_f16(from), "load_f16");
        same(
            s.to_array(s.load_bf16(from)),
            p.load_bf16(from),
            "load_bf16",
        );
        let (pair, exact) = (s.load_bf16_pairs(from), p.load_bf16_pairs(from));
        same(s.to_array(pair.0), exact.0, "load_bf16_pairs");
        same(s.to_array(pair.1), exact.1, "load_bf16_pairs");
        s.store_f16(got[0].as_mut_ptr(), x);
        p.store_f16(want[0].as_mut_ptr(), a);
        s.store_bf16(got[1].as_mut_ptr(), x);
        p.store_bf16(want[1].as_mut_ptr(), a);
    }
    assert_eq!(got, want, "stores of {a:?}");
}

/// Bytes of every size, the extremes first.
fn some_bytes(seed: u32) -> [u8; 64] {
    let mut x = seed | 1;
    std::array::from_fn(|i| {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        match i {
            0..16 => 255,
            16..24 => 0,
            _ => (x >> 24) as u8,
        }
    })
}

/// A vector's 64 bytes.
fn out<S: IntSimd>(s: S, v: S::B) -> [u8; 64] {
    let mut to = [0; 64];
    // SAFETY: 64 bytes of an array.
    unsafe { s.store_bytes(to.as_mut_ptr(), v) };
    to
}

/// Bytes and the sums of their products.
pub fn bytes<S: IntSimd>(s: S) {
    let p = Portable;
    for seed in 0..50 {
        let w = some_bytes(seed);
        // Activations are never −128.
        let x = some_bytes(seed + 77).map(|b| if b == 128 { 129 } else { b });
        let x = if seed == 0 { [129; 64] } else { x };
        for narrow in [false, true] {
            let w = if narrow { w.map(|b| b & 127) } else { w };
            // SAFETY: 64 bytes of arrays.
            let (got, want) = unsafe {
                let acc = s.splat_i32(-7);
                let sums = s.dot(
                    acc,
                    s.load_bytes(w.as_ptr()),
                    s.load_bytes(x.as_ptr()),
                    narrow,
                );
                let exact = p.dot(p.splat_i32(-7), w, x, narrow);
                (s.to_array(s.to_f32(sums)), p.to_f32(exact))
            };
            assert_eq!(got, want, "narrow {narrow}");
        }
        // SAFETY: 64 bytes of an array, of which some are read.
        unsafe {
            let v = s.load_bytes(w.as_ptr());
            let pair = |a, b| (out(s, a), b);
            for (got, want) in [
                pair(s.field::<4, 4, 0>(v), p.field::<4, 4, 0>(w)),
                pair(s.field::<0, 4, 0>(v), p.field::<0, 4, 0>(w)),
                pair(s.field::<1, 1, 4>(v), p.field::<1, 1, 4>(w)),
                pair(s.field::<7, 1, 2>(v), p.field::<7, 1, 2>(w)),
                pair(s.field::<6, 2, 4>(v), p.field::<6, 2, 4>(w)),
                pair(s.field::<0, 2, 4>(v), p.field::<0, 2, 4>(w)),
                pair(s.repeat(w[30..].as_ptr()), p.repeat(w[30..].as_ptr())),
                pair(s.or(v, s.repeat(w.as_ptr())), p.or(w, p.repeat(w.as_ptr()))),
            ] {
                assert_eq!(got, want);
            }
            let table = std::array::from_fn(|i| (200 - 9 * i) as u8);
            let low = w.map(|b| b & 15);
            let found = s.lookup(&table, s.load_bytes(low.as_ptr()));
            assert_eq!(out(s, found), p.lookup(&table, low));
            let from = w[20..].as_ptr();
            assert_eq!(s.to_array(s.load_u8(from)), p.load_u8(from));
            assert_eq!(s.to_array(s.load_i8(from)), p.load_i8(from));
            let whole: [f32; LANES] = std::array::from_fn(|i| i as f32 * 16.9 - 127.0);
            let whole = whole.map(f32::round);
            let (mut a, mut b) = ([0u8; LANES], [0u8; LANES]);
            s.store_i8(a.as_mut_ptr(), s.load(whole.as_ptr()));
            p.store_i8(b.as_mut_ptr(), whole);
            assert_eq!(a, b);
        }
    }
}
