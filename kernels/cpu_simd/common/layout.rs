//! Packed weights. A panel is 16 rows (n) of a matrix side by side, so that one
//! vector holds 16 outputs and no sum runs across lanes.
//!
//! `simd_n16k2` (bf16): panel `[Kpad/2][16 n][2 k]`, Kpad = K rounded up to 32.
//! A 64-byte vector is a k pair of 16 rows: the operand of VDPBF16PS; sixteen of
//! them are a B tile of AMX. `simd_n16` (f16, f32): panel `[K'][16 n]`,
//! K' = K rounded up to 2. Padding is zero. `simd_q16` holds the block schemes: see
//! [`super::q_scheme`].

use super::q_scheme::{Kind, PanelParts, Q16};
use registry::{WeightLayout, WeightShape};

pub const N16K2: &str = "simd_n16k2";
pub const N16: &str = "simd_n16";

/// Rows of a panel.
pub const PANEL: usize = 16;

/// K of a packed bf16 panel, and of activations packed beside it.
pub const fn pad_k(k: usize) -> usize {
    k.next_multiple_of(32)
}

/// Elements of K that a panel of this layout stores.
pub fn stored_k(layout: &str, k: usize) -> usize {
    if layout == N16K2 {
        pad_k(k)
    } else {
        k.next_multiple_of(2)
    }
}

/// Bytes of a panel.
pub fn panel_bytes(layout: &str, elem: usize, k: usize) -> usize {
    stored_k(layout, k) * PANEL * elem
}

/// Bytes of an element of a plain scheme.
pub fn elem_bytes(scheme: &str) -> Option<usize> {
    match scheme {
        "f32" => Some(4),
        "f16" | "bf16" => Some(2),
        _ => None,
    }
}

/// Bytes of a panel of any layout of the tree; `None` if it cannot hold the scheme
/// or this K.
pub fn panel_size(layout: &str, scheme: &str, k: usize) -> Option<usize> {
    if layout == Q16 {
        return Some(PanelParts::find(Kind::of(scheme)?, k)?.bytes);
    }
    Some(panel_bytes(layout, elem_bytes(scheme)?, k))
}

/// Index of element (n, k) in its panel, in elements.
#[inline(always)]
pub fn index_in_panel(pairs: bool, n: usize, k: usize) -> usize {
    if pairs {
        k / 2 * (2 * PANEL) + n * 2 + k % 2
    } else {
        k * PANEL + n
    }
}

fn pack<const BYTES: usize>(pairs: bool, k: usize, rows: usize, src: &[u8], dst: &mut [u8]) {
    let (dst, _) = dst.as_chunks_mut::<BYTES>();
    let (src, _) = src.as_chunks::<BYTES>();
    dst.fill([0; BYTES]);
    if k == 0 {
        return;
    }
    for (n, row) in src.chunks_exact(k).take(rows).enumerate() {
        if pairs {
            let (body, last) = row.as_chunks::<2>();
            for (to, pair) in dst.chunks_exact_mut(2 * PANEL).zip(body) {
                to[2 * n..2 * n + 2].copy_from_slice(pair);
            }
            if let [element] = last {
                dst[index_in_panel(true, n, k - 1)] = *element;
            }
        } else {
            for (to, element) in dst.chunks_exact_mut(PANEL).zip(row) {
                to[n] = *element;
            }
        }
    }
}

fn bytes_of(layout: &'static str, shape: &WeightShape) -> Option<u64> {
    let elem = elem_bytes(shape.scheme.0)?;
    let k = shape.k.checked_add(32)?;
    k.checked_mul(PANEL * elem)?;
    Some(panel_bytes(layout, elem, shape.k) as u64)
}

registry::inventory::submit! {
    WeightLayout {
        name: N16K2,
        schemes: &["bf16"],
        panel_rows: PANEL,
        panel_bytes: |shape| bytes_of(N16K2, shape),
        pack: |shape, rows, src, dst| pack::<2>(true, shape.k, rows, src, dst),
    }
}

registry::inventory::submit! {
    WeightLayout {
        name: N16,
        schemes: &["f16", "f32"],
        panel_rows: PANEL,
        panel_bytes: |shape| bytes_of(N16, shape),
        pack: |shape, rows, src, dst| match shape.scheme.0 {
            "f32" => pack::<4>(false, shape.k, rows, src, dst),
            _ => pack::<2>(false, shape.k, rows, src, dst),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use registry::Scheme;

    #[test]
    fn panels_hold_every_element_once_and_zeros() {
        for (name, scheme) in [
            (N16K2, Scheme::BF16),
            (N16, Scheme::F16),
            (N16, Scheme::F32),
        ] {
            let layout = WeightLayout::find(name).unwrap();
            let elem = elem_bytes(scheme.0).unwrap();
            for (rows, k) in [(16, 32), (3, 5), (16, 1), (1, 33)] {
                let shape = WeightShape { scheme, n: rows, k };
                let src: Vec<u8> = (0..rows * k * elem).map(|i| (i % 251 + 1) as u8).collect();
                let mut dst = vec![0xff; (layout.panel_bytes)(&shape).unwrap() as usize];
                (layout.pack)(&shape, rows, &src, &mut dst);
                let mut seen = vec![false; dst.len() / elem];
                for n in 0..rows {
                    for i in 0..k {
                        let at = index_in_panel(name == N16K2, n, i);
                        let want = &src[(n * k + i) * elem..][..elem];
                        assert_eq!(&dst[at * elem..][..elem], want, "{name} n {n} k {i}");
                        assert!(!std::mem::replace(&mut seen[at], true));
                    }
                }
                let padding = seen.iter().zip(dst.chunks(elem)).filter(|(s, _)| !**s);
                assert!(padding.into_iter().all(|(_, e)| e.iter().all(|b| *b == 0)));
            }
        }
    }
}
