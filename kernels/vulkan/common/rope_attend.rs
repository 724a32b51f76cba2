//! Attention of one row behind what makes its queries and the cache's next token. See
//! `rope_attend.comp`.

use crate::common::cache;
use crate::common::launch::{Gpu, Plain, Result, Step, shader};
use crate::common::stored::scheme_constant;
use graph::{AttentionSpec, Op, RopeSpec};
use hal::DeviceKind;
use registry::{CacheView, Operand, Pattern, Problem};

/// Largest head: a lane has a few registers of each key and value.
const MOST_DIM: usize = 256;

/// Lanes of a workgroup, 256 at most: a quad of a head for each at least.
const LANES: u32 = 256;
const SOFTWARE_LANES: u32 = 64;

/// Workgroups to aim for, and splits, of which the shader joins so many.
const WORKGROUPS: usize = 256;
const MOST_SPLITS: usize = 64;

type Fits<T> = std::result::Result<T, String>;

struct Shape {
    view: CacheView,
    heads: usize,
    /// Query heads of a workgroup.
    together: usize,
    splits: usize,
    /// Place of the rope of q; that of k, the append and the attention follow it.
    at: usize,
    rope: RopeSpec,
    /// Eps and the offset of weights, where heads are normed.
    norm: Option<(f32, f32)>,
    attention: AttentionSpec,
}

impl Shape {
    fn of(problem: &Problem) -> Fits<Shape> {
        let view = stored(problem)?.cache.ok_or("the cache is missing")?;
        let ops: Vec<&Op> = problem.ops.iter().map(|o| &o.op).collect();
        let (norms, [Op::Rope(rope), other, _, Op::Attention(attention)]) =
            ops.split_last_chunk().ok_or("another pattern")?
        else {
            return Err("another pattern".into());
        };
        let norm = match norms {
            [] => None,
            [Op::RmsNorm { eps, weight_offset }, norm] if *norm == norms[0] => {
                Some((*eps, *weight_offset))
            }
            _ => return Err("queries and keys must be normed alike".into()),
        };
        let at = norms.len();
        if *other != ops[at] {
            return Err("queries and keys must be rotated alike".into());
        }
        let &[_, heads, dim] = problem.ops[at].shape.as_slice() else {
            return Err("q must be [T, heads, D]".into());
        };
        let of_heads = |op: usize| problem.input(op, 1).is_some_and(|(_, w)| w.shape == [dim]);
        if dim != view.head_dim || !(0..at).all(of_heads) {
            return Err("the norms must be of heads".into());
        }
        let together = cache::together(heads / view.kv_heads.max(1));
        let splits = match problem.device.kind {
            DeviceKind::Software => 3,
            _ => (WORKGROUPS * together / heads).clamp(1, MOST_SPLITS),
        };
        Ok(Shape {
            view,
            heads,
            together,
            splits,
            at,
            rope: *rope,
            norm,
            attention: *attention,
        })
    }

    /// Workgroups of a split.
    fn workgroups(&self) -> usize {
        self.heads / self.together
    }
}

/// The cache from outside: that of the append, which is the last op but one.
fn stored(problem: &Problem) -> Fits<&Operand> {
    let append = problem.ops.len().checked_sub(2);
    let found = append.and_then(|op| problem.input(op, 2));
    Ok(found.ok_or("the cache is missing")?.1)
}

fn fits(problem: &Problem) -> Fits<()> {
    let shape = Shape::of(problem)?;
    match problem.outputs[0].shape[0] {
        1 => {}
        // A row's key must not be one that another row waits for.
        rows => return Err(format!("for one row, not {rows}")),
    }
    let dim = shape.view.head_dim;
    if dim > MOST_DIM {
        return Err(format!("for heads of up to {MOST_DIM}, not {dim}"));
    }
    let scheme = stored(problem)?.scheme;
    match cache::in_pieces(scheme, &shape.view) {
        true => Ok(()),
        false => Err(format!(
            "for heads of whole {} elements in {scheme}",
            cache::piece(scheme)
        )),
    }
}

/// Positions that a workgroup of so many lanes sees at once, as in the shader.
fn tile(lanes: usize, pieces: usize) -> usize {
    match pieces {
        p if p.is_multiple_of(4) && p <= 16 => lanes / 2,
        p if p.is_multiple_of(4) => lanes / 4,
        p if p.is_multiple_of(2) => lanes / 2,
        _ => lanes,
    }
}

/// Shared memory that the shader declares, and some to spare.
fn shared_bytes(shape: &Shape, tile: usize) -> usize {
    let (dim, heads) = (shape.view.head_dim, shape.together);
    // Scratch, table, the row's key and value twice; queries; weights, their maxima and
    // sums.
    let words = 4096 + dim + 4 * dim + heads * (dim + tile + tile / 2 + 2);
    4 * words + 64
}

