//! op: attention, any shape. See `paged.cuh`.

use crate::common::attend;
use crate::common::launch::{Fits, Plain, Ptx, Result, Step, ptx, suffix};
use registry::{Pattern, Problem};

/// Largest head: four elements for each thread.
const MOST_DIM: usize = 512;

fn fits(problem: &Problem) -> Fits {
    match attend::view(problem)?.head_dim {
        dim if dim <= MOST_DIM => Ok(()),
        dim => Err(format!("for heads of up to {MOST_DIM}, not {dim}")),
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let (args, view, _) = attend::args(step, |_| Ok(()))?;
    let heads = (step.row_len() / view.head_dim) as u32;
    let entry = suffix(step.input(1)?.scheme).map_err(|e| step.refuse(e))?;
    let grid = [heads, step.max_rows(), 1];
    step.launch(&format!("paged_{entry}"), &args, grid, 128)
}

const fn of(quant: &'static [&'static str], ptx: Ptx) -> Plain {
    Plain::new(&Pattern::ATTENTION, quant, "paged", ptx, record)
        .with_fits(fits)
        .with_tolerance(5e-5)
}

static F32: Plain = of(&["f32"], ptx!("attention.paged"));
static F16: Plain = of(&["f16"], ptx!("attention.paged"));
static BF16: Plain = of(&["bf16"], ptx!("attention.paged"));
static INT8: Plain = of(&["int8_kv"], ptx!("attention.paged_int8"));
registry::register!(F32, F16, BF16, INT8);
