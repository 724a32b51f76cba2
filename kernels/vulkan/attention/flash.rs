//! op: attention, many rows, by cooperative matrices. See `halves.comp` and
//! `flash.comp`.

use crate::common::cache;
use crate::common::launch::{Further, Gpu, Plain, Result, Step, shader};
use crate::common::stored::scheme_constant;
use graph::Op;
use hal::DeviceKind;
use hal::vulkan::COOPMAT_F16;
use registry::{Pattern, Problem};

/// Up to this many rows `split` is better.
const LEAST_ROWS: usize = 17;

/// Largest head: a subgroup keeps its rows' queries and sums in registers.
const MOST_DIM: usize = 256;
const DIM_STEP: usize = 16;

/// Elements of a piece of 16 bytes of queries.
const PIECE: usize = 8;

/// Subgroups of a workgroup.
const SUBGROUPS: u32 = 8;
const SOFTWARE_SUBGROUPS: u32 = 2;

/// Rows of the workspace are whole tiles of at most so many.
const MOST_TILE_ROWS: usize = 256;

fn fits(problem: &Problem) -> std::result::Result<(), String> {
    if !problem.device.features.contains(COOPMAT_F16) {
        return Err(format!("the device has no {COOPMAT_F16}"));
    }
    let (_, stored) = problem.input(0, 1).ok_or("the cache is missing")?;
    let view = stored.cache.ok_or("the cache is missing")?;
    if problem.outputs[0].shape[0] < LEAST_ROWS {
        return Err(format!("for {LEAST_ROWS} rows and more"));
    }
    if view.head_dim > MOST_DIM || !view.head_dim.is_multiple_of(DIM_STEP) {
        return Err(format!(
            "for heads of up to {MOST_DIM} in steps of {DIM_STEP}, not {}",
            view.head_dim
        ));
    }
    match cache::in_pieces(stored.scheme, &view) {
        true => Ok(()),
        false => Err(format!(
            "for heads of whole {} elements in {}",
            cache::piece(stored.scheme),
            stored.scheme
        )),
    }
}

fn constants(problem: &Problem, gpu: Gpu) -> std::result::Result<Vec<u32>, String> {
    let view = cache::check(problem, gpu, 1)?;
    let (_, stored) = problem.input(0, 1).ok_or("the cache is missing")?;
    let scheme = stored.scheme;
    let shape = gpu
        .limits
        .coopmat
        .f16
        .ok_or("the device lost its matrices")?;
    let subgroup = gpu.info.subgroup;
    let wanted = match gpu.info.kind {
        DeviceKind::Software => SOFTWARE_SUBGROUPS,
        _ => SUBGROUPS,
    };
    let mut subgroups = wanted.min(gpu.limits.workgroup_invocations / subgroup);
    // As the shader lays it out: keys and values of 32 tokens, then scores and factors
    // of each subgroup, and a scale for each key and value.
    let scales = if scheme.scale_bytes() > 0 { 64 * 4 } else { 4 };
    let bytes = |subgroups: u32| {
        let pieces = 64 * (view.head_dim as u32 / 8 + 1);
        scales + 16 * (pieces + subgroups * (shape.m * 10 + shape.m * shape.n / 4))
    };
    while subgroups > 1 && bytes(subgroups) > gpu.limits.shared_memory {
        subgroups /= 2;
    }
    let parts = subgroup / shape.m;
    if subgroups == 0 || ![1, 2, 4].contains(&parts) || bytes(subgroups) > gpu.limits.shared_memory
    {
        return Err(format!(
            "subgroups of {subgroup} lanes cannot share products of {shape:?}"
        ));
    }
    let mut all = gpu.lanes(subgroups * subgroup);
    all.extend([scheme_constant(scheme)?, subgroup]);
    all.extend([shape.m, shape.n, shape.k, view.head_dim as u32]);
    Ok(all)
}

