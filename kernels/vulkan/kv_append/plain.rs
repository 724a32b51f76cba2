//! op: kv_append. See `plain.comp`.

use crate::common::cache;
use crate::common::launch::{Gpu, Plain, Result, Step, shader};
use crate::common::stored::{element_bytes, scheme_constant};
use registry::{Pattern, Problem, Scheme};

fn fits(problem: &Problem) -> std::result::Result<(), String> {
    cache::check_pairs(&problem.outputs[0])
}

fn constants(problem: &Problem, gpu: Gpu) -> std::result::Result<Vec<u32>, String> {
    let view = cache::check(problem, gpu, 2)?;
    let scheme = problem.outputs[0].scheme;
    let mut all = match scheme {
        Scheme::INT8_KV => gpu.reduce(view.head_dim),
        _ => gpu.elementwise(),
    };
    all.push(scheme_constant(scheme)?);
    Ok(all)
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let view = cache::view(step, 2)?;
    let (k, v, stored) = (step.input(0)?, step.input(1)?, step.output());
    let mut args = step.args();
    let ks = args.rows(k)?;
    let vs = args.rows(v)?;
    let scheme = stored.scheme;
    let size = element_bytes(scheme);
    let start = args.bind(stored, 0, stored.bytes, size)? as usize;
    let meta = args.step(&step.binds.step)?;
    let layout = &step.problem.step;
    let rows = step.problem.input(0, 0).map(|(_, o)| o);
    let rows = rows.ok_or_else(|| step.refuse("k is missing"))?;
    let len = view.kv_heads * view.head_dim;
    args.count(meta, rows.rows)?;
    args.u32s(&[len, view.head_dim, ks.0, ks.1, vs.0, vs.1])?;
    args.u32s(&[start + view.offset, view.page_stride, view.kv_stride])?;
    args.u32s(&[view.head_stride, view.token_stride])?;
    args.u32s(&[
        cache::scales_at(start, scheme, &view),
        view.block,
        view.pages,
    ])?;
    args.u32s(&[meta + layout.positions(), meta + layout.row_span()])?;
    args.u32s(&[
        meta + layout.table(view.group),
        layout.groups[view.group].blocks,
    ])?;
    let max_rows = rows.shape[0] as u32;
    let groups = match scheme {
        Scheme::INT8_KV => 2 * view.kv_heads as u32,
        _ => step.groups_of(len),
    };
    step.dispatch(&args, [groups, max_rows, 1])
}

const fn of(quant: &'static [&'static str]) -> Plain {
    let shader = shader!("kv_append.plain", 4, 19);
    let mut plain =
        Plain::new(&Pattern::KV_APPEND, quant, "plain", shader, record).with_constants(constants);
    plain.fits = fits;
    plain
}

static F32: Plain = of(&["f32"]);
static F16: Plain = of(&["f16"]);
static BF16: Plain = of(&["bf16"]);
static INT8: Plain = of(&["int8_kv"]);
registry::register!(F32, F16, BF16, INT8);
