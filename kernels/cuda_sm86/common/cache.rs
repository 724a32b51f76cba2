//! Caches: what the kernels that write and read them share.

use crate::common::args::Args;
use crate::common::launch::{Result, Step, element_bytes};
use registry::{CacheView, Scheme, TensorRef};

/// The view of cache input `i` of op `op`.
pub fn view(step: &Step<'_>, op: usize, i: usize) -> Result<CacheView> {
    let found = step.problem.input(op, i).and_then(|(_, o)| o.cache);
    found.ok_or_else(|| step.refuse(format!("input {i} of op {op} is not a cache")))
}

/// The pointers that every kernel over a cache takes: the cache at its layer's
/// first element, positions, the span of each row, the group's tables.
pub fn pointers(args: &mut Args, step: &Step<'_>, t: &TensorRef, view: &CacheView) -> Result<u64> {
    let at = view.offset as u64 * element_bytes(t.scheme);
    let address = args.part(step, t, at, t.bytes.saturating_sub(at))?;
    let layout = &step.problem.step;
    args.step(step, layout.positions())?;
    args.step(step, layout.row_span())?;
    args.step(step, layout.table(view.group))?;
    Ok(address)
}

/// The words that every kernel over a cache in `scheme` takes; `struct Pages` in
/// `cache.cuh`.
pub fn words(args: &mut Args, step: &Step<'_>, scheme: Scheme, view: &CacheView) -> Result<()> {
    let blocks = step.problem.step.groups[view.group].blocks;
    args.u32s(step, &[view.block, blocks, view.pages, view.page_stride])?;
    args.u32s(step, &[view.kv_stride, view.head_stride, view.token_stride])?;
    match scheme.scale_bytes() {
        0 => Ok(()),
        bytes => args.u32s(step, &[0, 1].map(|kv| scales(view, kv, bytes))),
    }
}

/// Bytes from a layer's first element to the first scale of its keys or values.
fn scales(view: &CacheView, kv: usize, bytes: usize) -> usize {
    view.scale_at((0, kv), 0, 0, bytes) - view.offset
}

#[cfg(test)]
mod tests {
    use super::{CacheView, Scheme, scales};
    use graph::CacheKind;

    /// What the kernels compute from the words must be the registry's place.
    #[test]
    fn scales_lie_where_the_kernels_look() {
        let (kv_heads, head_dim, block) = (3, 24, 7);
        let plane = CacheView::plane(Scheme::INT8_KV, kv_heads, head_dim, block);
        let plane = plane.expect("small");
        let view = CacheView {
            group: 0,
            kind: CacheKind::Full,
            kv_heads,
            head_dim,
            block,
            pages: 5,
            page_stride: 4 * plane,
            offset: 2 * plane,
            kv_stride: plane,
            head_stride: head_dim,
            token_stride: kv_heads * head_dim,
        };
        let bytes = Scheme::INT8_KV.scale_bytes();
        for (page, kv, head, token) in [(0, 0, 0, 0), (4, 1, 2, 6), (3, 0, 1, 5)] {
            let first = view.offset + page * view.page_stride + scales(&view, kv, bytes);
            let at = first + 2 * (head * block + token);
            assert_eq!(at, view.scale_at((page, kv), head, token, bytes));
            assert!(at + 2 <= view.offset + page * view.page_stride + (kv + 1) * plane);
        }
        assert!(scales(&view, 0, bytes).is_multiple_of(16), "read in pairs");
    }
}
