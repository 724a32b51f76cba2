//! Products of many rows with the experts that each chose, by cooperative matrices:
//! vectors are put in the experts' order, so that each expert's matrix is decoded once
//! for a tile of them. See `expert_order.comp`, `expert_tiles.comp`, `coopmat.glsl`.

use crate::common::coopmat::{Way, check_pieces, fits_matrix, part_of, round, rounding};
use crate::common::coopmat_tiles::{self, Tile, X_ROWS};
use crate::common::launch::{Further, Gpu, Plain, Result, Shader, Step, shader};
use crate::common::stored::{Matrix, scheme_constant};
use graph::Op;
use hal::DeviceKind;
use registry::{Pattern, Problem, Scheme, TensorRef};

/// From so many vectors on they are put in order: fewer seldom share an expert.
const LEAST_VECTORS: usize = 128;
const SOFTWARE_LEAST_VECTORS: usize = 33;

/// What the problem asks for.
struct Shape {
    rows: usize,
    vectors: usize,
    experts: usize,
    n: usize,
    k: usize,
    /// Vectors of a row of x.
    x_vectors: usize,
}

impl Shape {
    fn of(problem: &Problem) -> std::result::Result<Shape, String> {
        let Op::ExpertLinear { experts } = problem.ops[0].op else {
            return Err("not an expert_linear".into());
        };
        let &[rows, vectors, n] = problem.outputs[0].shape.as_slice() else {
            return Err("y must be [T, k, N]".into());
        };
        let (_, w) = problem.input(0, 1).ok_or("the weight is missing")?;
        let (_, x) = problem.input(0, 0).ok_or("x is missing")?;
        let k = w.shape[1];
        Ok(Shape {
            rows,
            vectors,
            experts,
            n,
            k,
            x_vectors: if x.row_len() == k { 1 } else { vectors },
        })
    }

    fn x_bytes(&self) -> usize {
        self.rows.next_multiple_of(X_ROWS) * self.x_vectors * self.k * 2
    }

    fn order_at(&self) -> usize {
        self.experts + 1
    }

    fn tiles_at(&self) -> usize {
        self.order_at() + self.rows * self.vectors
    }

    /// Most tiles of so many rows.
    fn tiles(&self, rows: usize) -> usize {
        let all = self.rows * self.vectors;
        all.div_ceil(rows) + self.experts.min(all)
    }

    /// Words of all lists, tiles of as few rows as there are.
    fn words(&self) -> usize {
        self.tiles_at() + 1 + 3 * self.tiles(coopmat_tiles::LEAST_ROWS)
    }
}

fn fits(problem: &Problem, way: Way) -> std::result::Result<(), String> {
    fits_matrix(problem, way)?;
    let shape = Shape::of(problem)?;
    let least = match problem.device.kind {
        DeviceKind::Software => SOFTWARE_LEAST_VECTORS,
        _ => LEAST_VECTORS,
    };
    match shape.rows * shape.vectors {
        all if all >= least => Ok(()),
        all => Err(format!("for {least} vectors and more, not {all}")),
    }
}

fn constants(problem: &Problem, gpu: Gpu, way: Way) -> std::result::Result<Vec<u32>, String> {
    let (_, w) = problem.input(0, 1).ok_or("the weight is missing")?;
    let shape = way.shape(gpu).ok_or("the device lost its matrices")?;
    coopmat_tiles::of_subgroups(problem, gpu, shape, scheme_constant(w.scheme)?)
}

fn workspace(problem: &Problem) -> u64 {
    Shape::of(problem).map_or(0, |s| (s.x_bytes() + s.words() * 4) as u64)
}

/// Makes the lists for tiles of so many rows.
fn sort(step: &mut Step<'_>, shape: &Shape, lists: &TensorRef, tile: u32) -> Result<()> {
    let chosen = step.input(2)?;
    let mut args = step.args();
    let cs = args.rows(chosen)?;
    let at = args.words(lists)? as usize;
    let meta = args.step(&step.binds.step)?;
    args.count(meta, step.problem.outputs[0].rows)?;
    args.u32s(&[shape.vectors, shape.experts, cs.0, cs.1])?;
    args.u32s(&[at, at + shape.order_at()])?;
    let accesses = [chosen.read(), step.binds.step.read(), lists.write()];
    let lanes = step.further_constants(1).first().copied().unwrap_or(1);
    let groups = (shape.experts as u32 + 1).div_ceil(lanes);
    step.dispatch_further(1, &args, [groups, 1, 1], &accesses)?;

    let mut args = step.args();
    let from = args.words(lists)? as usize;
    let at = args.words(lists)? as usize + shape.tiles_at();
    args.u32s(&[shape.experts, from, at, tile as usize])?;
    step.dispatch_further(2, &args, [1, 1, 1], &[lists.read(), lists.write()])
}

