//! op: kv_append. See `plain.cu`, and `plain_int8.cu` for int8_kv.

use crate::common::args::Args;
use crate::common::cache;
use crate::common::launch::{Plain, Ptx, Result, Step, blocks, ptx, suffix};
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
    cache::words(&mut args, step, stored.scheme, &view)?;
    args.u32s(step, &[len, view.head_dim, k.row_stride(), v.row_stride()])?;
    let entry = suffix(stored.scheme).map_err(|e| step.refuse(e))?;
    // A thread for each element, or a warp for each head that has a scale.
    let threads = match stored.scheme.scale_bytes() {
        0 => len,
        _ => 2 * view.kv_heads * 32,
    };
    let grid = [blocks(threads, 128), rows.shape[0] as u32, 1];
    step.launch(&format!("kv_append_{entry}"), &args, grid, 128)
}

const fn of(quant: &'static [&'static str], ptx: Ptx) -> Plain {
    Plain::new(&Pattern::KV_APPEND, quant, "plain", ptx, record)
}

static F32: Plain = of(&["f32"], ptx!("kv_append.plain"));
static F16: Plain = of(&["f16"], ptx!("kv_append.plain"));
static BF16: Plain = of(&["bf16"], ptx!("kv_append.plain"));
static INT8: Plain = of(&["int8_kv"], ptx!("kv_append.plain_int8"));
registry::register!(F32, F16, BF16, INT8);
