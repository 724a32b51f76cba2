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
        acc = multiply_add(acc, x, y);
    }
    if !a_tail.is_empty() {
        // Indexing the lanes by a run-time number would keep them in memory.
        acc = multiply_add(acc, &padded(a_tail), &padded(b_tail));
    }
    let acc: [f32; 8] = std::array::from_fn(|i| acc[i] + acc[i + 8]);
    let acc: [f32; 4] = std::array::from_fn(|i| acc[i] + acc[i + 4]);
    (acc[0] + acc[2]) + (acc[1] + acc[3])
}

#[inline]
fn multiply_add(mut acc: [f32; LANES], x: &[f32; LANES], y: &[f32; LANES]) -> [f32; LANES] {
    for i in 0..LANES {
        acc[i] += x[i] * y[i];
    }
    acc
}

#[inline]
fn padded(tail: &[f32]) -> [f32; LANES] {
    let mut lanes = [0f32; LANES];
    lanes[..tail.len()].copy_from_slice(tail);
    lanes
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
