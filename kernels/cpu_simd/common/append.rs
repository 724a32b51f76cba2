//! Writing keys and values to the pages of their sequence.

use super::elem::Elem;
use super::plumbing::{Cache, Result, Step};
use super::simd::Simd;
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
        let elem = Elem::of(scheme);
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
        // SAFETY: `at` checked the destination; the source is the caller's.
        unsafe { self.elem.encode_row(s, x, to, self.cache.view.head_dim) }
    }
}
