//! What happens to a finished vector of a product's outputs: a bias, a residual or
//! silu(gate)·up, and the store.

use super::math::silu;
use super::simd::{LANES, Simd};

/// Where the products of a group go.
#[derive(Clone, Copy)]
pub struct Sink<S: Simd> {
    pub count: usize,
    pub silu: bool,
    /// Columns of each panel.
    pub n: [usize; 2],
    pub bias: [Option<S::V>; 2],
    pub out: [*mut f32; 2],
    pub out_stride: usize,
    pub residual: Option<[*const f32; 2]>,
    pub residual_stride: usize,
}

impl<S: Simd> Sink<S> {
    /// Whether every output of two panels is a whole aligned vector.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    #[inline(always)]
    pub fn is_whole(&self) -> bool {
        let aligned = |p: &*mut f32| (*p as usize).is_multiple_of(4 * LANES);
        self.n == [LANES; 2]
            && self.count == 2
            && self.out_stride.is_multiple_of(LANES)
            && self.out.iter().all(aligned)
    }

    /// Takes the products of one row to their output.
    ///
    /// # Safety
    /// `row` is a row of the step, and this thread alone has the group's outputs
    /// of that row.
    #[inline(always)]
    pub unsafe fn put(&self, s: S, row: usize, c: [S::V; 2]) {
        // SAFETY: as the caller promises.
        unsafe { self.finish(s, row, c, |to, y, n| s.store_n(to, y, n)) }
    }

    /// As [`Sink::put`], by `store`, which gets at most 16 elements.
    ///
    /// # Safety
    /// As [`Sink::put`].
    #[inline(always)]
    pub unsafe fn finish(
        &self,
        s: S,
        row: usize,
        mut c: [S::V; 2],
        store: impl Fn(*mut f32, S::V, usize),
    ) {
        for (c, bias) in c.iter_mut().zip(self.bias) {
            if let Some(b) = bias {
                *c = s.add(*c, b);
            }
        }
        let at = row * self.out_stride;
        // SAFETY: n columns from each panel's first are in the row of the
        // output, and of the residual, which has its shape.
        unsafe {
            if self.silu {
                let y = s.mul(silu(s, c[0]), c[1]);
                return store(self.out[0].add(at), y, self.n[0]);
            }
            for (i, c) in c.into_iter().enumerate().take(self.count) {
                let y = match self.residual {
                    Some(r) => {
                        let r = r[i].add(row * self.residual_stride);
                        s.add(s.load_n(r, self.n[i]), c)
                    }
                    None => c,
                };
                store(self.out[i].add(at), y, self.n[i]);
            }
        }
    }
}
