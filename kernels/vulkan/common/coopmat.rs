//! Products of many rows by cooperative matrices: x is rounded to 16 bits into the
//! workspace, so are the weights where rows are many, then both are multiplied tile by
//! tile. See `coopmat.glsl`.

use crate::common::coopmat_tiles::{self, Tile, X_ROWS};
use crate::common::launch::{Further, Gpu, Plain, Result, Shader, Step, shader};
use crate::common::linear::MOST_FEW_ROWS;
use crate::common::stored::{Matrix, scheme_constant};
use hal::DeviceKind;
use hal::vulkan::{COOPMAT_BF16, COOPMAT_F16, COOPMAT2_BF16, CoopmatShape};
use registry::{Act, Pattern, Problem, ROW_MAJOR, Scheme, TensorRef};

/// K is taken in steps of so many.
pub const DEPTH: usize = 32;

/// Elements of a piece of 16 bytes.
pub const PIECE: usize = 8;

/// From so many rows on a weight is decoded once, not for each tile of rows.
const MANY_ROWS: usize = 256;
const SOFTWARE_MANY_ROWS: usize = 33;

/// Most bytes of decoded weights at a time, and what their rows come in.
pub const MOST_DECODED: usize = 128 << 20;
pub const DECODED_ROWS: usize = 256;

/// A gate's weights from which on workgroups that multiply as one do it faster, and up
/// after it.
const LARGE_GATE: usize = 1 << 20;

/// Most rows of a dispatch, one workgroup or more for each.
pub const MOST_GROUPS: usize = 32768;

/// Who multiplies what.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A subgroup multiplies matrices of f16.
    F16,
    /// A subgroup multiplies matrices of bf16.
    Bf16,
}

impl Way {
    pub const fn act(self) -> Act {
        match self {
            Way::F16 => Act::F16,
            Way::Bf16 => Act::Bf16,
        }
    }

    /// The variant's name and rank.
    pub const fn variant(self) -> (&'static str, i32) {
        match self {
            Way::F16 => ("coopmat_f16", 30),
            Way::Bf16 => ("coopmat", 40),
        }
    }

    /// What factors are rounded to.
    pub fn scheme(self) -> Scheme {
        match self {
            Way::F16 => Scheme::F16,
            Way::Bf16 => Scheme::BF16,
        }
    }

    fn feature(self) -> &'static str {
        match self {
            Way::F16 => COOPMAT_F16,
            Way::Bf16 => COOPMAT_BF16,
        }
    }

    pub fn shape(self, gpu: Gpu) -> Option<CoopmatShape> {
        match self {
            Way::F16 => gpu.limits.coopmat.f16,
            Way::Bf16 => gpu.limits.coopmat.bf16,
        }
    }

    /// Whether weights are decoded to the workspace first.
    fn decodes(self, problem: &Problem) -> bool {
        let Some((_, w)) = problem.input(0, 1) else {
            return false;
        };
        let stored = w.scheme == self.scheme();
        let many = match problem.device.kind {
            DeviceKind::Software => SOFTWARE_MANY_ROWS,
            _ => MANY_ROWS,
        };
        !stored && problem.outputs[0].shape[0] >= many
    }
}

/// Whether the problem has a second matrix and its product with the first.
pub fn is_gated(problem: &Problem) -> bool {
    problem.ops.len() > 1
}

fn fits(problem: &Problem, way: Way) -> std::result::Result<(), String> {
    fits_matrix(problem, way)?;
    let large = problem.input(0, 1);
    let large = large.is_some_and(|(_, w)| w.shape.iter().product::<usize>() >= LARGE_GATE);
    if is_gated(problem) && large && problem.device.features.contains(COOPMAT2_BF16) {
        return Err(format!(
            "from {LARGE_GATE} weights on coopmat2 and a gated product behind it are faster"
        ));
    }
    match problem.outputs[0].shape[0] {
        rows if rows > MOST_FEW_ROWS => Ok(()),
        rows => Err(format!("for more than {MOST_FEW_ROWS} rows, not {rows}")),
    }
}

/// Whether the device multiplies such matrices and they come in whole steps.
pub fn fits_matrix(problem: &Problem, way: Way) -> std::result::Result<(), String> {
    if !problem.device.features.contains(way.feature()) {
        return Err(format!("the device has no {}", way.feature()));
    }
    let (_, w) = problem.input(0, 1).ok_or("a linear has a weight")?;
    match w.shape.as_slice() {
        [_, k] if k.is_multiple_of(DEPTH) && *k > 0 => Ok(()),
        shape => Err(format!("for K in steps of {DEPTH}, not {shape:?}")),
    }
}

