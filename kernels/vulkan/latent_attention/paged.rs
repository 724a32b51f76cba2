//! op: latent_attention. See `paged.comp`.

use crate::common::cache;
use crate::common::launch::{Gpu, Plain, Result, Step, shader};
use crate::common::stored::{element_bytes, scheme_constant};
use graph::Op;
use registry::{Pattern, Problem};

/// Largest vector: one f32 for each element is kept in shared memory, and for each
/// lane the elements that it owns.
const MOST_DIM: usize = 1024;

fn constants(problem: &Problem, gpu: Gpu) -> std::result::Result<Vec<u32>, String> {
    let view = cache::check(problem, gpu, 2)?;
    let (_, stored) = problem.input(0, 2).ok_or("the cache is missing")?;
    let values = *problem.outputs[0].shape.last().ok_or("o has no shape")?;
    let mut all = gpu.reduce(values);
    all.push(scheme_constant(stored.scheme)?);
    all.extend([view.head_dim as u32, values as u32]);
    cache::check_turns(problem, gpu, stored, values, &all)?;
    Ok(all)
}

fn fits(problem: &Problem) -> std::result::Result<(), String> {
    let view = problem.input(0, 2).and_then(|(_, o)| o.cache);
    match view.ok_or("the cache is missing")?.head_dim {
        dim if dim <= MOST_DIM => Ok(()),
        dim => Err(format!("for vectors of up to {MOST_DIM}, not {dim}")),
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::LatentAttention { scale } = step.problem.ops[0].op else {
        return Err(step.refuse("not a latent_attention"));
    };
    let view = cache::view(step, 2)?;
    let stored = step.input(2)?;
    let heads = step.problem.outputs[0].shape[1];
    let mut args = step.args();
    let latent = args.rows(step.input(0)?)?;
    let rope = args.rows(step.input(1)?)?;
    let size = element_bytes(stored.scheme);
    let at = args.bind(stored, 0, stored.bytes, size)? as usize + view.offset;
    let o = args.rows(step.output())?;
    let meta = args.step(&step.binds.step)?;
    let layout = &step.problem.step;
    args.count(meta, step.problem.outputs[0].rows)?;
    args.u32s(&[latent.0, latent.1, rope.0, rope.1])?;
    args.u32s(&[at, view.page_stride, view.token_stride, 0, o.0, o.1])?;
    args.u32s(&[view.block, meta + layout.positions()])?;
    args.u32s(&[meta + layout.row_span(), meta + layout.table(view.group)])?;
    args.u32(layout.groups[view.group].blocks)?;
    args.u32(usize::from(cache::in_words(stored.scheme, at, &view)))?;
    args.f32(scale);
    args.f32(0.0);
    step.dispatch(&args, [heads as u32, step.max_rows(), 1])
}

const fn of(quant: &'static [&'static str]) -> Plain {
    let shader = shader!("latent_attention.paged", 5, 19);
    let mut plain = Plain::new(&Pattern::LATENT_ATTENTION, quant, "paged", shader, record)
        .with_constants(constants);
    plain.fits = fits;
    plain.spec.tolerance = 5e-5;
    plain
}

static F32: Plain = of(&["f32"]);
static F16: Plain = of(&["f16"]);
static BF16: Plain = of(&["bf16"]);
registry::register!(F32, F16, BF16);
