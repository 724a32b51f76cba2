//! Tiles of products by cooperative matrices.

use crate::common::coopmat::{DEPTH, is_gated};
use crate::common::launch::Gpu;
use graph::OpKind;
use hal::DeviceKind;
use hal::vulkan::{CoopmatShape, WORKGROUP_LANES};
use registry::Problem;

/// Rows of x in the workspace are whole tiles of at most so many.
pub const X_ROWS: usize = 256;

/// Rows of the smallest tile.
pub const LEAST_ROWS: usize = 32;

/// Subgroups of a workgroup in which each multiplies matrices of its own.
const SUBGROUPS: u32 = 8;
const SOFTWARE_SUBGROUPS: u32 = 4;

/// Workgroups that keep a large device busy.
const MANY_GROUPS: usize = 128;

/// Rows and columns of experts' tiles in `coopmat2.glsl`.
const EXPERT_TILE: [u32; 2] = [64, 128];

/// Rows, and columns of each matrix, of a workgroup's tile.
#[derive(Clone, Copy)]
pub struct Tile {
    pub rows: u32,
    pub columns: u32,
}

impl Tile {
    /// Of `coopmat.glsl`.
    pub fn of_subgroups(constants: &[u32]) -> Option<Tile> {
        match constants {
            &[.., rows, columns, _, gated] => Some(Tile {
                rows,
                columns: columns / (1 + gated),
            }),
            _ => None,
        }
    }

    /// Of `coopmat2.glsl`.
    pub fn of_workgroups(constants: &[u32]) -> Option<Tile> {
        match constants {
            &[_, _, _, rows, columns, ..] => Some(Tile { rows, columns }),
            _ => None,
        }
    }
}

/// Constants of `coopmat2.glsl`: the largest tile of which there are enough.
pub fn of_workgroups(problem: &Problem, gpu: Gpu) -> Result<Vec<u32>, String> {
    let (_, w) = problem.input(0, 1).ok_or("a linear has a weight")?;
    let rows = problem.outputs[0].shape[0];
    let groups = |r: u32, c: u32| rows.div_ceil(r as usize) * w.shape[0].div_ceil(c as usize);
    let tiles = [[128, 256], [128, 128], [64, 128], [64, 64]];
    let enough = |t: &&[u32; 2]| groups(t[0], t[1]) >= MANY_GROUPS;
    whole_workgroups(
        *tiles.iter().find(enough).unwrap_or(&[64, 64]),
        w.shape[1],
        gpu,
    )
}

/// As [`of_workgroups`], of experts' rows: few choose the same expert.
pub fn of_expert_workgroups(problem: &Problem, gpu: Gpu) -> Result<Vec<u32>, String> {
    let (_, w) = problem.input(0, 1).ok_or("the weight is missing")?;
    whole_workgroups(EXPERT_TILE, w.shape[1], gpu)
}

fn whole_workgroups([rows, columns]: [u32; 2], k: usize, gpu: Gpu) -> Result<Vec<u32>, String> {
    let depth = match k.is_multiple_of(2 * DEPTH) {
        true => 2 * DEPTH as u32,
        false => DEPTH as u32,
    };
    let [rows, columns, depth] = match gpu.limits.coopmat_tile {
        Some(tile @ [r, c, d]) => {
            let is_one = |n: u32| [32, 64, 128, 256].contains(&n);
            if !is_one(r) || !is_one(c) || d == 0 || !(k as u32).is_multiple_of(d) {
                return Err(format!("{tile:?} is no tile of these matrices"));
            }
            tile
        }
        None => [rows, columns, depth],
    };
    let mut all = gpu.lanes(WORKGROUP_LANES);
    all.extend([rows, columns, depth]);
    Ok(all)
}

/// Constants of `coopmat.glsl` for matrices of `shape` and the scheme of which this is
/// the constant; behind them, whether tiles are of two matrices.
pub fn of_subgroups(
    problem: &Problem,
    gpu: Gpu,
    shape: CoopmatShape,
    scheme: u32,
) -> Result<Vec<u32>, String> {
    let [rows, columns, sub_rows] = tile_of_subgroups(problem, gpu)?;
    let subgroup = gpu.info.subgroup;
    let most = gpu.limits.workgroup_invocations / subgroup;
    let wanted = match gpu.info.kind {
        DeviceKind::Software => SOFTWARE_SUBGROUPS,
        _ => SUBGROUPS,
    };
    let subgroups = wanted.min(most);
    let mut all = gpu.lanes(subgroups * subgroup);
    all.push(scheme);
    all.extend([subgroup, shape.m, shape.n, shape.k]);
    all.extend([rows, columns, sub_rows]);
    let across = subgroups / sub_rows;
    // Gate and up take turns: pairs of matrices.
    let gated = u32::from(is_gated(problem));
    all.push(gated);
    let whole = rows.is_multiple_of(sub_rows * shape.m)
        && across > 0
        && columns.is_multiple_of(across * (1 + gated) * shape.n);
    match whole {
        true => Ok(all),
        false => Err(format!(
            "{subgroups} subgroups cannot share a tile of {shape:?}"
        )),
    }
}

/// Rows and columns of a workgroup's tile, subgroups along its rows.
fn tile_of_subgroups(problem: &Problem, gpu: Gpu) -> Result<[u32; 3], String> {
    let most = problem.outputs[0].shape[0];
    let [rows, columns, sub_rows] = match gpu.limits.coopmat_tile {
        Some(tile) => tile,
        None if gpu.info.kind == DeviceKind::Software => [32, 32, 2],
        // Few vectors choose the same expert.
        None if problem.ops[0].op.kind() == OpKind::ExpertLinear => [64, 128, 2],
        None if most <= 64 => [64, 64, 4],
        None => [128, 128, 2],
    };
    // Two stages, five pieces for each row of four.
    let shared = 2 * (rows + columns) * 5 * 16;
    let in_range = (LEAST_ROWS..=X_ROWS).contains(&(rows as usize));
    match shared <= gpu.limits.shared_memory && in_range {
        true => Ok([rows, columns, sub_rows]),
        false if gpu.limits.coopmat_tile.is_some() => Err(format!(
            "tiles of {rows} by {columns} take {shared} bytes of shared memory, {} has {}",
            gpu.info.name, gpu.limits.shared_memory
        )),
        false => Ok([64, 64, 4]),
    }
}
