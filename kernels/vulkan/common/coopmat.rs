//! Products of many rows by cooperative matrices: x is rounded to 16 bits into the
//! workspace, then multiplied tile by tile. See `coopmat.glsl`.

use crate::common::launch::{Gpu, Plain, Result, Second, Shader, Step, shader};
use crate::common::linear::MOST_FEW_ROWS;
use crate::common::stored::{Matrix, scheme_constant};
use hal::DeviceKind;
use hal::vulkan::{COOPMAT_BF16, COOPMAT_F16, CoopmatShape};
use registry::{Act, Pattern, Problem, Scheme, TensorRef};

/// K is taken in steps of so many.
const DEPTH: usize = 32;

/// Elements of a piece of 16 bytes.
const PIECE: usize = 8;

/// Rows of the workspace are whole tiles of at most so many.
const MOST_TILE_ROWS: usize = 256;

/// Subgroups of a workgroup.
const SUBGROUPS: u32 = 8;
const SOFTWARE_SUBGROUPS: u32 = 4;

/// What the factors are rounded to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Factor {
    F16,
    Bf16,
}

impl Factor {
    const fn act(self) -> Act {
        match self {
            Factor::F16 => Act::F16,
            Factor::Bf16 => Act::Bf16,
        }
    }

    fn scheme(self) -> Scheme {
        match self {
            Factor::F16 => Scheme::F16,
            Factor::Bf16 => Scheme::BF16,
        }
    }

    fn feature(self) -> &'static str {
        match self {
            Factor::F16 => COOPMAT_F16,
            Factor::Bf16 => COOPMAT_BF16,
        }
    }

    fn shape(self, gpu: Gpu) -> Option<CoopmatShape> {
        match self {
            Factor::F16 => gpu.limits.coopmat.f16,
            Factor::Bf16 => gpu.limits.coopmat.bf16,
        }
    }
}

/// Whether the problem has a second matrix and its product with the first.
fn is_gated(problem: &Problem) -> bool {
    problem.ops.len() > 1
}

fn fits(problem: &Problem, factor: Factor) -> std::result::Result<(), String> {
    if !problem.device.features.contains(factor.feature()) {
        return Err(format!("the device has no {}", factor.feature()));
    }
    let rows = problem.outputs[0].shape[0];
    if rows <= MOST_FEW_ROWS {
        return Err(format!("for more than {MOST_FEW_ROWS} rows, not {rows}"));
    }
    let (_, w) = problem.input(0, 1).ok_or("a linear has a weight")?;
    match w.shape.as_slice() {
        [_, k] if k.is_multiple_of(DEPTH) && *k > 0 => {}
        shape => return Err(format!("for K in steps of {DEPTH}, not {shape:?}")),
    }
    Ok(())
}

/// Rows and columns of a workgroup's tile, subgroups along its rows.
struct Tile {
    rows: u32,
    columns: u32,
    sub_rows: u32,
}

impl Tile {
    fn of(problem: &Problem, gpu: Gpu) -> std::result::Result<Tile, String> {
        let most = problem.outputs[0].shape[0];
        let [rows, columns, sub_rows] = match gpu.limits.coopmat_tile {
            Some(tile) => tile,
            None if gpu.info.kind == DeviceKind::Software => [32, 32, 2],
            None if most <= 64 => [64, 64, 4],
            None => [128, 128, 2],
        };
        // Two stages, five pieces for each row of four.
        let shared = 2 * (rows + columns) * 5 * 16;
        match shared <= gpu.limits.shared_memory && rows as usize <= MOST_TILE_ROWS {
            true => Ok(Tile {
                rows,
                columns,
                sub_rows,
            }),
            false if gpu.limits.coopmat_tile.is_some() => Err(format!(
                "tiles of {rows} by {columns} take {shared} bytes of shared memory, {} has {}",
                gpu.info.name, gpu.limits.shared_memory
            )),
            false => Ok(Tile {
                rows: 64,
                columns: 64,
                sub_rows: 4,
            }),
        }
    }
}

fn constants(problem: &Problem, gpu: Gpu, factor: Factor) -> std::result::Result<Vec<u32>, String> {
    let (_, w) = problem.input(0, 1).ok_or("a linear has a weight")?;
    let shape = factor.shape(gpu).ok_or("the device lost its matrices")?;
    let tile = Tile::of(problem, gpu)?;
    let subgroup = gpu.info.subgroup;
    let most = gpu.limits.workgroup_invocations / subgroup;
    let wanted = match gpu.info.kind {
        DeviceKind::Software => SOFTWARE_SUBGROUPS,
        _ => SUBGROUPS,
    };
    let subgroups = wanted.min(most);
    let mut all = gpu.lanes(subgroups * subgroup);
    all.push(scheme_constant(w.scheme)?);
    all.extend([subgroup, shape.m, shape.n, shape.k]);
    all.extend([tile.rows, tile.columns, tile.sub_rows]);
    let across = subgroups / tile.sub_rows;
    // Gate and up take turns: pairs of matrices.
    let columns = if is_gated(problem) {
        2 * shape.n
    } else {
        shape.n
    };
    let whole = (tile.rows).is_multiple_of(tile.sub_rows * shape.m)
        && across > 0
        && (tile.columns).is_multiple_of(across * columns);
    match whole {
        true => Ok(all),
        false => Err(format!(
            "{subgroups} subgroups cannot share a tile of {shape:?}"
        )),
    }
}

fn workspace(problem: &Problem) -> u64 {
    let rows = problem.outputs[0].shape[0].next_multiple_of(MOST_TILE_ROWS);
    let k = problem.input(0, 1).map_or(0, |(_, w)| w.shape[1]);
    (rows * k * 2) as u64
}

