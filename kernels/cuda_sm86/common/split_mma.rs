//! Attention of few rows on the tensor cores, alone and behind what makes its q and its
//! cache. See `split_mma.cuh`.

use crate::common::args::Args;
use crate::common::attend;
use crate::common::launch::{Fits, Plain, Ptx, Result, Step, ptx};
use crate::common::linears::x_aligned;
use crate::common::split::{self, Cut};
use graph::Op;
use registry::{Pattern, Problem};

/// Query heads of a block, as in the kernel, and tokens that lie in one page.
const HEADS: usize = 8;
const TOKENS: usize = 16;

/// Blocks that large devices have places for.
const BLOCKS: usize = 256;

const FRESH: Ptx = ptx!("common.rope_attend");
const INT8_FRESH: Ptx = ptx!("common.rope_attend_int8");

pub fn cut(problem: &Problem) -> Cut {
    let (heads, group) = split::heads(problem);
    let blocks = heads / group * group.div_ceil(HEADS) * problem.outputs[0].shape[0];
    Cut {
        splits: (BLOCKS / blocks).clamp(4, 64),
        together: HEADS,
    }
}

pub fn fits(problem: &Problem) -> Fits {
    problem.common_attributes()?;
    split::fits(problem, &[64, 128])?;
    let view = attend::view(problem)?;
    if view.block < TOKENS {
        let block = view.block;
        return Err(format!(
            "for pages of {TOKENS} tokens and more, not {block}"
        ));
    }
    Ok(())
}

pub fn workspace(problem: &Problem) -> u64 {
    split::workspace(problem, cut(problem).splits)
}

/// Place of the rope of q; that of k, the append and the attention follow it.
fn first_rope(problem: &Problem) -> usize {
    problem.ops.len() - 4
}

fn fits_fresh(problem: &Problem) -> Fits {
    fits(problem)?;
    match problem.outputs[0].shape[0] {
        1 => {}
        // A row's key must not be one that another row waits for.
        rows => return Err(format!("for one row, not {rows}")),
    }
    let at = first_rope(problem);
    let dim = attend::view(problem)?.head_dim;
    let (Op::Rope(q), Op::Rope(k)) = (&problem.ops[at].op, &problem.ops[at + 1].op) else {
        return Err("two ropes were expected".into());
    };
    if q != k || q.rotary_dim != dim {
        return Err("both ropes must turn whole heads alike".into());
    }
    for op in 0..at {
        let wanted = problem.input(op, 1).map(|(_, w)| w.shape.as_slice());
        if wanted != Some(&[dim]) {
            return Err("the norms must be over heads".into());
        }
    }
    Ok(())
}

fn record_fresh(step: &mut Step<'_>) -> Result<()> {
    let at = first_rope(step.problem);
    let normed = at > 0;
    let (q, k) = (step.operand(0, 0)?, step.operand(1, 0)?);
    let (v, table) = (step.operand(at + 2, 1)?, step.operand(at, 1)?);
    let mut args = Args::default();
    let q_at = step.recorder.address(&q.buffer, q.offset, q.bytes)?;
    let mut aligned = x_aligned(q_at, 0);
    for t in [k, v, table] {
        aligned &= args.tensor(step, t)?.is_multiple_of(16);
    }
    let mut words = Vec::new();
    for op in 0..2 {
        match (normed, &step.problem.ops[op].op) {
            (true, Op::RmsNorm { eps, weight_offset }) => {
                let w = step.operand(op, 1)?;
                aligned &= args.tensor(step, w)?.is_multiple_of(16);
                words.extend([*eps, *weight_offset]);
            }
            _ => {
                args.optional(step, None)?;
                words.extend([0.0, 0.0]);
            }
        }
    }
    let dim = attend::view(step.problem).map_err(|e| step.refuse(e))?;
    let entry = format!("rope_split_{}", dim.head_dim);
    split::record_between(step, &cut(step.problem), &entry, args, |args, step| {
        words.into_iter().for_each(|w| args.f32(w));
        args.u32(step, usize::from(aligned))
    })
}

/// Attention behind the making of its q and of the cache's next token.
pub const fn fresh(pattern: &'static Pattern) -> Plain {
    fresh_of(pattern, &["f16"], FRESH)
}

/// The same over int8_kv.
pub const fn int8_fresh(pattern: &'static Pattern) -> Plain {
    fresh_of(pattern, &["int8_kv"], INT8_FRESH)
}

const fn fresh_of(pattern: &'static Pattern, quant: &'static [&'static str], ptx: Ptx) -> Plain {
    Plain::new(pattern, quant, "split_mma", ptx, record_fresh)
        .with_fits(fits_fresh)
        .with_workspace(workspace)
        .with_rank(60)
        .with_tolerance(2e-4)
}
