//! Writing keys and values to the pages of their sequence.

use super::elem::Elem;
use super::plumbing::{Cache, Result, Step};
use super::simd::{LANES, Simd};
use half::f16;
use registry::{NO_BLOCK, StepView};

/// A cache that a step writes.
#[derive(Clone, Copy)]
pub struct Appender {
    pub cache: Cache,
    pub elem: Elem,
}

impl Appender {
    /// The cache that is input 2 of op `op`.
    pub fn of(step: &mut Step<'_>, op: usize) -> Result<Self> {
        let scheme = step.operand(op, 2)?.0.scheme;
        let elem = Elem::of_cache(scheme);
        Ok(Appender {
            cache: step.cache(op, 2)?,
            elem: elem.ok_or_else(|| step.refuse(format!("no codec for {scheme}")))?,
        })
    }

    /// Page and token of a row, or nothing if its block has no page.
    #[inline(always)]
    pub fn place(&self, view: &StepView<'_>, row: usize) -> Option<(u32, usize)> {
        let block = self.cache.view.block;
        let position = view.position(row);
        let table = view.table(self.cache.view.group, view.row_span(row));
        let page = table[position / block];
        (page != NO_BLOCK).then_some((page, position % block))
    }

    /// Stores a key (`kv` 0) or value (`kv` 1) of one head.
    ///
    /// # Safety
    /// `x` holds head_dim elements; no other thread touches this head and token.
    #[inline(always)]
    pub unsafe fn store<S: Simd>(
        &self,
        s: S,
        (page, token): (u32, usize),
        kv: usize,
        head: usize,
        x: *const f32,
    ) {
        let to = self.cache.at(page, kv, head, token, self.elem.bytes());
        let dim = self.cache.view.head_dim;
        if self.elem == Elem::Int8 {
            let scale = self.cache.scale(page, kv, head, token);
            // SAFETY: as below; `scale` checked its place.
            return unsafe { *scale = encode_int8(s, x, to, dim).to_le_bytes() };
        }
        // SAFETY: `at` checked the destination; the source is the caller's.
        unsafe { self.elem.encode_row(s, x, to, dim) }
    }
}

/// Stores a head as codes and gives their scale: see [`registry::Scheme::INT8_KV`].
///
/// # Safety
/// `x` and `to` hold `dim` elements.
#[inline(always)]
unsafe fn encode_int8<S: Simd>(s: S, x: *const f32, to: *mut u8, dim: usize) -> f16 {
    // SAFETY: as the caller promises.
    unsafe {
        let mut most = s.zero();
        for d in (0..dim).step_by(LANES) {
            let v = s.load_n(x.add(d), dim - d);
            most = s.max(s.max(v, s.sub(s.zero(), v)), most);
        }
        // No head is so large that its scale has no f16.
        let scale = f16::from_f32((s.max_lane(most) / 127.0).min(f16::MAX.to_f32()));
        // A head of zeros has none to divide by.
        let by = s.splat(if scale > f16::ZERO {
            scale.to_f32()
        } else {
            f32::INFINITY
        });
        let (low, high) = (s.splat(-127.0), s.splat(127.0));
        for d in (0..dim).step_by(LANES) {
            let v = s.div(s.load_n(x.add(d), dim - d), by);
            let v = s.min(s.max(v, low), high);
            Elem::Int8.store_n(s, to.add(d), v, dim - d);
        }
        scale
    }
}
