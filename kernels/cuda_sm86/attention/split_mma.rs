//! op: attention, few rows, the cache split over blocks, on the tensor cores. See
//! `split_mma.cu`.

use crate::common::attend;
use crate::common::launch::{Plain, Result, Step, ptx};
use crate::common::split;
use crate::common::split_mma::{cut, fits, workspace};
use registry::Pattern;

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
.with_workspace(workspace)
.with_rank(20)
.with_tolerance(1e-4);
registry::register!(F16);
