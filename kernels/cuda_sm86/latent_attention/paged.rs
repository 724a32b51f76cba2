//! op: latent_attention. See `paged.cu`.

use crate::common::args::Args;
use crate::common::cache;
use crate::common::launch::{Fits, Plain, Result, Step, ptx, suffix};
use graph::Op;
use registry::{Pattern, Problem};

/// Largest latent vector and largest rotated part.
const MOST: (usize, usize) = (512, 128);

fn dims(problem: &Problem) -> std::result::Result<(usize, usize, usize), String> {
    let latent = problem.input(0, 0).map(|(_, q)| q.shape.as_slice());
    let rope = problem.input(0, 1).map(|(_, q)| q.shape.as_slice());
    match (latent, rope) {
        (Some(&[_, heads, l]), Some(&[_, _, r])) => Ok((heads, l, r)),
        _ => Err("q_latent and q_rope must be [T, heads, n]".into()),
    }
}

fn fits(problem: &Problem) -> Fits {
    match dims(problem)? {
        (_, l, r) if l <= MOST.0 && r <= MOST.1 => Ok(()),
        (_, l, r) => Err(format!("for up to {MOST:?} elements, not ({l}, {r})")),
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::LatentAttention { scale } = step.problem.ops[0].op else {
        return Err(step.refuse("not a latent_attention"));
    };
    let view = cache::view(step, 0, 2)?;
    let (heads, latent, rope) = dims(step.problem).map_err(|e| step.refuse(e))?;
    let (l, r, stored, o) = (
        step.input(0)?,
        step.input(1)?,
        step.input(2)?,
        step.output(),
    );
    let mut args = Args::default();
    for t in [l, r, o] {
        args.tensor(step, t)?;
    }
    cache::pointers(&mut args, step, stored, &view)?;
    args.count(step, step.rows_from())?;
    cache::words(&mut args, step, stored.scheme, &view)?;
    args.u32s(step, &[latent, rope])?;
    args.u32s(step, &[l.row_stride(), r.row_stride(), o.row_stride()])?;
    args.f32(scale);
    let entry = suffix(stored.scheme).map_err(|e| step.refuse(e))?;
    let grid = [heads as u32, step.max_rows(), 1];
    step.launch(&format!("latent_{entry}"), &args, grid, 128)
}

const fn of(quant: &'static [&'static str]) -> Plain {
    Plain::new(
        &Pattern::LATENT_ATTENTION,
        quant,
        "paged",
        ptx!("latent_attention.paged"),
        record,
    )
    .with_fits(fits)
    .with_tolerance(5e-5)
}

static F32: Plain = of(&["f32"]);
static F16: Plain = of(&["f16"]);
static BF16: Plain = of(&["bf16"]);
registry::register!(F32, F16, BF16);
