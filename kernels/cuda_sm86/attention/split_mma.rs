//! op: attention, few rows, the cache split over blocks, on the tensor cores. See
//! `split_mma.cu`.

use crate::common::attend;
use crate::common::launch::{Plain, Ptx, Result, Step, ptx};
use crate::common::split;
use crate::common::split_mma::{cut, fits, workspace};
use registry::Pattern;

fn record(step: &mut Step<'_>) -> Result<()> {
    let view = attend::view(step.problem).map_err(|e| step.refuse(e))?;
    let cut = cut(step.problem);
    split::record(step, &cut, &format!("split_{}", view.head_dim))
}

const fn of(quant: &'static [&'static str], ptx: Ptx) -> Plain {
    Plain::new(&Pattern::ATTENTION, quant, "split_mma", ptx, record)
        .with_fits(fits)
        .with_workspace(workspace)
        .with_rank(20)
        .with_tolerance(1e-4)
}

static F16: Plain = of(&["f16"], ptx!("attention.split_mma"));
static INT8: Plain = of(&["int8_kv"], ptx!("attention.split_mma_int8"));
registry::register!(F16, INT8);
