//! What the attention kernels share: their arguments.

use crate::common::args::Args;
use crate::common::cache;
use crate::common::launch::{Fits, Result, Step, element_bytes};
use graph::Op;
use registry::{CacheView, Problem, Scheme};

/// Which op the attention is: the last.
pub fn place(problem: &Problem) -> usize {
    problem.ops.len().saturating_sub(1)
}

/// Op and input of the cache from outside: the attention's own, or that of the append
/// ahead of it.
fn cache_input(problem: &Problem) -> (usize, usize) {
    match place(problem) {
        0 => (0, 1),
        at => (at - 1, 2),
    }
}

/// The cache of an attention.
pub fn view(problem: &Problem) -> std::result::Result<CacheView, String> {
    let (op, i) = cache_input(problem);
    let found = problem.input(op, i).and_then(|(_, o)| o.cache);
    found.ok_or_else(|| "the cache is missing".into())
}

/// The scheme of an attention's cache.
pub fn scheme(problem: &Problem) -> std::result::Result<Scheme, String> {
    let (op, i) = cache_input(problem);
    let found = problem.input(op, i).map(|(_, o)| o.scheme);
    found.ok_or_else(|| "the cache is missing".into())
}

/// Heads of these sizes, in pages of a power of two of tokens, read by 16-byte pieces.
pub fn fits_pieces(problem: &Problem, dims: &[usize]) -> Fits {
    let view = view(problem)?;
    if !dims.contains(&view.head_dim) {
        let dim = view.head_dim;
        return Err(format!("for heads of one of {dims:?}, not {dim}"));
    }
    if !view.block.is_power_of_two() {
        let block = view.block;
        return Err(format!(
            "for pages of a power of two of tokens, not {block}"
        ));
    }
    let strides = [
        view.page_stride,
        view.kv_stride,
        view.head_stride,
        view.token_stride,
        view.offset,
    ];
    let piece = 16 / element_bytes(scheme(problem)?) as usize;
    match strides.iter().all(|s| s.is_multiple_of(piece)) {
        true => Ok(()),
        false => Err("the cache's heads must start at 16-byte pieces".into()),
    }
}

/// Arguments up to those of a variant's own, pointers included; `extra` adds the
/// variant's pointers behind o.
pub fn args(
    step: &Step<'_>,
    extra: impl FnOnce(&mut Args) -> Result<()>,
) -> Result<(Args, CacheView, u64)> {
    args_behind(step, Args::default(), extra)
}

/// The same behind a variant's own pointers.
pub fn args_behind(
    step: &Step<'_>,
    mut args: Args,
    extra: impl FnOnce(&mut Args) -> Result<()>,
) -> Result<(Args, CacheView, u64)> {
    let last = place(step.problem);
    let Op::Attention(spec) = step.problem.ops[last].op else {
        return Err(step.refuse("not an attention"));
    };
    let (op, i) = cache_input(step.problem);
    let view = cache::view(step, op, i)?;
    let (q, o) = (step.input(0)?, step.output());
    let heads = step.row_len() / view.head_dim;
    args.tensor(step, q)?;
    args.optional(step, step.optional(last, 2))?;
    args.tensor(step, o)?;
    extra(&mut args)?;
    let stored = step.operand(op, i)?;
    let at = cache::pointers(&mut args, step, stored, &view)?;
    args.count(step, step.rows_from())?;
    cache::words(&mut args, step, stored.scheme, &view)?;
    args.u32s(step, &[view.head_dim, heads / view.kv_heads])?;
    args.u32s(step, &[q.row_stride(), o.row_stride()])?;
    args.u32(step, spec.window.unwrap_or(0))?;
    args.f32(spec.scale);
    args.f32(spec.softcap.unwrap_or(0.0));
    Ok((args, view, at))
}
