//! Products of many rows with the experts that each chose, by matrices that a whole
//! workgroup multiplies as one: x is rounded to bf16 into the workspace in the experts'
//! order, weights are decoded to bf16 there, then both are multiplied tile by tile. See
//! `gathered.comp`, `coopmat2.glsl`, and `experts.rs` for the lists and the weights.

use crate::common::coopmat::{self, DECODED_ROWS, PIECE, Way, check_pieces, fits_matrix, part_of};
use crate::common::coopmat_tiles::{self, Tile, X_ROWS};
use crate::common::experts::{self, Scratch, Shape, pieces, sort};
use crate::common::launch::{Further, Plain, Result, Step, shader};
use crate::common::stored::Matrix;
use hal::vulkan::COOPMAT2_BF16;
use registry::{Pattern, Problem, Scheme, TensorRef};

/// From so many vectors for each expert on the matrices are decoded and multiplied so.
const MANY_VECTORS: usize = 8;

/// Most vectors: a workgroup or more for each of one dispatch.
const MOST_VECTORS: usize = 65_535;

fn fits(problem: &Problem) -> std::result::Result<(), String> {
    if !problem.device.features.contains(COOPMAT2_BF16) {
        return Err(format!("the device has no {COOPMAT2_BF16}"));
    }
    fits_matrix(problem, Way::Bf16)?;
    let shape = Shape::of(problem)?;
    experts::enough(problem, &shape)?;
    if !shape.has_many(MANY_VECTORS) {
        return Err(format!(
            "for many vectors of each of {} experts",
            shape.experts
        ));
    }
    if shape.rows * shape.vectors > MOST_VECTORS {
        return Err(format!("for {MOST_VECTORS} vectors at most"));
    }
    match decodes(problem, &shape) && !scratch(problem, &shape).decodes() {
        true => Err("one expert's matrix is larger than what is decoded at a time".into()),
        false => Ok(()),
    }
}

/// Whether weights are decoded first: else they are multiplied where they are, and each
/// expert's must be whole tiles there.
fn decodes(problem: &Problem, shape: &Shape) -> bool {
    let stored = problem
        .input(0, 1)
        .is_some_and(|(_, w)| w.scheme == Scheme::BF16);
    !stored || !shape.n.is_multiple_of(DECODED_ROWS)
}

/// Rows of x in the experts' order: tiles reach behind the last.
fn x_rows(shape: &Shape) -> usize {
    shape.rows * shape.vectors + X_ROWS
}

fn scratch(problem: &Problem, shape: &Shape) -> Scratch {
    Scratch::of(shape, x_rows(shape) * shape.k * 2, decodes(problem, shape))
}

fn workspace(problem: &Problem) -> u64 {
    Shape::of(problem).map_or(0, |s| scratch(problem, &s).bytes())
}

/// Rounds x to bf16 in the order of the lists.
fn gather(step: &mut Step<'_>, shape: &Shape, lists: &TensorRef, to: &TensorRef) -> Result<()> {
    let x = step.input(0)?;
    let mut args = step.args();
    let xs = args.rows(x)?;
    let order = args.words(lists)? as usize + shape.order_at();
    let gathered = args.bind(to, 0, to.bytes, 16)? as usize;
    let meta = args.step(&step.binds.step)?;
    args.count(meta, step.problem.outputs[0].rows)?;
    let apart = if shape.x_vectors > 1 { shape.k } else { 0 };
    args.u32s(&[shape.vectors, shape.k / PIECE, xs.0, xs.1, apart])?;
    let aligned = xs.0.is_multiple_of(4) && xs.1.is_multiple_of(4);
    args.u32s(&[order, gathered, usize::from(aligned)])?;
    let accesses = [x.read(), lists.read(), step.binds.step.read(), to.write()];
    let all = (shape.rows * shape.vectors) as u32;
    let groups = [step.groups_of(shape.k / PIECE), all, 1];
    step.dispatch_with(&args, groups, &accesses)
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let shape = Shape::of(step.problem).map_err(|e| step.refuse(e))?;
    let bias = match step.has_input(3) {
        true => Some(step.input(3)?),
        false => None,
    };
    let tile = Tile::of_workgroups(step.further_constants(0));
    let tile = tile.ok_or_else(|| step.refuse("it has no shader that multiplies"))?;
    let space = step.workspace()?;
    let scratch = scratch(step.problem, &shape);
    let lists = scratch.lists(space, &shape);
    let x = part_of(space, 0, [x_rows(&shape), shape.k], Scheme::BF16);
    sort(step, &shape, &lists, tile.rows)?;
    gather(step, &shape, &lists, &x)?;
    pieces(step, &shape, &scratch, Scheme::BF16, |step, piece| {
        let matrix = Matrix::of(&piece.w).map_err(|e| step.refuse(e))?;
        let (y, meta) = (step.output(), &step.binds.step);
        let mut args = step.args();
        let xs = args.bind(&x, 0, x.bytes, 16)? as usize;
        let ws = args.matrix(&piece.w, &matrix, piece.row, piece.rows)?;
        check_pieces(step, &matrix, &[ws])?;
        // Without a bias the binding is never read.
        let b = args.words(bias.unwrap_or(&x))? as usize;
        let ys = args.rows(y)?;
        let step_at = args.step(meta)?;
        let at = args.words(&lists)? as usize;
        args.count(step_at, step.problem.outputs[0].rows)?;
        args.u32s(&[shape.n, shape.k, xs, ws, matrix.stride()])?;
        args.u32s(&[b, usize::from(bias.is_some()), ys.0, ys.1])?;
        args.u32s(&[shape.vectors, at + shape.order_at(), at + shape.tiles_at()])?;
        args.u32s(&[piece.first, piece.experts])?;
        let mut accesses = vec![x.read(), lists.read(), piece.w.read(), meta.read()];
        accesses.push(y.write());
        accesses.extend(bias.map(TensorRef::read));
        let tiles = shape.tiles(tile.rows as usize) as u32;
        let groups = [tiles, (shape.n as u32).div_ceil(tile.columns), 1];
        step.dispatch_further(0, &args, groups, &accesses)
    })
}

const FURTHER: &[Further] = &[
    Further {
        shader: shader!("expert_linear.coopmat2", 6, 15),
        constants: coopmat_tiles::of_expert_workgroups,
    },
    coopmat::decoder(Way::Bf16),
    experts::ORDER,
    experts::TILES,
];

/// The kernel of one scheme.
pub const fn kernel(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    let gather = shader!("common.gathered", 4, 9);
    let mut plain = Plain::new(&Pattern::EXPERT_LINEAR, quant, "coopmat2", gather, record)
        .with_matrix(layouts)
        .with_further(FURTHER, workspace);
    plain.fits = fits;
    plain.spec.act = Way::Bf16.act();
    plain.spec.rank = 50;
    plain.spec.tolerance = 1e-4;
    plain
}