fn constants(problem: &Problem, gpu: Gpu) -> Fits<Vec<u32>> {
    let operand = stored(problem)?;
    cache::check_operand(operand, gpu)?;
    let shape = Shape::of(problem)?;
    let lanes = match gpu.info.kind {
        DeviceKind::Software => SOFTWARE_LANES,
        _ => LANES,
    };
    let subgroup = gpu.info.subgroup.max(1) as usize;
    let tile = tile(
        lanes as usize,
        shape.view.head_dim / cache::piece(operand.scheme),
    );
    if !tile.is_multiple_of(subgroup) || !gpu.limits.whole_subgroups {
        return Err(format!(
            "for whole subgroups of up to {tile} lanes, not {subgroup}"
        ));
    }
    let group = problem.step.groups.get(shape.view.group);
    let seen = group
        .map_or(0, |g| g.block * g.blocks)
        .div_ceil(shape.splits);
    let turns = seen.div_ceil(tile) * (1 + shape.together * tile / subgroup);
    gpu.check_turns(
        turns + shape.together * shape.view.head_dim,
        &format!("attention over {seen} positions (use a shorter --ctx)"),
    )?;
    let shared = shared_bytes(&shape, tile);
    if shared > gpu.limits.shared_memory as usize {
        return Err(format!(
            "it wants {shared} bytes of shared memory and {} has {}",
            gpu.info.name, gpu.limits.shared_memory
        ));
    }
    let mut all = gpu.lanes(lanes);
    all.push(scheme_constant(operand.scheme)?);
    all.extend([shape.view.head_dim, shape.together, shape.view.block].map(|n| n as u32));
    all.push(u32::from(shape.norm.is_some()));
    Ok(all)
}

/// Partial results: a head's, and four numbers more.
fn workspace(problem: &Problem) -> u64 {
    let of = |s: Shape| s.heads * s.splits * (s.view.head_dim + 4) * 4;
    Shape::of(problem).map_or(0, of) as u64
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let shape = Shape::of(step.problem).map_err(|e| step.refuse(e))?;
    let (view, at) = (&shape.view, shape.at);
    let (parts, counters) = (step.workspace()?, step.counters()?);
    let mut args = step.args();
    let q_ref = step.operand(0, 0)?;
    let q = args.words(q_ref)? as usize;
    let k = args.words(step.operand(1, 0)?)? as usize;
    let v = args.words(step.operand(at + 2, 1)?)? as usize;
    // Without norms or sinks the bindings are never read.
    let mut weights = [0; 2];
    for (op, weight) in weights.iter_mut().enumerate() {
        let operand = if at > 0 { step.operand(op, 1)? } else { q_ref };
        *weight = args.words(operand)? as usize;
    }
    let table = args.words(step.operand(at, 1)?)? as usize;
    let has_sinks = step.problem.input(at + 3, 2).is_some();
    let sinks = if has_sinks {
        step.operand(at + 3, 2)?
    } else {
        q_ref
    };
    let sinks = args.words(sinks)? as usize;
    let stored = step.operand(at + 2, 2)?;
    // In pieces: the bindings begin with one.
    let start = args.bind(stored, 0, stored.bytes, 16)? as usize;
    let places = cache::Places::of(start, stored.scheme, view);
    let o = args.words(step.output())? as usize;
    let parts = args.bind(parts, 0, parts.bytes, 16)? as usize;
    args.whole(&counters.buffer);
    let meta = args.step(&step.binds.step)?;
    let layout = &step.problem.step;
    args.count(meta, step.problem.outputs[0].rows)?;
    args.u32s(&[shape.heads / view.kv_heads, shape.splits, q, k, v])?;
    args.u32s(&weights)?;
    let rope = &shape.rope;
    args.u32s(&[table, rope.first, rope.rotary_dim / 2])?;
    args.u32s(&[usize::from(rope.interleaved), sinks, usize::from(has_sinks)])?;
    args.u32s(&[o, parts])?;
    args.u32s(&places.pieces)?;
    args.u32s(&[places.scales[0], view.pages])?;
    args.u32s(&[meta + layout.positions(), meta + layout.row_span()])?;
    args.u32s(&[
        meta + layout.table(view.group),
        layout.groups[view.group].blocks,
        shape.attention.window.unwrap_or(0),
    ])?;
    let (eps, offset) = shape.norm.unwrap_or_default();
    args.f32(eps);
    args.f32(offset);
    args.f32(shape.attention.scale);
    args.f32(shape.attention.softcap.unwrap_or(0.0));
    let mut accesses = step.binds.accesses();
    accesses.push(counters.write());
    let groups = [shape.workgroups() as u32, shape.splits as u32, 1];
    step.dispatch_with(&args, groups, &accesses)
}

/// The kernel of a pattern that ends in a rope of q, one of k, an append and an
/// attention.
pub const fn kernel(pattern: &'static Pattern, quant: &'static [&'static str]) -> Plain {
    let shader = shader!("common.rope_attend", 12, 32);
    let mut plain = Plain::new(pattern, quant, "split", shader, record)
        .with_every_attribute()
        .with_constants(constants);
    plain.fits = fits;
    plain.workspace = workspace;
    plain.counters = |problem| Shape::of(problem).map_or(0, |s| s.workgroups());
    plain.spec.rank = 60;
    plain.spec.tolerance = 2e-4;
    plain
}
