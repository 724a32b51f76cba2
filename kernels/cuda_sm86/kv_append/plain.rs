//! op: kv_append. See `plain.cu`.

use crate::common::args::Args;
use crate::common::cache;
use crate::common::launch::{Plain, Result, Step, blocks, ptx, suffix};
use registry::Pattern;

fn record(step: &mut Step<'_>) -> Result<()> {
    let view = cache::view(step, 0, 2)?;
    let (k, v, stored) = (step.input(0)?, step.input(1)?, step.output());
    let Some((_, rows)) = step.problem.input(0, 0) else {
        return Err(step.refuse("k is missing"));
    };
    let len = view.kv_heads * view.head_dim;
    let mut args = Args::default();
    args.tensor(step, k)?;
    args.tensor(step, v)?;
    cache::pointers(&mut args, step, stored, &view)?;
    args.count(step, rows.rows)?;
    cache::words(&mut args, step, &view)?;
    args.u32s(step, &[len, view.head_dim, k.row_stride(), v.row_stride()])?;
    let entry = suffix(stored.scheme).map_err(|e| step.refuse(e))?;
    let grid = [blocks(len, 128), rows.shape[0] as u32, 1];
    step.launch(&format!("kv_append_{entry}"), &args, grid, 128)
}

const fn of(quant: &'static [&'static str]) -> Plain {
    Plain::new(
        &Pattern::KV_APPEND,
        quant,
        "plain",
        ptx!("kv_append.plain"),
        record,
    )
}

static F32: Plain = of(&["f32"]);
static F16: Plain = of(&["f16"]);
static BF16: Plain = of(&["bf16"]);
registry::register!(F32, F16, BF16);