/// Constants of the shader that multiplies.
pub fn multiplying(problem: &Problem, gpu: Gpu, way: Way) -> std::result::Result<Vec<u32>, String> {
    let (_, w) = problem.input(0, 1).ok_or("a linear has a weight")?;
    let shape = way.shape(gpu).ok_or("the device lost its matrices")?;
    let scheme = match way.decodes(problem) {
        true => way.scheme(),
        false => w.scheme,
    };
    coopmat_tiles::of_subgroups(problem, gpu, shape, scheme_constant(scheme)?)
}

/// Where x and decoded weights lie in the workspace, in bytes.
pub struct Scratch {
    pub x: usize,
    /// Rows of decoded weights at a time of each matrix; 0 if they are not decoded.
    pub columns: usize,
    /// Bytes of those of one matrix.
    pub decoded: usize,
}

impl Scratch {
    /// Of so many matrices at a time, decoded or where they are.
    pub fn of(problem: &Problem, decodes: bool, matrices: usize) -> Scratch {
        let rows = problem.outputs[0].shape[0].next_multiple_of(X_ROWS);
        let (n, k) = (problem.input(0, 1)).map_or((0, 0), |(_, w)| (w.shape[0], w.shape[1]));
        let most = MOST_DECODED / (2 * k * matrices).max(1) / DECODED_ROWS * DECODED_ROWS;
        let columns = match decodes {
            true => (n.next_multiple_of(DECODED_ROWS)).min(most.clamp(DECODED_ROWS, MOST_GROUPS)),
            false => 0,
        };
        Scratch {
            x: rows * k * 2,
            columns,
            decoded: columns * k * 2,
        }
    }
}

fn workspace(problem: &Problem, way: Way) -> u64 {
    let matrices = if is_gated(problem) { 2 } else { 1 };
    let scratch = Scratch::of(problem, way.decodes(problem), matrices);
    (scratch.x + matrices * scratch.decoded) as u64
}

/// Part of the workspace as an operand of 16-bit numbers.
pub fn part_of(whole: &TensorRef, at: usize, shape: [usize; 2], scheme: Scheme) -> TensorRef {
    TensorRef {
        buffer: whole.buffer.clone(),
        offset: whole.offset + at as u64,
        shape: shape.to_vec(),
        strides: vec![shape[1], 1],
        scheme,
        layout: ROW_MAJOR,
        bytes: (shape[0] * shape[1] * 2) as u64,
    }
}

/// Rounds x into the workspace.
pub fn round(step: &mut Step<'_>, x: &TensorRef, to: &TensorRef) -> Result<()> {
    let k = to.shape[1];
    let mut args = step.args();
    let xs = args.rows(x)?;
    let rounded = args.bind(to, 0, to.bytes, 16)? as usize;
    let meta = args.step(&step.binds.step)?;
    args.count(meta, step.problem.outputs[0].rows)?;
    let aligned = xs.0.is_multiple_of(4) && xs.1.is_multiple_of(4);
    args.u32s(&[k / PIECE, xs.0, xs.1, rounded, usize::from(aligned)])?;
    let accesses = [x.read(), step.binds.step.read(), to.write()];
    let groups = step.groups_of(k / PIECE);
    step.dispatch_with(&args, [groups, to.shape[0] as u32, 1], &accesses)
}

/// Decodes the rows of `w` from `first` on into the workspace, as many as `to` has.
pub fn decode(
    step: &mut Step<'_>,
    w: &TensorRef,
    first: usize,
    n: usize,
    to: &TensorRef,
) -> Result<()> {
    let matrix = Matrix::of(w).map_err(|e| step.refuse(e))?;
    let mut args = step.args();
    let ws = args.matrix(w, &matrix, first, n)?;
    check_pieces(step, &matrix, &[ws])?;
    let decoded = args.bind(to, 0, to.bytes, 16)? as usize;
    args.u32s(&[n, matrix.k, ws, matrix.stride(), decoded])?;
    let lanes = step.further_constants(1).first().copied().unwrap_or(1) as usize;
    let pieces = matrix.k / PIECE;
    let rows = n.div_ceil((lanes / pieces).max(1));
    let groups = [pieces.div_ceil(lanes) as u32, rows as u32, 1];
    step.dispatch_further(1, &args, groups, &[w.read(), to.write()])
}

fn record(step: &mut Step<'_>, way: Way) -> Result<()> {
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
    let matrices = if gated { 2 } else { 1 };
    let scratch = Scratch::of(step.problem, way.decodes(step.problem), matrices);
    let space = step.workspace()?;
    let shape = [scratch.x / 2 / matrix.k, matrix.k];
    let rounded = part_of(space, 0, shape, way.scheme());
    round(step, x, &rounded)?;
    let tile = Tile::of_subgroups(step.further_constants(0));
    let tile = tile.ok_or_else(|| step.refuse("it has no shader that multiplies"))?;
    for (from, n) in step.row_parts(&matrix)? {
        let most = match scratch.columns {
            0 => n,
            columns => columns,
        };
        for first in (from..from + n).step_by(most) {
            let n = most.min(from + n - first);
            let mut rows = Rows {
                w: w.clone(),
                up: up.cloned(),
                first,
                bound: n,
            };
            if scratch.columns > 0 {
                let shape = [scratch.columns, matrix.k];
                let to = |i: usize| {
                    let at = scratch.x + i * scratch.decoded;
                    part_of(space, at, shape, way.scheme())
                };
                decode(step, w, first, n, &to(0))?;
                if let Some(up) = up {
                    decode(step, up, first, n, &to(1))?;
                }
                rows = Rows {
                    w: to(0),
                    up: gated.then(|| to(1)),
                    first: 0,
                    bound: scratch.columns,
                };
            }
            multiply(step, &rounded, &rows, (first, n), biases, tile)?;
        }
    }
    Ok(())
}