/// Rows of the workspace.
fn padded(problem: &Problem) -> usize {
    problem.outputs[0].shape[0].next_multiple_of(MOST_TILE_ROWS)
}

fn workspace(problem: &Problem) -> u64 {
    (padded(problem) * problem.outputs[0].row_len() * 4) as u64
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::Attention(spec) = step.problem.ops[0].op else {
        return Err(step.refuse("not an attention"));
    };
    let view = cache::view(step, 1)?;
    let (q, stored, halves) = (step.input(0)?, step.input(1)?, step.workspace()?);
    let heads = step.row_len() / view.head_dim;
    let pieces = step.row_len() / PIECE;
    let low = padded(step.problem) * pieces;

    let mut args = step.args();
    let qs = args.rows(q)?;
    let high = args.bind(halves, 0, halves.bytes, 16)? as usize;
    let meta = args.step(&step.binds.step)?;
    args.count(meta, step.problem.outputs[0].rows)?;
    args.u32s(&[pieces, qs.0, qs.1, high, high + low])?;
    args.f32(spec.scale);
    let accesses = [q.read(), step.binds.step.read(), halves.write()];
    let groups = [step.groups_of(pieces), padded(step.problem) as u32, 1];
    step.dispatch_with(&args, groups, &accesses)?;

    let &[lanes, _, _, _, subgroup, rows, ..] = step.further_constants(0) else {
        return Err(step.refuse("it has no second shader"));
    };
    let sinks = match step.has_input(2) {
        true => Some(step.input(2)?),
        false => None,
    };
    let o = step.output();
    let mut args = step.args();
    let high = args.bind(halves, 0, halves.bytes, 16)? as usize;
    // In pieces: the binding begins with one.
    let start = args.bind(stored, 0, stored.bytes, 16)? as usize;
    let places = cache::Places::of(start, stored.scheme, &view);
    // Without sinks the binding is never read.
    let s = args.words(sinks.unwrap_or(q))? as usize;
    let os = args.rows(o)?;
    let meta = args.step(&step.binds.step)?;
    let layout = &step.problem.step;
    args.count(meta, step.problem.outputs[0].rows)?;
    args.u32s(&[heads / view.kv_heads, high, high + low, pieces])?;
    args.u32s(&places.pieces)?;
    args.u32s(&places.scales)?;
    args.u32s(&[s, usize::from(sinks.is_some()), os.0, os.1])?;
    let aligned = os.0.is_multiple_of(4) && os.1.is_multiple_of(4);
    args.u32s(&[usize::from(aligned), view.block])?;
    args.u32s(&[meta + layout.positions(), meta + layout.row_span()])?;
    args.u32s(&[meta + layout.span_start(), meta + layout.table(view.group)])?;
    args.u32s(&[layout.groups[view.group].blocks, spec.window.unwrap_or(0)])?;
    args.f32(spec.softcap.unwrap_or(0.0));
    let mut accesses = vec![
        halves.read(),
        stored.read(),
        step.binds.step.read(),
        o.write(),
    ];
    accesses.extend(sinks.map(|s| s.read()));
    let tiles = step.max_rows().div_ceil(lanes / subgroup * rows);
    step.dispatch_further(0, &args, [heads as u32, tiles, 1], &accesses)
}

const FLASH: Further = Further {
    shader: shader!("attention.flash", 5, 26),
    constants,
};

const fn of(quant: &'static [&'static str]) -> Plain {
    let shader = shader!("attention.halves", 3, 7);
    let mut plain = Plain::new(&Pattern::ATTENTION, quant, "flash", shader, record)
        .with_every_attribute()
        .with_further(&[FLASH], workspace);
    plain.fits = fits;
    plain.spec.rank = 20;
    plain.spec.tolerance = 1e-4;
    plain
}

static F16: Plain = of(&["f16"]);
static INT8: Plain = of(&["int8_kv"]);
registry::register!(F16, INT8);