fn record(step: &mut Step<'_>, way: Way) -> Result<()> {
    let shape = Shape::of(step.problem).map_err(|e| step.refuse(e))?;
    let (x, w) = (step.input(0)?, step.input(1)?);
    let matrix = Matrix::of(w).map_err(|e| step.refuse(e))?;
    let bias = match step.has_input(3) {
        true => Some(step.input(3)?),
        false => None,
    };
    let tile = Tile::of_subgroups(step.further_constants(0));
    let tile = tile.ok_or_else(|| step.refuse("it has no shader that multiplies"))?;
    let space = step.workspace()?;
    let row = shape.x_vectors * shape.k;
    let rounded = part_of(space, 0, [shape.x_bytes() / 2 / row, row], way.scheme());
    let lists = TensorRef {
        bytes: shape.words() as u64 * 4,
        ..part_of(space, shape.x_bytes(), [1, shape.words()], Scheme::F32)
    };
    round(step, x, &rounded)?;
    sort(step, &shape, &lists, tile.rows)?;
    let bound = step.limits().rows_per_binding(matrix.row, matrix.n) / shape.n;
    if bound == 0 {
        return Err(step.refuse("one expert's matrix is larger than a binding"));
    }
    for first in (0..shape.experts).step_by(bound) {
        let experts = bound.min(shape.experts - first);
        let (y, meta) = (step.output(), &step.binds.step);
        let mut args = step.args();
        let xs = args.bind(&rounded, 0, rounded.bytes, 16)? as usize;
        let ws = args.matrix(w, &matrix, first * shape.n, experts * shape.n)?;
        // What is not there is bound to something and never read.
        args.words(&rounded)?;
        let b = args.words(bias.unwrap_or(&rounded))? as usize;
        args.words(&rounded)?;
        let ys = args.rows(y)?;
        let step_at = args.step(meta)?;
        let at = args.words(&lists)? as usize;
        check_pieces(step, &matrix, &[ws])?;
        args.count(step_at, step.problem.outputs[0].rows)?;
        args.u32s(&[shape.n, shape.k, xs, ws, 0, matrix.stride()])?;
        args.u32s(&[b, usize::from(bias.is_some()), 0, 0])?;
        args.u32s(&[ys.0, ys.1, 0])?;
        args.u32s(&[shape.vectors, usize::from(shape.x_vectors > 1)])?;
        args.u32s(&[at + shape.order_at(), at + shape.tiles_at()])?;
        args.u32s(&[first, experts])?;
        let mut accesses = vec![rounded.read(), lists.read(), w.read(), meta.read()];
        accesses.push(y.write());
        accesses.extend(bias.map(TensorRef::read));
        let tiles = shape.tiles(tile.rows as usize) as u32;
        let groups = [tiles, (shape.n as u32).div_ceil(tile.columns), 1];
        step.dispatch_further(0, &args, groups, &accesses)?;
    }
    Ok(())
}

/// What makes the lists.
const ORDER: Further = Further {
    shader: shader!("common.expert_order", 3, 7),
    constants: |_, gpu| Ok(gpu.elementwise()),
};
const TILES: Further = Further {
    shader: shader!("common.expert_tiles", 2, 4),
    constants: |_, gpu| Ok(gpu.elementwise()),
};

/// The shaders behind the first of one way; `multiply` is what multiplies.
pub const fn further(way: Way, multiply: Shader) -> [Further; 3] {
    let multiply = Further {
        shader: multiply,
        constants: match way {
            Way::F16 => |problem, gpu| constants(problem, gpu, Way::F16),
            Way::Bf16 => |problem, gpu| constants(problem, gpu, Way::Bf16),
        },
    };
    [multiply, ORDER, TILES]
}

/// The kernel of one scheme; `further` are its shaders of that way.
pub const fn kernel(
    quant: &'static [&'static str],
    layouts: &'static [&'static str],
    way: Way,
    further: &'static [Further],
) -> Plain {
    let (variant, rank) = way.variant();
    let round: Shader = shader!("common.rounded", 3, 6);
    let mut plain = match way {
        Way::F16 => Plain::new(&Pattern::EXPERT_LINEAR, quant, variant, round, |step| {
            record(step, Way::F16)
        }),
        Way::Bf16 => Plain::new(&Pattern::EXPERT_LINEAR, quant, variant, round, |step| {
            record(step, Way::Bf16)
        }),
    };
    plain = plain.with_matrix(layouts).with_further(further, workspace);
    plain.fits = match way {
        Way::F16 => |problem| fits(problem, Way::F16),
        Way::Bf16 => |problem| fits(problem, Way::Bf16),
    };
    plain.constants = match way {
        Way::F16 => |_, gpu| rounding(gpu, Way::F16),
        Way::Bf16 => |_, gpu| rounding(gpu, Way::Bf16),
    };
    plain.spec.act = way.act();
    plain.spec.rank = rank;
    plain.spec.tolerance = 1e-4;
    plain
}
