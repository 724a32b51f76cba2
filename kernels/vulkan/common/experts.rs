//! Products of many rows with the experts that each chose, by cooperative matrices:
//! vectors are put in the experts' order, so that each expert's matrix is decoded once
//! for a tile of them, or, where they are many, once at all: into the workspace, as many
//! experts at a time as fit. See `expert_order.comp`, `expert_tiles.comp`,
//! `coopmat.glsl`, and `experts2.rs` for workgroups that multiply as one.

use crate::common::coopmat::{
    self, DECODED_ROWS, MOST_DECODED, MOST_GROUPS, Way, check_pieces, decode, fits_matrix, part_of,
    round, rounding,
};
use crate::common::coopmat_tiles::{self, Tile, X_ROWS};
use crate::common::launch::{Further, Gpu, Plain, Result, Shader, Step, shader};
use crate::common::stored::{Matrix, scheme_constant};
use graph::Op;
use hal::DeviceKind;
use registry::{Pattern, Problem, Scheme, TensorRef};

/// From so many vectors on they are put in order: fewer seldom share an expert.
const LEAST_VECTORS: usize = 128;
const SOFTWARE_LEAST_VECTORS: usize = 33;

/// From so many vectors for each expert on, matrices are decoded to the workspace: a
/// matrix that few tiles share is as soon decoded for each of them.
const MANY_VECTORS: usize = 128;
const SOFTWARE_MANY_VECTORS: usize = 8;

/// The decoded weights of one piece are multiplied while the next are decoded.
const BUFFERS: usize = 2;

/// What the problem asks for.
pub struct Shape {
    pub rows: usize,
    pub vectors: usize,
    pub experts: usize,
    pub n: usize,
    pub k: usize,
    /// Vectors of a row of x.
    pub x_vectors: usize,
}

impl Shape {
    pub fn of(problem: &Problem) -> std::result::Result<Shape, String> {
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

    pub fn order_at(&self) -> usize {
        self.experts + 1
    }

    pub fn tiles_at(&self) -> usize {
        self.order_at() + self.rows * self.vectors
    }

    /// Most tiles of so many rows.
    pub fn tiles(&self, rows: usize) -> usize {
        let all = self.rows * self.vectors;
        all.div_ceil(rows) + self.experts.min(all)
    }

    /// Whether there are so many vectors for each expert.
    pub fn has_many(&self, vectors: usize) -> bool {
        self.rows * self.vectors >= vectors * self.experts
    }

    /// Words of all lists, tiles of as few rows as there are.
    fn words(&self) -> usize {
        self.tiles_at() + 1 + 3 * self.tiles(coopmat_tiles::LEAST_ROWS)
    }
}

/// What lies in the workspace, in bytes: x, the lists, decoded weights.
pub struct Scratch {
    lists: usize,
    decoded: usize,
    /// Bytes of a buffer of decoded weights.
    buffer: usize,
    /// Experts of a buffer; 0 if weights are not decoded.
    experts: usize,
}

impl Scratch {
    /// Behind x of so many bytes, of weights that are decoded if they can be.
    pub fn of(shape: &Shape, x_bytes: usize, decodes: bool) -> Scratch {
        let expert = shape.n * shape.k * 2;
        // Tiles may reach behind the last matrix.
        let behind = match shape.n.is_multiple_of(DECODED_ROWS) {
            true => 0,
            false => DECODED_ROWS * shape.k * 2,
        };
        let most = MOST_DECODED.saturating_sub(behind) / expert.max(1);
        let most = most.min(MOST_GROUPS / shape.n.max(1));
        // As large as one another, so that the last is not a small one.
        let experts = match decodes && most > 0 {
            true => shape.experts.div_ceil(shape.experts.div_ceil(most)),
            false => 0,
        };
        let buffer = match experts {
            0 => 0,
            experts => experts * expert + behind,
        };
        let lists = x_bytes.next_multiple_of(256);
        Scratch {
            lists,
            decoded: (lists + shape.words() * 4).next_multiple_of(256),
            buffer,
            experts,
        }
    }

