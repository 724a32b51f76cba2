//! op: latent_append. See `plain.cu`.

use crate::common::args::Args;
use crate::common::cache;
use crate::common::launch::{Plain, Result, Step, blocks, ptx, suffix};
use registry::Pattern;

fn record(step: &mut Step<'_>) -> Result<()> {
    let view = cache::view(step, 0, 2)?;
    let (c, k, stored) = (step.input(0)?, step.input(1)?, step.output());
    let Some((_, rows)) = step.problem.input(0, 0) else {
        return Err(step.refuse("c is missing"));
    };
    let latent = rows.row_len();
    let mut args = Args::default();
    args.tensor(step, c)?;
    args.tensor(step, k)?;
    cache::pointers(&mut args, step, stored, &view)?;
    args.count(step, rows.rows)?;
    cache::words(&mut args, step, stored.scheme, &view)?;
    let len = view.head_dim;
    args.u32s(step, &[latent, len, c.row_stride(), k.row_stride()])?;
    let entry = suffix(stored.scheme).map_err(|e| step.refuse(e))?;
    let grid = [blocks(len, 128), rows.shape[0] as u32, 1];
    step.launch(&format!("latent_append_{entry}"), &args, grid, 128)
}

const fn of(quant: &'static [&'static str]) -> Plain {
    Plain::new(
        &Pattern::LATENT_APPEND,
        quant,
        "plain",
        ptx!("latent_append.plain"),
        record,
    )
}

static F32: Plain = of(&["f32"]);
static F16: Plain = of(&["f16"]);
static BF16: Plain = of(&["bf16"]);
registry::register!(F32, F16, BF16);
