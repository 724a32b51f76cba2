//! op: attention, few rows. See `split.comp` and `merge.comp`.

use crate::common::cache;
use crate::common::launch::{Further, Gpu, Plain, Result, Step, shader};
use crate::common::stored::scheme_constant;
use graph::Op;
use hal::DeviceKind;
use registry::{CacheView, Pattern, Problem, Scheme};

/// Most rows; more of them keep a device busy without splits.
const MOST_ROWS: usize = 16;

/// Largest head: its queries and partial sums share 32 KiB.
const MOST_DIM: usize = 512;

/// Lanes of a workgroup; a piece of a value for each at least.
const LANES: u32 = 128;
const SOFTWARE_LANES: u32 = 64;

/// Workgroups to aim for.
const WORKGROUPS: usize = 512;
const MOST_SPLITS: usize = 64;

struct Shape {
    view: CacheView,
    scheme: Scheme,
    heads: usize,
    /// Query heads of a workgroup.
    together: usize,
    rows: usize,
}

impl Shape {
    fn of(problem: &Problem) -> std::result::Result<Shape, String> {
        let (_, stored) = problem.input(0, 1).ok_or("the cache is missing")?;
        let view = stored.cache.ok_or("the cache is missing")?;
        let &[rows, heads, _] = problem.outputs[0].shape.as_slice() else {
            return Err("o must be [T, heads, D]".into());
        };
        let group = heads / view.kv_heads.max(1);
        Ok(Shape {
            view,
            scheme: stored.scheme,
            heads,
            together: cache::together(group),
            rows,
        })
    }

    fn splits(&self, software: bool) -> usize {
        let workgroups = self.heads / self.together * self.rows;
        match software {
            true => 3,
            false => (WORKGROUPS / workgroups).clamp(1, MOST_SPLITS),
        }
    }

    fn part_words(&self, software: bool) -> usize {
        self.rows * self.heads * self.splits(software) * (self.view.head_dim + 2)
    }
}

fn fits(problem: &Problem) -> std::result::Result<(), String> {
    let shape = Shape::of(problem)?;
    let view = &shape.view;
    if shape.rows > MOST_ROWS || view.head_dim > MOST_DIM {
        return Err(format!(
            "for up to {MOST_ROWS} rows and heads of up to {MOST_DIM}"
        ));
    }
    match cache::in_pieces(shape.scheme, view) {
        true => Ok(()),
        false => Err(format!(
            "for heads of whole {} elements in {}",
            cache::piece(shape.scheme),
            shape.scheme
        )),
    }
}

fn constants(problem: &Problem, gpu: Gpu) -> std::result::Result<Vec<u32>, String> {
    cache::check(problem, gpu, 1)?;
    let shape = Shape::of(problem)?;
    let lanes = match gpu.info.kind {
        DeviceKind::Software => SOFTWARE_LANES,
        _ => LANES,
    };
    let mut all = gpu.lanes(lanes.max(gpu.info.subgroup));
    all.push(scheme_constant(shape.scheme)?);
    all.extend([shape.view.head_dim as u32, shape.together as u32]);
    Ok(all)
}

fn is_software(problem: &Problem) -> bool {
    problem.device.kind == DeviceKind::Software
}

fn workspace(problem: &Problem) -> u64 {
    let shape = Shape::of(problem);
    shape.map_or(0, |s| s.part_words(is_software(problem)) as u64 * 4)
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::Attention(spec) = step.problem.ops[0].op else {
        return Err(step.refuse("not an attention"));
    };
    let shape = Shape::of(step.problem).map_err(|e| step.refuse(e))?;
    let splits = shape.splits(is_software(step.problem));
    let view = &shape.view;
    let (q, stored) = (step.input(0)?, step.input(1)?);
    let parts = step.workspace()?;
    let mut args = step.args();
    let qs = args.rows(q)?;
    // In pieces: the binding begins with one.
    let start = args.bind(stored, 0, stored.bytes, 16)? as usize;
    let places = cache::Places::of(start, shape.scheme, view);
    let ps = args.words(parts)? as usize;
    let meta = args.step(&step.binds.step)?;
    let layout = &step.problem.step;
    args.count(meta, step.problem.outputs[0].rows)?;
    args.u32s(&[shape.heads, shape.heads / view.kv_heads, qs.0, qs.1])?;
    args.u32s(&places.pieces)?;
    args.u32s(&places.scales)?;
    args.u32s(&[ps, view.block, meta + layout.positions()])?;
    args.u32s(&[meta + layout.row_span(), meta + layout.table(view.group)])?;
    args.u32s(&[layout.groups[view.group].blocks, spec.window.unwrap_or(0)])?;
    args.f32(spec.scale);
    args.f32(spec.softcap.unwrap_or(0.0));
    let accesses = [
        q.read(),
        stored.read(),
        step.binds.step.read(),
        parts.write(),
    ];
    let workgroups = (shape.heads / shape.together) as u32;
    let rows = step.max_rows();
    step.dispatch_with(&args, [workgroups, rows, splits as u32], &accesses)?;

    let sinks = match step.has_input(2) {
        true => Some(step.input(2)?),
        false => None,
    };
    let o = step.output();
    let mut args = step.args();
    let ps = args.words(parts)? as usize;
    // Without sinks the binding is never read.
    let s = args.words(sinks.unwrap_or(q))? as usize;
    let os = args.rows(o)?;
    let meta = args.step(&step.binds.step)?;
    args.count(meta, step.problem.outputs[0].rows)?;
    args.u32s(&[shape.heads, view.head_dim, splits, ps])?;
    args.u32s(&[s, usize::from(sinks.is_some()), os.0, os.1])?;
    args.u32s(&[meta + layout.positions(), spec.window.unwrap_or(0)])?;
    args.u32(step.constants[0] as usize)?;
    let mut accesses = vec![parts.read(), step.binds.step.read(), o.write()];
    accesses.extend(sinks.map(|s| s.read()));
    step.dispatch_further(0, &args, [shape.heads as u32, rows, 1], &accesses)
}

const MERGE: Further = Further {
    shader: shader!("attention.merge", 4, 12),
    constants: |_, gpu| Ok(gpu.elementwise()),
};

const fn of(quant: &'static [&'static str]) -> Plain {
    let shader = shader!("attention.split", 4, 22);
    let mut plain = Plain::new(&Pattern::ATTENTION, quant, "split", shader, record)
        .with_every_attribute()
        .with_constants(constants)
        .with_further(&[MERGE], workspace);
    plain.fits = fits;
    plain.spec.rank = 10;
    plain.spec.tolerance = 5e-5;
    plain
}

static F16: Plain = of(&["f16"]);
static BF16: Plain = of(&["bf16"]);
static INT8: Plain = of(&["int8_kv"]);
registry::register!(F16, BF16, INT8);
