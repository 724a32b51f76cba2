//! Caches in a scheme with a scale for each head and token: [`Scheme::INT8_KV`].

use half::f16;
use registry::{CacheView, Scheme};

/// What a machine's own division may add to a quotient.
const DIVISION: f64 = 1e-6;
const MOST: f64 = 127.0;

pub fn is_scaled(scheme: Scheme) -> bool {
    scheme == Scheme::INT8_KV
}

/// Heads and tokens of the whole pool: page, key or value, head, token.
fn heads(view: &CacheView, parts: usize) -> impl Iterator<Item = ((usize, usize), usize, usize)> {
    let (heads, block) = (view.kv_heads, view.block);
    (0..view.pages * parts * heads * block).map(move |i| {
        let (token, i) = (i % block, i / block);
        let (head, i) = (i % heads, i / heads);
        ((i / parts, i % parts), head, token)
    })
}

/// `cells` (one for each code) rounded to the scheme. Heads that nobody may see,
/// whose cells are NaN, have scales that are NaN; so has whatever else the pages
/// hold.
pub fn encode(view: &CacheView, parts: usize, cells: &[f32]) -> Vec<u8> {
    let mut out = vec![0xff; cells.len()];
    for ((page, kv), head, token) in heads(view, parts) {
        let at = view.at(page, kv, head, token);
        let x = &cells[at..at + view.head_dim];
        if x.iter().any(|v| v.is_nan()) {
            continue;
        }
        let most = x.iter().fold(0f32, |m, v| m.max(v.abs()));
        let scale = f16::from_f32(most / MOST as f32);
        for (code, v) in out[at..].iter_mut().zip(x) {
            *code = (v / scale.to_f32()).round_ties_even().clamp(-127.0, 127.0) as i8 as u8;
        }
        let to = view.scale_at((page, kv), head, token, 2);
        out[to..to + 2].copy_from_slice(&scale.to_le_bytes());
    }
    out
}

/// Bytes of the pool that a batch's own rows may write.
pub fn written(
    view: &CacheView,
    parts: usize,
    (page, token): (usize, usize),
) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..parts * view.kv_heads).flat_map(move |i| {
        let (kv, head) = (i / view.kv_heads, i % view.kv_heads);
        let codes = view.at(page, kv, head, token);
        let scale = view.scale_at((page, kv), head, token, 2);
        [codes..codes + view.head_dim, scale..scale + 2]
    })
}

/// Whether the head at `place` holds what `x`, give or take `slack`, rounds to: the
/// scale of its largest magnitude, and codes of that scale.
pub fn check(
    view: &CacheView,
    got: &[u8],
    ((page, kv), head, token): ((usize, usize), usize, usize),
    x: &[f32],
    slack: f64,
) -> Result<(), String> {
    let at = view.scale_at((page, kv), head, token, 2);
    let scale = f16::from_le_bytes([got[at], got[at + 1]]).to_f64();
    let most = x.iter().fold(0f64, |m, v| m.max(f64::from(v.abs())));
    let rounded = |most: f64, by: f64| f16::from_f64(most.max(0.0) / MOST * by).to_f64();
    let lo = rounded(most - slack, 1.0 - DIVISION);
    let hi = rounded(most + slack, 1.0 + DIVISION).min(f16::MAX.to_f64());
    if !(lo <= scale && scale <= hi) {
        return Err(format!("has the scale {scale}, the oracle {lo} to {hi}"));
    }
    let codes = &got[view.at(page, kv, head, token)..];
    for (d, (x, code)) in x.iter().zip(codes).enumerate() {
        let code = f64::from(*code as i8);
        let (lo, hi) = match scale > 0.0 {
            false => (0.0, 0.0),
            true => {
                let x = f64::from(*x) / scale;
                let slack = slack / scale + x.abs() * DIVISION;
                let round = |v: f64| v.round_ties_even().clamp(-MOST, MOST);
                (round(x - slack), round(x + slack))
            }
        };
        if !(lo <= code && code <= hi) {
            return Err(format!(
                "has {code} of {scale} as element {d}, the oracle {lo} to {hi}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use graph::CacheKind;

    fn view() -> CacheView {
        let plane = CacheView::plane(Scheme::INT8_KV, 2, 6, 4).expect("small");
        CacheView {
            group: 0,
            kind: CacheKind::Full,
            kv_heads: 2,
            head_dim: 6,
            block: 4,
            pages: 3,
            page_stride: 2 * plane,
            offset: 0,
            kv_stride: plane,
            head_stride: 24,
            token_stride: 6,
        }
    }

    #[test]
    fn heads_and_scales_lie_apart_inside_the_pages() {
        let v = view();
        let mut seen = vec![0; v.pages * v.page_stride];
        for ((page, kv), head, token) in heads(&v, 2) {
            let one = written(&v, 2, (page, token)).nth(2 * (kv * 2 + head));
            let codes = v.at(page, kv, head, token);
            assert_eq!(one, Some(codes..codes + 6));
            let scale = v.scale_at((page, kv), head, token, 2);
            for at in (codes..codes + 6).chain(scale..scale + 2) {
                seen[at] += 1;
            }
        }
        assert!(seen.iter().all(|n| *n <= 1));
        assert_eq!(seen.iter().sum::<i32>(), 3 * 2 * 2 * 4 * 8);
    }

    #[test]
    fn what_was_rounded_passes_and_a_code_beside_it_does_not() {
        let v = view();
        let mut cells = vec![f32::NAN; v.pages * v.page_stride];
        let x = [0.5f32, -1.27, 0.0, 1.0, 0.013, -0.3];
        let at = v.at(1, 1, 1, 3);
        cells[at..at + 6].copy_from_slice(&x);
        let bytes = encode(&v, 2, &cells);
        let place = ((1, 1), 1, 3);
        assert_eq!(check(&v, &bytes, place, &x, 0.0), Ok(()));
        let elsewhere = check(&v, &bytes, ((1, 1), 0, 3), &x, 0.0);
        assert!(elsewhere.expect_err("nothing is there").contains("scale"));
        let mut off = bytes.clone();
        off[at] += 1;
        let off = check(&v, &off, place, &x, 0.0);
        assert!(off.expect_err("one too large").contains("element 0"));
        let scale = v.scale_at((1, 1), 1, 3, 2);
        let mut off = bytes;
        off[scale] += 1;
        let off = check(&v, &off, place, &x, 0.0);
        assert!(off.expect_err("one too large").contains("scale"));
    }
}
