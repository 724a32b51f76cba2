//! op: attention. See `paged.comp`.

use crate::common::cache;
use crate::common::launch::{Gpu, Plain, Result, Step, shader};
use crate::common::stored::{element_bytes, scheme_constant};
use graph::Op;
use registry::{Pattern, Problem};

/// Largest head: one f32 for each element is kept in shared memory, and for each
/// lane the elements that it owns.
const MOST_DIM: usize = 512;

fn constants(problem: &Problem, gpu: Gpu) -> std::result::Result<Vec<u32>, String> {
    let view = cache::check(problem, gpu, 1)?;
    let (_, stored) = problem.input(0, 1).ok_or("the cache is missing")?;
    let mut all = gpu.reduce(view.head_dim * 4);
    all.push(scheme_constant(stored.scheme)?);
    all.extend([view.head_dim as u32; 2]);
    cache::check_turns(problem, gpu, stored, view.head_dim, &all)?;
    Ok(all)
}

fn fits(problem: &Problem) -> std::result::Result<(), String> {
    let view = problem.input(0, 1).and_then(|(_, o)| o.cache);
    match view.ok_or("the cache is missing")?.head_dim {
        dim if dim <= MOST_DIM => Ok(()),
        dim => Err(format!("for heads of up to {MOST_DIM}, not {dim}")),
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::Attention(spec) = step.problem.ops[0].op else {
        return Err(step.refuse("not an attention"));
    };
    let view = cache::view(step, 1)?;
    let stored = step.input(1)?;
    let heads = step.row_len() / view.head_dim;
    let mut args = step.args();
    let q = args.rows(step.input(0)?)?;
    let scheme = stored.scheme;
    let size = element_bytes(scheme);
    let start = args.bind(stored, 0, stored.bytes, size)? as usize;
    let at = start + view.offset;
    let sinks = match step.has_input(2) {
        true => Some(step.input(2)?),
        false => None,
    };
    // Without sinks the binding is never read.
    let s = args.words(sinks.unwrap_or(step.input(0)?))? as usize;
    let o = args.rows(step.output())?;
    let meta = args.step(&step.binds.step)?;
    let layout = &step.problem.step;
    let strides = [
        view.page_stride,
        view.kv_stride,
        view.head_stride,
        view.token_stride,
    ];
    args.count(meta, step.problem.outputs[0].rows)?;
    args.u32s(&[heads / view.kv_heads, q.0, q.1, at])?;
    args.u32s(&strides)?;
    args.u32(cache::scales_at(start, scheme, &view))?;
    args.u32s(&[s, usize::from(sinks.is_some()), o.0, o.1, view.block])?;
    args.u32s(&[meta + layout.positions(), meta + layout.row_span()])?;
    args.u32s(&[
        meta + layout.table(view.group),
        layout.groups[view.group].blocks,
    ])?;
    args.u32(spec.window.unwrap_or(0))?;
    args.u32(usize::from(cache::in_words(scheme, at, &view)))?;
    args.f32(spec.scale);
    args.f32(spec.softcap.unwrap_or(0.0));
    step.dispatch(&args, [heads as u32, step.max_rows(), 1])
}

const fn of(quant: &'static [&'static str]) -> Plain {
    let shader = shader!("attention.paged", 5, 23);
    let mut plain = Plain::new(&Pattern::ATTENTION, quant, "paged", shader, record)
        .with_every_attribute()
        .with_constants(constants);
    plain.fits = fits;
    plain.spec.tolerance = 5e-5;
    plain
}

static F32: Plain = of(&["f32"]);
static F16: Plain = of(&["f16"]);
static BF16: Plain = of(&["bf16"]);
static INT8: Plain = of(&["int8_kv"]);
registry::register!(F32, F16, BF16, INT8);
