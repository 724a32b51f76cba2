//! op: attention, few rows, the cache split over blocks, on the tensor cores. See
//! `split_mma.cu`.

use crate::common::attend;
use crate::common::launch::{Fits, Plain, Result, Step, ptx};
use crate::common::split::{self, Cut};
use registry::{Pattern, Problem};

/// Query heads of a block, as in the kernel, and tokens that lie in one page.
const HEADS: usize = 8;
const TOKENS: usize = 16;

/// Blocks that large devices have places for.
const BLOCKS: usize = 256;

fn cut(problem: &Problem) -> Cut {
    let (heads, group) = split::heads(problem);
    let blocks = heads / group * group.div_ceil(HEADS) * problem.outputs[0].shape[0];
    Cut {
        splits: (BLOCKS / blocks).clamp(4, 64),
        together: HEADS,
    }
}

fn fits(problem: &Problem) -> Fits {
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

fn record(step: &mut Step<'_>) -> Result<()> {
    let view = attend::view(step.problem).map_err(|e| step.refuse(e))?;
    let cut = cut(step.problem);
    split::record(step, &cut, &format!("split_{}", view.head_dim))
}

static F16: Plain = Plain::new(
    &Pattern::ATTENTION,
    &["f16"],
    "split_mma",
    ptx!("attention.split_mma"),
    record,
)
.with_fits(fits)
.with_workspace(|problem| split::workspace(problem, cut(problem).splits))
.with_rank(20)
.with_tolerance(1e-4);
registry::register!(F16);
