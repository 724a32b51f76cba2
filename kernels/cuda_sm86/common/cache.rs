//! Caches: what the kernels that write and read them share.

use crate::common::args::Args;
use crate::common::launch::{Result, Step, element_bytes};
use registry::{CacheView, TensorRef};

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

/// The words that every kernel over a cache takes; `struct Pages` in `cache.cuh`.
pub fn words(args: &mut Args, step: &Step<'_>, view: &CacheView) -> Result<()> {
    let blocks = step.problem.step.groups[view.group].blocks;
    args.u32s(step, &[view.block, blocks, view.pages, view.page_stride])?;
    args.u32s(step, &[view.kv_stride, view.head_stride, view.token_stride])
}
