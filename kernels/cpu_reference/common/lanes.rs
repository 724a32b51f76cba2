//! Sums in a fixed order: 16 lanes, folded in halves. The compiler turns the
//! lanes into vectors of whatever width the target has; the order, and so the
//! bits, stay the same.

pub const LANES: usize = 16;

/// Σ aᵢ·bᵢ in f32: products of elements i, i+16, i+32, … are summed in lane
/// i mod 16, then the lanes are folded 8, 4, 2, 1 apart. Slices of equal length.
#[inline]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len());
    let mut acc = [0f32; LANES];
    let (a_body, a_tail) = a.as_chunks::<LANES>();
    let (b_body, b_tail) = b.as_chunks::<LANES>();
    for (x, y) in a_body.iter().zip(b_body) {
        for i in 0..LANES {
            acc[i] += x[i] * y[i];
        }
    }
    for (i, (x, y)) in a_tail.iter().zip(b_tail).enumerate() {
        acc[i] += x * y;
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            acc[i] += acc[i + width];
        }
        width /= 2;
    }
    acc[0]
}

/// Σ xᵢ² in f64, in the same lanes.
pub fn sum_squares(x: &[f32]) -> f64 {
    let mut acc = [0f64; LANES];
    for chunk in x.chunks(LANES) {
        for (a, &v) in acc.iter_mut().zip(chunk) {
            *a += f64::from(v) * f64::from(v);
        }
    }
    acc.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_tails_are_summed_once() {
        for n in [0, 1, 15, 16, 17, 31, 32, 33, 100] {
            let a: Vec<f32> = (0..n).map(|i| (i % 7) as f32).collect();
            let b: Vec<f32> = (0..n).map(|i| (i % 5) as f32 - 2.0).collect();
            let exact: f32 = a.iter().zip(&b).map(|(x, y)| x * y).sum();
            assert_eq!(dot(&a, &b), exact, "n = {n}");
            let squares: f64 = a.iter().map(|x| f64::from(x * x)).sum();
            assert_eq!(sum_squares(&a), squares, "n = {n}");
        }
    }
}