/// Rounds x into the workspace.
fn round(step: &mut Step<'_>, x: &TensorRef, k: usize) -> Result<()> {
    let to = step.workspace()?;
    let mut args = step.args();
    let xs = args.rows(x)?;
    let rounded = args.bind(to, 0, to.bytes, 16)? as usize;
    let meta = args.step(&step.binds.step)?;
    args.count(meta, step.problem.outputs[0].rows)?;
    let aligned = xs.0.is_multiple_of(4) && xs.1.is_multiple_of(4);
    args.u32s(&[k / PIECE, xs.0, xs.1, rounded, usize::from(aligned)])?;
    let accesses = [x.read(), step.binds.step.read(), to.write()];
    let groups = step.groups_of(k / PIECE);
    let rows = step.max_rows().next_multiple_of(MOST_TILE_ROWS as u32);
    step.dispatch_with(&args, [groups, rows, 1], &accesses)
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let gated = is_gated(step.problem);
    let (x, w) = (step.input(0)?, step.input(1)?);
    let matrix = Matrix::of(w).map_err(|e| step.refuse(e))?;
    let up = match gated {
        true => Some(step.operand(1, 1)?),
        false => None,
    };
    let bias = |op: usize| match step.problem.input(op, 2) {
        Some(_) => step.operand(op, 2).map(Some),
        None => Ok(None),
    };
    let biases = [bias(0)?, if gated { bias(1)? } else { None }];
    round(step, x, matrix.k)?;
    let rounded = step.workspace()?;
    let (y, meta) = (step.output(), &step.binds.step);
    let &[.., tile_rows, tile_columns, _] = step.second_constants else {
        return Err(step.refuse("it has no second shader"));
    };
    let columns = tile_columns / if gated { 2 } else { 1 };
    for (first, n) in step.row_parts(&matrix)? {
        let mut args = step.args();
        let xs = args.bind(rounded, 0, rounded.bytes, 16)? as usize;
        let ws = args.matrix(w, &matrix, first, n)?;
        // What is not there is bound to something and never read.
        let other = match up {
            Some(up) => args.matrix(up, &matrix, first, n)?,
            None => args.words(x)? as usize,
        };
        check_pieces(step, &matrix, &[ws, if gated { other } else { 0 }])?;
        let [b, other_b] = biases.map(|b| args.words(b.unwrap_or(x)));
        let ys = args.rows(y)?;
        let step_at = args.step(meta)?;
        args.count(step_at, step.problem.outputs[0].rows)?;
        args.u32s(&[n, matrix.k, xs, ws, other, matrix.stride()])?;
        args.u32s(&[b? as usize + first, usize::from(biases[0].is_some())])?;
        args.u32s(&[other_b? as usize + first, usize::from(biases[1].is_some())])?;
        args.u32s(&[ys.0 + first, ys.1])?;
        let aligned = [ys.0 + first, ys.1].iter().all(|at| at.is_multiple_of(4));
        args.u32(usize::from(aligned))?;
        let mut accesses = vec![rounded.read(), w.read(), meta.read(), y.write()];
        accesses.extend(
            up.into_iter()
                .chain(biases.into_iter().flatten())
                .map(|t| t.read()),
        );
        let groups = [
            step.max_rows().div_ceil(tile_rows),
            (n as u32).div_ceil(columns),
            1,
        ];
        step.dispatch_second(&args, groups, &accesses)?;
    }
    Ok(())
}

/// Weights are read in pieces of 16 bytes.
fn check_pieces(step: &Step<'_>, matrix: &Matrix, firsts: &[usize]) -> Result<()> {
    let aligned = matrix.is_aligned(firsts, (0, 0));
    match aligned.map_err(|e| step.refuse(e))? {
        true => Ok(()),
        false => Err(step.refuse("a matrix must begin at a multiple of 16 bytes")),
    }
}

/// The kernel of one pattern, scheme and factor.
pub const fn kernel(
    pattern: &'static Pattern,
    quant: &'static [&'static str],
    layouts: &'static [&'static str],
    factor: Factor,
    gemm: Shader,
) -> Plain {
    let (variant, rank) = match factor {
        Factor::F16 => ("coopmat_f16", 30),
        Factor::Bf16 => ("coopmat", 40),
    };
    let round = shader!("common.rounded", 3, 6);
    let second = Second {
        shader: gemm,
        constants: match factor {
            Factor::F16 => |problem, gpu| constants(problem, gpu, Factor::F16),
            Factor::Bf16 => |problem, gpu| constants(problem, gpu, Factor::Bf16),
        },
    };
    let mut plain = Plain::new(pattern, quant, variant, round, record)
        .with_matrix(layouts)
        .with_second(second, workspace);
    plain.fits = match factor {
        Factor::F16 => |problem| fits(problem, Factor::F16),
        Factor::Bf16 => |problem| fits(problem, Factor::Bf16),
    };
    plain.constants = match factor {
        Factor::F16 => |_, gpu| rounding(gpu, Factor::F16),
        Factor::Bf16 => |_, gpu| rounding(gpu, Factor::Bf16),
    };
    plain.spec.act = factor.act();
    plain.spec.rank = rank;
    plain.spec.tolerance = 1e-4;
    plain
}

fn rounding(gpu: Gpu, factor: Factor) -> std::result::Result<Vec<u32>, String> {
    let mut all = gpu.elementwise();
    all.push(scheme_constant(factor.scheme())?);
    Ok(all)
}
