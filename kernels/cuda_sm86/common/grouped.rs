//! `expert_linear` of many rows, and gate and up with SiLU: each expert's rows
//! together. See `grouped.cuh`.

use crate::common::args::Args;
use crate::common::launch::{Fits, Plain, Ptx, Result, Step, blocks, ptx};
use crate::common::layout::{COLUMNS, MMA16, ROWS, chunks};
use crate::common::linears::x_aligned;
use graph::Op;
use registry::{Act, Pattern, Problem};

pub const Q4_0: Ptx = ptx!("common.grouped_q4_0");
pub const Q8_0: Ptx = ptx!("common.grouped_q8_0");
pub const Q4_K: Ptx = ptx!("common.grouped_q4_k");
pub const Q5_K: Ptx = ptx!("common.grouped_q5_k");
pub const Q6_K: Ptx = ptx!("common.grouped_q6_k");
pub const IQ4_NL: Ptx = ptx!("common.grouped_iq4_nl");
pub const IQ4_XS: Ptx = ptx!("common.grouped_iq4_xs");
pub const MXFP4: Ptx = ptx!("common.grouped_mxfp4");
pub const W4_PARO: Ptx = ptx!("common.grouped_w4_paro");

/// Up to this many rows an expert seldom has several: each product alone is better.
const LEAST_ROWS: usize = 65;

/// As in the kernels: experts that are counted, columns of a tile, shared memory, the
/// least rows of a tile.
const MOST_EXPERTS: usize = 1024;
const TILE: usize = 256;
const SHARED: u32 = 3 * 64 * 128 + 2 * 64 * 32;
const TILE_ROWS: usize = 64;

/// Most blocks in a grid's second dimension.
const MOST_PARTS: usize = 65_535;

/// Sizes of a use.
pub struct Shape {
    pub experts: usize,
    pub rows: usize,
    /// Experts of a row.
    pub parts: usize,
    /// Rows and columns of an expert's matrix.
    pub n: usize,
    pub k: usize,
    /// Whether each part has an x of its own.
    pub x_parts: bool,
    pub gated: bool,
}

impl Shape {
    pub fn of(problem: &Problem) -> std::result::Result<Shape, String> {
        let Op::ExpertLinear { experts } = problem.ops[0].op else {
            return Err("not an expert_linear".into());
        };
        let &[rows, parts, n] = problem.outputs[0].shape.as_slice() else {
            return Err("y must be [T, parts, N]".into());
        };
        let operand = |i| problem.input(0, i).map(|(_, o)| o);
        let (Some(x), Some(w)) = (operand(0), operand(1)) else {
            return Err("x or the matrices are missing".into());
        };
        Ok(Shape {
            experts,
            rows,
            parts,
            n,
            k: w.shape.last().copied().unwrap_or(0),
            x_parts: x.shape.len() > 2,
            gated: problem.ops.len() > 1,
        })
    }

    /// Rows of x.
    fn x_rows(&self) -> usize {
        self.rows * if self.x_parts { self.parts } else { 1 }
    }

    /// Most tiles of pairs: each expert's last one in part.
    pub fn most_tiles(&self) -> usize {
        (self.rows * self.parts).div_ceil(TILE_ROWS) + self.experts
    }

    /// Tiles of columns of an expert, one more for a matrix that starts inside 16 rows.
    fn tiles(&self) -> u32 {
        let beside = if self.n.is_multiple_of(ROWS) {
            0
        } else {
            ROWS - 1
        };
        blocks(self.n + beside, if self.gated { TILE / 2 } else { TILE })
    }

    /// Bytes of the experts' first pairs and of the pairs.
    pub fn sorted(&self) -> [u64; 2] {
        [self.experts + 1, self.rows * self.parts].map(|n| (n as u64 * 4).next_multiple_of(256))
    }

    /// Bytes of x in f16, of the sums of its columns, and of what is sorted; each starts at
    /// 256 bytes.
    fn scratch(&self) -> [u64; 4] {
        let all = (self.x_rows() * chunks(self.k)) as u64;
        let [starts, pairs] = self.sorted();
        let [x, sums] = [all * COLUMNS as u64 * 2, all * 32].map(|b| b.next_multiple_of(256));
        [x, sums, starts, pairs]
    }

    /// What a row of x starts with, as the kernels that round it want it: the distance of
    /// its parts and how many of them have an x.
    pub fn x_part(&self) -> (usize, usize) {
        match self.x_parts {
            true => (self.k, self.parts),
            false => (0, 1),
        }
    }
}

/// What kernels of sorted pairs take.
pub fn sorted_fits(problem: &Problem) -> Fits {
    problem.common_attributes()?;
    let shape = Shape::of(problem)?;
    if shape.rows < LEAST_ROWS {
        let rows = shape.rows;
        return Err(format!("for {LEAST_ROWS} rows and more, not {rows}"));
    }
    match shape.experts {
        experts if experts <= MOST_EXPERTS => Ok(()),
        experts => Err(format!("for up to {MOST_EXPERTS} experts, not {experts}")),
    }
}

