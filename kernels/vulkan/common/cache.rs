//! Caches: what the kernels that write and read them share.

use crate::common::launch::{Gpu, Result, Step};
use crate::common::stored::element_bytes;
use registry::{CacheView, Operand, Problem};

/// The view of cache input `i`, and the shader's constant for its scheme once it
/// is known that one binding can hold the cache.
pub fn check(problem: &Problem, gpu: Gpu, i: usize) -> std::result::Result<CacheView, String> {
    let (_, operand) = problem.input(0, i).ok_or("the cache is missing")?;
    check_operand(operand, gpu)
}

/// As [`check`], of the operand itself.
pub fn check_operand(operand: &Operand, gpu: Gpu) -> std::result::Result<CacheView, String> {
    let view = operand.cache.ok_or("the operand is not a cache")?;
    let bytes = (view.pages as u64)
        .saturating_mul(view.page_stride as u64)
        .saturating_mul(element_bytes(operand.scheme));
    if bytes > gpu.limits.storage_range {
        return Err(format!(
            "the cache takes {bytes} bytes and {} binds {} at most: use a shorter --ctx",
            gpu.info.name, gpu.limits.storage_range
        ));
    }
    Ok(view)
}

/// The view of cache input `i` while recording.
pub fn view(step: &Step<'_>, i: usize) -> Result<CacheView> {
    let found = step.problem.input(0, i).and_then(|(_, o)| o.cache);
    found.ok_or_else(|| step.refuse(format!("input {i} is not a cache")))
}

/// Whether all heads of a 16-bit cache are whole pieces of 16 bytes.
pub fn in_pieces(view: &CacheView) -> bool {
    let all = [
        view.head_dim,
        view.offset,
        view.page_stride,
        view.kv_stride,
        view.head_stride,
        view.token_stride,
    ];
    all.iter().all(|n| n.is_multiple_of(8))
}

/// Whether all heads of a 16-bit cache whose layer begins at element `at` are whole
/// words.
pub fn in_pairs(at: usize, view: &CacheView) -> bool {
    let all = [
        at,
        view.head_dim,
        view.page_stride,
        view.kv_stride,
        view.head_stride,
        view.token_stride,
    ];
    all.iter().all(|n| n.is_multiple_of(2))
}
