//! op: attention, many rows, by cooperative matrices. See `halves.comp` and
//! `flash.comp`.

use crate::common::cache;
use crate::common::launch::{Further, Gpu, Plain, Result, Step, shader};
use graph::Op;
use hal::DeviceKind;
use hal::vulkan::{COOPMAT_F16, COOPMAT2_F16, WORKGROUP_LANES};
use registry::{Pattern, Problem};

/// Up to this many rows `split` is better.
const LEAST_ROWS: usize = 17;

/// Largest head: a subgroup keeps its rows' queries and sums in registers.
const MOST_DIM: usize = 128;
const DIM_STEP: usize = 16;

/// Elements of a piece of 16 bytes.
const PIECE: usize = 8;

/// Tokens of a tile of keys of whole workgroups; rows of theirs and tiles at a time.
const KEYS: usize = 32;
const WORKGROUP_TILE: [u32; 2] = [128, 2];

/// Subgroups of a workgroup.
const SUBGROUPS: u32 = 8;
const SOFTWARE_SUBGROUPS: u32 = 2;

/// Rows of the workspace are whole tiles of at most so many.
const MOST_TILE_ROWS: usize = 256;

fn fits(problem: &Problem) -> std::result::Result<(), String> {
    if !problem.device.features.contains(COOPMAT_F16) {
        return Err(format!("the device has no {COOPMAT_F16}"));
    }
    let view = problem.input(0, 1).and_then(|(_, o)| o.cache);
    let view = view.ok_or("the cache is missing")?;
    if problem.outputs[0].shape[0] < LEAST_ROWS {
        return Err(format!("for {LEAST_ROWS} rows and more"));
    }
    if view.head_dim > MOST_DIM || !view.head_dim.is_multiple_of(DIM_STEP) {
        return Err(format!(
            "for heads of up to {MOST_DIM} in steps of {DIM_STEP}, not {}",
            view.head_dim
        ));
    }
    match cache::in_pieces(&view) {
        true => Ok(()),
        false => Err(format!("for heads of whole {PIECE} elements")),
    }
}

fn constants(problem: &Problem, gpu: Gpu) -> std::result::Result<Vec<u32>, String> {
    let view = cache::check(problem, gpu, 1)?;
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
    // of each subgroup.
    let bytes = |subgroups: u32| {
        let pieces = 64 * (view.head_dim as u32 / 8 + 1);
        16 * (pieces + subgroups * (shape.m * 10 + shape.m * shape.n / 4))
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
    // Constant 3 is the scheme elsewhere; here it is f16.
    all.extend([1, subgroup, shape.m, shape.n, shape.k, view.head_dim as u32]);
    Ok(all)
}

/// Whether whole workgroups multiply the problem's matrices as one.
fn fits_workgroups(problem: &Problem) -> std::result::Result<(), String> {
    fits(problem)?;
    if !problem.device.features.contains(COOPMAT2_F16) {
        return Err(format!("the device has no {COOPMAT2_F16}"));
    }
    let view = problem.input(0, 1).and_then(|(_, o)| o.cache);
    match view {
        Some(v) if v.block.is_multiple_of(KEYS) && v.head_dim.is_multiple_of(KEYS) => Ok(()),
        _ => Err(format!(
            "for pages of whole {KEYS} tokens and heads in steps of {KEYS}"
        )),
    }
}

/// Constants of `flash2.comp`.
fn of_workgroups(problem: &Problem, gpu: Gpu) -> std::result::Result<Vec<u32>, String> {
    let view = cache::check(problem, gpu, 1)?;
    let [rows, tiles] = gpu.limits.flash_tile.unwrap_or(WORKGROUP_TILE);
    if ![64, 128].contains(&rows) || ![1, 2, 4].contains(&tiles) {
        return Err(format!(
            "{rows} rows and {tiles} tiles of keys are none that fit"
        ));
    }
    let mut all = gpu.lanes(WORKGROUP_LANES);
    all.extend([view.head_dim as u32, rows, tiles]);
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

    let rows = match *step.further_constants(0) {
        [_, _, _, _, rows, _] => rows,
        [lanes, _, _, _, subgroup, rows, ..] => lanes / subgroup * rows,
        _ => return Err(step.refuse("it has no second shader")),
    };
    let sinks = match step.has_input(2) {
        true => Some(step.input(2)?),
        false => None,
    };
    let o = step.output();
    let mut args = step.args();
    let high = args.bind(halves, 0, halves.bytes, 16)? as usize;
    // Pieces: the binding begins with one.
    let at = args.bind(stored, 0, stored.bytes, 16)? as usize + view.offset / PIECE;
    // Without sinks the binding is never read.
    let s = args.words(sinks.unwrap_or(q))? as usize;
    let os = args.rows(o)?;
    let meta = args.step(&step.binds.step)?;
    let layout = &step.problem.step;
    args.count(meta, step.problem.outputs[0].rows)?;
    args.u32s(&[heads / view.kv_heads, high, high + low, pieces, at])?;
    args.u32s(&[view.page_stride / PIECE, view.kv_stride / PIECE])?;
    args.u32s(&[view.head_stride / PIECE, view.token_stride / PIECE])?;
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
    let tiles = step.max_rows().div_ceil(rows);
    step.dispatch_further(0, &args, [heads as u32, tiles, 1], &accesses)
}

const SUBGROUP: &[Further] = &[Further {
    shader: shader!("attention.flash", 5, 23),
    constants,
}];

const WORKGROUP: &[Further] = &[Further {
    shader: shader!("attention.flash2", 5, 23),
    constants: of_workgroups,
}];

const fn of(variant: &'static str, rank: i32, further: &'static [Further]) -> Plain {
    let shader = shader!("attention.halves", 3, 7);
    let mut plain = Plain::new(&Pattern::ATTENTION, &["f16"], variant, shader, record)
        .with_every_attribute()
        .with_further(further, workspace);
    plain.fits = fits;
    plain.spec.rank = rank;
    plain.spec.tolerance = 1e-4;
    plain
}

static F16: Plain = of("flash", 20, SUBGROUP);
static WORKGROUPS_F16: Plain = {
    let mut plain = of("flash2", 30, WORKGROUP);
    plain.fits = fits_workgroups;
    plain
};
registry::register!(F16, WORKGROUPS_F16);