fn fits(problem: &Problem) -> Fits {
    sorted_fits(problem)?;
    let shape = Shape::of(problem)?;
    match shape.rows * shape.parts {
        pairs if pairs <= MOST_PARTS => Ok(()),
        pairs => Err(format!("for up to {MOST_PARTS} products, not {pairs}")),
    }
}

fn workspace(problem: &Problem) -> u64 {
    Shape::of(problem).map_or(0, |s| s.scratch().iter().sum())
}

/// Makes f16 of x.
fn round(step: &mut Step<'_>, shape: &Shape, bytes: &[u64; 4]) -> Result<()> {
    let (x, to) = (step.input(0)?, step.scratch()?);
    let (part, parts) = shape.x_part();
    let mut args = Args::default();
    let at = args.tensor(step, x)?;
    args.part(step, to, 0, bytes[0])?;
    args.part(step, to, bytes[0], bytes[1])?;
    args.count(step, step.rows_from())?;
    let aligned = x_aligned(at, x.row_stride()) && part.is_multiple_of(4);
    args.u32s(step, &[shape.k, x.row_stride(), part, parts])?;
    args.u32s(step, &[chunks(shape.k), usize::from(aligned)])?;
    let grid = [blocks(chunks(shape.k), 4), shape.x_rows() as u32, 1];
    step.launch("round_parts", &args, grid, 128)
}

/// Pointers to the experts' first pairs and to the pairs, `at` bytes into the scratch.
pub fn sorted(args: &mut Args, step: &Step<'_>, shape: &Shape, at: u64) -> Result<()> {
    let (from, [starts, pairs]) = (step.scratch()?, shape.sorted());
    args.part(step, from, at, starts)?;
    args.part(step, from, at + starts, pairs)?;
    Ok(())
}

/// Lists the pairs of each expert, `at` bytes into the scratch; and the place of each pair
/// in that list, where it is asked for, so many bytes into it.
pub fn sort(step: &mut Step<'_>, shape: &Shape, at: u64, places: Option<u64>) -> Result<()> {
    let chosen = step.input(2)?;
    let mut args = Args::default();
    args.tensor(step, chosen)?;
    sorted(&mut args, step, shape, at)?;
    match places {
        Some(at) => drop(args.part(step, step.scratch()?, at, shape.sorted()[1])?),
        None => args.optional(step, None)?,
    }
    args.count(step, step.rows_from())?;
    args.u32s(step, &[shape.parts, chosen.row_stride(), shape.experts])?;
    step.launch("sort_pairs", &args, [shape.experts as u32, 1, 1], 1024)
}

/// Pointers to the matrices, the biases, y and what is sorted, `at` bytes into the scratch.
pub fn operands(args: &mut Args, step: &Step<'_>, shape: &Shape, at: u64) -> Result<()> {
    let w = step.input(1)?;
    let up = shape.gated.then(|| step.operand(1, 1)).transpose()?;
    let mut aligned = args.tensor(step, w)?.is_multiple_of(16);
    aligned &= args.tensor(step, up.unwrap_or(w))?.is_multiple_of(16);
    if !aligned {
        return Err(step.refuse("packed weights must start at a 16-byte piece"));
    }
    args.optional(step, step.optional(0, 3))?;
    args.optional(step, shape.gated.then(|| step.optional(1, 3)).flatten())?;
    args.tensor(step, step.output())?;
    sorted(args, step, shape, at)
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let shape = Shape::of(step.problem).map_err(|e| step.refuse(e))?;
    let bytes = shape.scratch();
    round(step, &shape, &bytes)?;
    sort(step, &shape, bytes[0] + bytes[1], None)?;
    let from = step.scratch()?;
    let mut args = Args::default();
    args.part(step, from, 0, bytes[0])?;
    args.part(step, from, bytes[0], bytes[1])?;
    operands(&mut args, step, &shape, bytes[0] + bytes[1])?;
    let (w, y) = (step.input(1)?, step.output());
    let tiles = shape.tiles();
    args.u32s(step, &[shape.k, chunks(shape.k), shape.n, shape.experts])?;
    args.u32s(step, &[shape.parts, usize::from(shape.x_parts)])?;
    args.u32s(step, &[y.row_stride(), usize::from(shape.gated)])?;
    args.u32(step, tiles as usize)?;
    let most = (shape.most_tiles() as u32).saturating_mul(tiles);
    let grid = [most.min(step.recorder.limits().multiprocessors), 1, 1];
    let entry = format!("grouped_{}", w.scheme);
    step.launch_shared(&entry, &args, grid, 256, SHARED)
}

/// The kernel of one scheme.
pub const fn kernel(pattern: &'static Pattern, quant: &'static [&'static str], ptx: Ptx) -> Plain {
    Plain::new(pattern, quant, "grouped", ptx, record)
        .with_layouts(&[MMA16])
        .with_act(Act::F16)
        .with_fits(fits)
        .with_workspace(workspace)
        .with_rank(30)
        .with_tolerance(1e-4)
}
