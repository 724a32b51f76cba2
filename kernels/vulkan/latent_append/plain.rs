//! op: latent_append. See `plain.comp`.

use crate::common::cache;
use crate::common::launch::{Gpu, Plain, Result, Step, shader};
use crate::common::stored::{element_bytes, scheme_constant};
use registry::{Pattern, Problem};

fn constants(problem: &Problem, gpu: Gpu) -> std::result::Result<Vec<u32>, String> {
    cache::check(problem, gpu, 2)?;
    let mut all = gpu.elementwise();
    all.push(scheme_constant(problem.outputs[0].scheme)?);
    Ok(all)
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let view = cache::view(step, 2)?;
    let stored = step.output();
    let mut args = step.args();
    let c = args.rows(step.input(0)?)?;
    let k = args.rows(step.input(1)?)?;
    let size = element_bytes(stored.scheme);
    let at = args.bind(stored, 0, stored.bytes, size)? as usize + view.offset;
    let meta = args.step(&step.binds.step)?;
    let layout = &step.problem.step;
    let rows = step.problem.input(0, 0).map(|(_, o)| o);
    let rows = rows.ok_or_else(|| step.refuse("c is missing"))?;
    args.count(meta, rows.rows)?;
    args.u32s(&[view.head_dim, rows.row_len(), c.0, c.1, k.0, k.1])?;
    args.u32s(&[at, view.page_stride, view.token_stride])?;
    args.u32s(&[view.block, view.pages, meta + layout.positions()])?;
    args.u32s(&[meta + layout.row_span(), meta + layout.table(view.group)])?;
    args.u32(layout.groups[view.group].blocks)?;
    let groups = [step.groups_of(view.head_dim), rows.shape[0] as u32, 1];
    step.dispatch(&args, groups)
}

const fn of(quant: &'static [&'static str]) -> Plain {
    let shader = shader!("latent_append.plain", 4, 16);
    Plain::new(&Pattern::LATENT_APPEND, quant, "plain", shader, record).with_constants(constants)
}

static F32: Plain = of(&["f32"]);
static F16: Plain = of(&["f16"]);
static BF16: Plain = of(&["bf16"]);
registry::register!(F32, F16, BF16);
