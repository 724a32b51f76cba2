//! op: attention, few rows, the cache split over blocks. See `split_kv.cuh`.

use crate::common::attend;
use crate::common::launch::{Plain, Ptx, Result, Step, ptx, suffix};
use crate::common::split::{self, Cut};
use registry::{Pattern, Problem, Scheme};

fn cut(problem: &Problem) -> Cut {
    let splits = match problem.outputs[0].shape[0] {
        1 => 32,
        2..=16 => 16,
        _ => 4,
    };
    let together = match split::heads(problem).1 {
        _ if attend::scheme(problem) == Ok(Scheme::INT8_KV) => 4,
        1 => 1,
        2 => 2,
        _ => 4,
    };
    Cut { splits, together }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let cut = cut(step.problem);
    let format = suffix(step.input(1)?.scheme).map_err(|e| step.refuse(e))?;
    let dim = attend::view(step.problem).map_err(|e| step.refuse(e))?;
    let entry = format!("split_{format}_{}_{}", dim.head_dim, cut.together);
    split::record(step, &cut, &entry)
}

const fn of(quant: &'static [&'static str], ptx: Ptx) -> Plain {
    Plain::new(&Pattern::ATTENTION, quant, "split_kv", ptx, record)
        .with_fits(|problem| split::fits(problem, &[64, 128, 256]))
        .with_workspace(|problem| split::workspace(problem, cut(problem).splits))
        .with_rank(10)
        .with_tolerance(5e-5)
}

static F16: Plain = of(&["f16"], ptx!("attention.split_kv"));
static BF16: Plain = of(&["bf16"], ptx!("attention.split_kv"));
static INT8: Plain = of(&["int8_kv"], ptx!("attention.split_kv_int8"));
registry::register!(F16, BF16, INT8);