    pub fn bytes(&self) -> u64 {
        (self.decoded + BUFFERS * self.buffer) as u64
    }

    pub fn decodes(&self) -> bool {
        self.experts > 0
    }

    pub fn lists(&self, space: &TensorRef, shape: &Shape) -> TensorRef {
        TensorRef {
            bytes: shape.words() as u64 * 4,
            ..part_of(space, self.lists, [1, shape.words()], Scheme::F32)
        }
    }

    /// The buffer of piece `i`.
    fn buffer(&self, space: &TensorRef, shape: &Shape, i: usize, scheme: Scheme) -> TensorRef {
        let rows = self.buffer / 2 / shape.k;
        let at = self.decoded + i % BUFFERS * self.buffer;
        part_of(space, at, [rows, shape.k], scheme)
    }
}

/// Matrices of some experts as they are multiplied.
pub struct Piece {
    pub w: TensorRef,
    /// The first of its rows, and how many are bound.
    pub row: usize,
    pub rows: usize,
    pub first: usize,
    pub experts: usize,
}

/// Multiplies all experts, piece by piece, by `multiply`; decoded to `scheme` if the
/// scratch has room for that.
pub fn pieces(
    step: &mut Step<'_>,
    shape: &Shape,
    scratch: &Scratch,
    scheme: Scheme,
    mut multiply: impl FnMut(&mut Step<'_>, &Piece) -> Result<()>,
) -> Result<()> {
    let (w, space) = (step.input(1)?, step.workspace()?);
    let matrix = Matrix::of(w).map_err(|e| step.refuse(e))?;
    let bound = step.limits().rows_per_binding(matrix.row, matrix.n) / shape.n;
    if bound == 0 {
        return Err(step.refuse("one expert's matrix is larger than a binding"));
    }
    let most = match scratch.experts {
        0 => bound,
        experts => experts.min(bound),
    };
    let count = |first: usize| most.min(shape.experts - first);
    let decode_piece = |step: &mut Step<'_>, i: usize| {
        let first = i * most;
        match scratch.decodes() && first < shape.experts {
            true => {
                let to = scratch.buffer(space, shape, i, scheme);
                decode(step, w, first * shape.n, count(first) * shape.n, &to)
            }
            false => Ok(()),
        }
    };
    decode_piece(step, 0)?;
    for i in 0..shape.experts.div_ceil(most) {
        let first = i * most;
        let experts = count(first);
        let piece = match scratch.decodes() {
            true => {
                let w = scratch.buffer(space, shape, i, scheme);
                let rows = w.shape[0];
                Piece {
                    w,
                    row: 0,
                    rows,
                    first,
                    experts,
                }
            }
            false => Piece {
                w: w.clone(),
                row: first * shape.n,
                rows: experts * shape.n,
                first,
                experts,
            },
        };
        multiply(step, &piece)?;
        // Recorded behind the product that it may run beside.
        decode_piece(step, i + 1)?;
    }
    Ok(())
}

fn fits(problem: &Problem, way: Way) -> std::result::Result<(), String> {
    fits_matrix(problem, way)?;
    enough(problem, &Shape::of(problem)?)
}

/// Whether there are enough vectors to put in order.
pub fn enough(problem: &Problem, shape: &Shape) -> std::result::Result<(), String> {
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
    let scheme = match Shape::of(problem).is_ok_and(|s| scratch(problem, &s, way).decodes()) {
        true => way.scheme(),
        false => w.scheme,
    };
    coopmat_tiles::of_subgroups(problem, gpu, shape, scheme_constant(scheme)?)
}

fn scratch(problem: &Problem, shape: &Shape, way: Way) -> Scratch {
    let stored = (problem.input(0, 1)).is_none_or(|(_, w)| w.scheme == way.scheme());
    let many = match problem.device.kind {
        DeviceKind::Software => SOFTWARE_MANY_VECTORS,
        _ => MANY_VECTORS,
    };
    Scratch::of(shape, shape.x_bytes(), !stored && shape.has_many(many))
}

fn workspace(problem: &Problem, way: Way) -> u64 {
    Shape::of(problem).map_or(0, |s| scratch(problem, &s, way).bytes())
}

/// Makes the lists for tiles of so many rows.
pub fn sort(step: &mut Step<'_>, shape: &Shape, lists: &TensorRef, tile: u32) -> Result<()> {
    let chosen = step.input(2)?;
    let mut args = step.args();
    let cs = args.rows(chosen)?;
    let at = args.words(lists)? as usize;
    let meta = args.step(&step.binds.step)?;
    args.count(meta, step.problem.outputs[0].rows)?;
    args.u32s(&[shape.vectors, shape.experts, cs.0, cs.1])?;
    args.u32s(&[at, at + shape.order_at()])?;
    let accesses = [chosen.read(), step.binds.step.read(), lists.write()];
    let groups = [shape.experts as u32 + 1, 1, 1];
    step.dispatch_further(2, &args, groups, &accesses)?;

    let mut args = step.args();
    let from = args.words(lists)? as usize;
    let at = args.words(lists)? as usize + shape.tiles_at();
    args.u32s(&[shape.experts, from, at, tile as usize])?;
    step.dispatch_further(3, &args, [1, 1, 1], &[lists.read(), lists.write()])
}

fn record(step: &mut Step<'_>, way: Way) -> Result<()> {
    let shape = Shape::of(step.problem).map_err(|e| step.refuse(e))?;
    let x = step.input(0)?;
    let bias = match step.has_input(3) {
        true => Some(step.input(3)?),
        false => None,
    };
    let tile = Tile::of_subgroups(step.further_constants(0));
    let tile = tile.ok_or_else(|| step.refuse("it has no shader that multiplies"))?;
    let space = step.workspace()?;
    let row = shape.x_vectors * shape.k;
    let rounded = part_of(space, 0, [shape.x_bytes() / 2 / row, row], way.scheme());
    let scratch = scratch(step.problem, &shape, way);
    let lists = scratch.lists(space, &shape);
    round(step, x, &rounded)?;
    sort(step, &shape, &lists, tile.rows)?;
    pieces(step, &shape, &scratch, way.scheme(), |step, piece| {
        let matrix = Matrix::of(&piece.w).map_err(|e| step.refuse(e))?;
        let (y, meta) = (step.output(), &step.binds.step);
        let mut args = step.args();
        let xs = args.bind(&rounded, 0, rounded.bytes, 16)? as usize;
        let ws = args.matrix(&piece.w, &matrix, piece.row, piece.rows)?;
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
        args.u32s(&[piece.first, piece.experts])?;
        let mut accesses = vec![rounded.read(), lists.read(), piece.w.read(), meta.read()];
        accesses.push(y.write());
        accesses.extend(bias.map(TensorRef::read));
        let tiles = shape.tiles(tile.rows as usize) as u32;
        let groups = [tiles, (shape.n as u32).div_ceil(tile.columns), 1];
        step.dispatch_further(0, &args, groups, &accesses)
    })
}

/// What makes the lists.
pub const ORDER: Further = Further {
    shader: shader!("common.expert_order", 3, 7),
    constants: |_, gpu| Ok(gpu.elementwise()),
};
pub const TILES: Further = Further {
    shader: shader!("common.expert_tiles", 2, 4),
    constants: |_, gpu| Ok(gpu.elementwise()),
};

/// The shaders behind the first of one way; `multiply` is what multiplies.
pub const fn further(way: Way, multiply: Shader) -> [Further; 4] {
    let multiply = Further {
        shader: multiply,
        constants: match way {
            Way::F16 => |problem, gpu| constants(problem, gpu, Way::F16),
            Way::Bf16 => |problem, gpu| constants(problem, gpu, Way::Bf16),
        },
    };
    [multiply, coopmat::decoder(way), ORDER, TILES]
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
    plain = plain.with_matrix(layouts).with_further(
        further,
        match way {
            Way::F16 => |problem| workspace(problem, Way::F16),
            Way::Bf16 => |problem| workspace(problem, Way::Bf16),
        },
    );
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
