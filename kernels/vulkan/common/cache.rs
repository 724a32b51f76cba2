//! Caches: what the kernels that write and read them share.

use crate::common::launch::{Gpu, Result, Step};
use crate::common::stored::element_bytes;
use graph::CacheKind;
use registry::{CacheView, Operand, Problem, Scheme};

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

/// Refuses contexts that a software device would not see to their end in
/// `attend.glsl`, whose constants begin with `all`.
pub fn check_turns(
    problem: &Problem,
    gpu: Gpu,
    operand: &Operand,
    value_dim: usize,
    all: &[u32],
) -> std::result::Result<(), String> {
    let view = operand.cache.ok_or("the operand is not a cache")?;
    let (lanes, dim) = (all[0] as usize, view.head_dim);
    let key = match operand.scheme {
        Scheme::INT8_KV => dim.div_ceil(4),
        _ if dim.is_multiple_of(8) => dim / 8,
        _ => dim,
    };
    let values = value_dim.div_ceil(lanes) * (1 + lanes.div_ceil(4));
    let joined = 2 * lanes / gpu.info.subgroup.max(1) as usize;
    let group = problem.step.groups.get(view.group);
    let context = group.map_or(0, |g| g.block * g.blocks);
    let seen = match view.kind {
        CacheKind::Window { window } => context.min(window),
        _ => context,
    };
    let turns = seen.div_ceil(lanes) * (1 + key + values + joined);
    gpu.check_turns(
        turns,
        &format!("attention over {seen} positions (use a shorter --ctx)"),
    )
}

/// The view of cache input `i` while recording.
pub fn view(step: &Step<'_>, i: usize) -> Result<CacheView> {
    let found = step.problem.input(0, i).and_then(|(_, o)| o.cache);
    found.ok_or_else(|| step.refuse(format!("input {i} is not a cache")))
}

/// Where the scales of a cache in [`Scheme::INT8_KV`] begin, in f16 numbers of the
/// binding in which the cache itself begins at byte `start`; 0 of other schemes.
pub fn scales_at(start: usize, scheme: Scheme, view: &CacheView) -> usize {
    match scheme.scale_bytes() {
        0 => 0,
        bytes => (start + view.scale_at((0, 0), 0, 0, bytes)) / bytes,
    }
}

/// Where heads lie in the binding of a cache that is read in pieces of 16 bytes.
pub struct Places {
    /// The layer's first key, then the strides of pages, values, heads and tokens.
    pub pieces: [usize; 5],
    /// As of [`scales_at`]: the first, then the strides of pages and values.
    pub scales: [usize; 3],
}

impl Places {
    /// The cache begins at piece `start` of the binding.
    pub fn of(start: usize, scheme: Scheme, view: &CacheView) -> Self {
        let piece = piece(scheme);
        let scale = scheme.scale_bytes().max(1);
        Places {
            pieces: [
                start + view.offset / piece,
                view.page_stride / piece,
                view.kv_stride / piece,
                view.head_stride / piece,
                view.token_stride / piece,
            ],
            scales: [
                scales_at(16 * start, scheme, view),
                view.page_stride / scale,
                view.kv_stride / scale,
            ],
        }
    }
}

/// Refuses a cache of bytes in which neighbours are not stored two at a time: no lane
/// may own half of a 16-bit number.
pub fn check_pairs(operand: &Operand) -> std::result::Result<(), String> {
    let view = operand.cache.ok_or("the operand is not a cache")?;
    let single = operand.scheme == Scheme::INT8_KV && !multiples_of(2, view.offset, &view);
    match single {
        true => Err(format!(
            "for heads of an even number of elements in {}, not {}",
            operand.scheme, view.head_dim
        )),
        false => Ok(()),
    }
}

/// Query heads, of the `group` of a kv head, that share each key: their sums are
/// registers.
pub fn together(group: usize) -> usize {
    const MOST: usize = 8;
    let fits = |n: &usize| group.is_multiple_of(*n);
    (1..=MOST.min(group)).rev().find(fits).unwrap_or(1)
}

/// Elements of a piece of 16 bytes.
pub fn piece(scheme: Scheme) -> usize {
    (16 / element_bytes(scheme)) as usize
}

/// Whether all heads of a cache are whole pieces of 16 bytes.
pub fn in_pieces(scheme: Scheme, view: &CacheView) -> bool {
    multiples_of(piece(scheme), view.offset, view)
}

/// Whether all heads of a cache whose layer begins at element `at` are whole words.
pub fn in_words(scheme: Scheme, at: usize, view: &CacheView) -> bool {
    multiples_of((4 / element_bytes(scheme)) as usize, at, view)
}

/// Whether the layer begins at a multiple of n elements, and so does all in it.
fn multiples_of(n: usize, at: usize, view: &CacheView) -> bool {
    let all = [
        at,
        view.head_dim,
        view.page_stride,
        view.kv_stride,
        view.head_stride,
        view.token_stride,
    ];
    all.iter().all(|of| of.is_multiple_of(n))
}