/// Weights as the shader that multiplies reads them.
struct Rows {
    w: TensorRef,
    up: Option<TensorRef>,
    first: usize,
    /// Rows that are bound: as many as tiles reach.
    bound: usize,
}

fn multiply(
    step: &mut Step<'_>,
    x: &TensorRef,
    rows: &Rows,
    (first, n): (usize, usize),
    biases: [Option<&TensorRef>; 2],
    tile: Tile,
) -> Result<()> {
    let matrix = Matrix::of(&rows.w).map_err(|e| step.refuse(e))?;
    let (y, meta) = (step.output(), &step.binds.step);
    let mut args = step.args();
    let xs = args.bind(x, 0, x.bytes, 16)? as usize;
    let ws = args.matrix(&rows.w, &matrix, rows.first, rows.bound)?;
    // What is not there is bound to something and never read.
    let (other, pieces) = match &rows.up {
        Some(up) => {
            let other = args.matrix(up, &matrix, rows.first, rows.bound)?;
            (other, [ws, other])
        }
        None => (args.words(x)? as usize, [ws, ws]),
    };
    check_pieces(step, &matrix, &pieces)?;
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
    let mut accesses = vec![x.read(), rows.w.read(), meta.read(), y.write()];
    let others = biases.into_iter().flatten().chain(rows.up.as_ref());
    accesses.extend(others.map(TensorRef::read));
    let groups = [
        step.max_rows().div_ceil(tile.rows),
        (n as u32).div_ceil(tile.columns),
        1,
    ];
    step.dispatch_further(0, &args, groups, &accesses)
}

/// Weights are read in pieces of 16 bytes.
pub fn check_pieces(step: &Step<'_>, matrix: &Matrix, firsts: &[usize]) -> Result<()> {
    let aligned = matrix.is_aligned(firsts, (0, 0));
    match aligned.map_err(|e| step.refuse(e))? {
        true => Ok(()),
        false => Err(step.refuse("a matrix must begin at a multiple of 16 bytes")),
    }
}

/// Constants of the shader that rounds x.
pub fn rounding(gpu: Gpu, way: Way) -> std::result::Result<Vec<u32>, String> {
    let mut all = gpu.elementwise();
    all.push(scheme_constant(way.scheme())?);
    Ok(all)
}

fn decoding(problem: &Problem, gpu: Gpu, way: Way) -> std::result::Result<Vec<u32>, String> {
    let (_, w) = problem.input(0, 1).ok_or("a linear has a weight")?;
    let mut all = gpu.elementwise();
    all.extend([scheme_constant(w.scheme)?, u32::from(way != Way::F16)]);
    Ok(all)
}

/// The shaders behind the first of one way: what multiplies and what decodes.
macro_rules! further {
    ($way:ident, $gemm:literal) => {
        &[
            $crate::common::launch::Further {
                shader: $crate::common::launch::shader!($gemm, 7, 14),
                constants: |problem, gpu| {
                    use $crate::common::coopmat::{Way, multiplying};
                    multiplying(problem, gpu, Way::$way)
                },
            },
            $crate::common::coopmat::decoder($crate::common::coopmat::Way::$way),
        ]
    };
}
pub(crate) use further;

/// The shader that decodes weights.
pub const fn decoder(way: Way) -> Further {
    Further {
        shader: shader!("common.decoded", 2, 5),
        constants: match way {
            Way::F16 => |problem, gpu| decoding(problem, gpu, Way::F16),
            Way::Bf16 => |problem, gpu| decoding(problem, gpu, Way::Bf16),
        },
    }
}

/// The kernel of one pattern and scheme; `further` are its shaders of that way.
pub const fn kernel(
    pattern: &'static Pattern,
    quant: &'static [&'static str],
    layouts: &'static [&'static str],
    way: Way,
    further: &'static [Further],
) -> Plain {
    let (variant, rank) = way.variant();
    let round: Shader = shader!("common.rounded", 3, 6);
    let mut plain = match way {
        Way::F16 => Plain::new(pattern, quant, variant, round, |step| {
            record(step, Way::F16)
        }),
        Way::Bf16 => Plain::new(pattern, quant, variant, round, |step| {
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
