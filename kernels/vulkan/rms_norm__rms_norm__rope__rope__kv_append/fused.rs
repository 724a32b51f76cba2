//! op: rms_norm+rms_norm+rope+rope+kv_append. See `fused.comp`.

use crate::common::cache;
use crate::common::launch::{Gpu, Plain, Result, Step, shader};
use crate::common::stored::{element_bytes, scheme_constant};
use graph::{Op, RopeSpec};
use registry::patterns::QK_NORM_ROPE_APPEND;
use registry::{CacheView, Problem};

/// Largest head: one f32 for each element is kept in shared memory.
const MOST_DIM: usize = 1024;

/// What the two halves must have in common.
struct Shape {
    view: CacheView,
    heads: usize,
    rope: RopeSpec,
    eps: f32,
    weight_offset: f32,
}

impl Shape {
    fn of(problem: &Problem) -> std::result::Result<Shape, String> {
        let (_, stored) = problem.input(4, 2).ok_or("the cache is missing")?;
        let view = stored.cache.ok_or("the cache is missing")?;
        cache::check_pairs(stored)?;
        let ops: Vec<&Op> = problem.ops.iter().map(|o| &o.op).collect();
        let [
            Op::RmsNorm { eps, weight_offset },
            norm,
            Op::Rope(rope),
            other,
            _,
        ] = ops[..]
        else {
            return Err("another pattern".into());
        };
        if norm != ops[0] || other != ops[2] {
            return Err("queries and keys must be normed and rotated alike".into());
        }
        let &[_, heads, dim] = problem.ops[2].shape.as_slice() else {
            return Err("q must be [T, heads, D]".into());
        };
        let of_heads = |op: usize| problem.input(op, 1).is_some_and(|(_, w)| w.shape == [dim]);
        if dim != view.head_dim || dim > MOST_DIM || !of_heads(0) || !of_heads(1) {
            return Err(format!("for norms of heads of up to {MOST_DIM}"));
        }
        Ok(Shape {
            view,
            heads,
            rope: *rope,
            eps: *eps,
            weight_offset: *weight_offset,
        })
    }
}

fn constants(problem: &Problem, gpu: Gpu) -> std::result::Result<Vec<u32>, String> {
    let shape = Shape::of(problem)?;
    let (_, stored) = problem.input(4, 2).ok_or("the cache is missing")?;
    cache::check_operand(stored, gpu)?;
    let mut all = gpu.reduce(shape.view.head_dim);
    all.push(scheme_constant(stored.scheme)?);
    all.push(shape.view.head_dim as u32);
    Ok(all)
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let shape = Shape::of(step.problem).map_err(|e| step.refuse(e))?;
    let view = &shape.view;
    let mut args = step.args();
    let q = args.rows(step.operand(0, 0)?)?;
    let k = args.rows(step.operand(1, 0)?)?;
    let v = args.rows(step.operand(4, 1)?)?;
    let q_weight = args.words(step.operand(0, 1)?)? as usize;
    let k_weight = args.words(step.operand(1, 1)?)? as usize;
    let table = args.rows(step.operand(2, 1)?)?;
    let y = args.rows(&step.binds.outputs[0])?;
    let stored = step.operand(4, 2)?;
    let scheme = stored.scheme;
    let size = element_bytes(scheme);
    let start = args.bind(stored, 0, stored.bytes, size)? as usize;
    let meta = args.step(&step.binds.step)?;
    let layout = &step.problem.step;
    args.count(meta, step.problem.outputs[0].rows)?;
    let rope = &shape.rope;
    args.u32s(&[shape.heads, rope.first, rope.rotary_dim / 2])?;
    args.u32(usize::from(rope.interleaved))?;
    args.u32s(&[q.0, q.1, k.0, k.1, v.0, v.1, q_weight, k_weight])?;
    args.u32s(&[table.0, table.1, y.0, y.1])?;
    args.u32s(&[start + view.offset, view.page_stride, view.kv_stride])?;
    args.u32s(&[view.head_stride, view.token_stride])?;
    args.u32s(&[
        cache::scales_at(start, scheme, view),
        view.block,
        view.pages,
    ])?;
    args.u32s(&[meta + layout.positions(), meta + layout.row_span()])?;
    args.u32s(&[
        meta + layout.table(view.group),
        layout.groups[view.group].blocks,
    ])?;
    args.f32(shape.eps);
    args.f32(shape.weight_offset);
    let heads = (shape.heads + view.kv_heads) as u32;
    step.dispatch(&args, [heads, step.max_rows(), 1])
}

const fn of(quant: &'static [&'static str]) -> Plain {
    let shader = shader!("rms_norm__rms_norm__rope__rope__kv_append.fused", 9, 31);
    let mut plain = Plain::new(&QK_NORM_ROPE_APPEND, quant, "fused", shader, record)
        .with_every_attribute()
        .with_constants(constants);
    plain.fits = |problem| Shape::of(problem).map(|_| ());
    plain
}

static F32: Plain = of(&["f32"]);
static F16: Plain = of(&["f16"]);
static BF16: Plain = of(&["bf16"]);
static INT8: Plain = of(&["int8_kv"]);
registry::register!(F32, F16, BF16, INT8);
