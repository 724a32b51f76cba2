//! Products of many rows by matrices that a whole workgroup multiplies as one: x and
//! the weights are rounded to bf16 into the workspace, then multiplied tile by tile. See
//! `coopmat2.glsl`.

use crate::common::coopmat::{
    self, DECODED_ROWS, Scratch, Way, check_pieces, decode, fits_matrix, part_of, round,
};
use crate::common::coopmat_tiles::{self, Tile};
use crate::common::launch::{Further, Plain, Result, Step, shader};
use crate::common::linear::MOST_FEW_ROWS;
use crate::common::stored::Matrix;
use hal::vulkan::COOPMAT2_BF16;
use registry::{Pattern, Problem, Scheme, TensorRef};

/// What one binding holds on every device.
const LEAST_BINDING: usize = (128 << 20) - 512;

fn fits(problem: &Problem) -> std::result::Result<(), String> {
    if !problem.device.features.contains(COOPMAT2_BF16) {
        return Err(format!("the device has no {COOPMAT2_BF16}"));
    }
    fits_matrix(problem, Way::Bf16)?;
    match problem.outputs[0].shape[0] {
        rows if rows > MOST_FEW_ROWS => Ok(()),
        rows => Err(format!("for more than {MOST_FEW_ROWS} rows, not {rows}")),
    }
}

/// Whether weights are decoded first: else they are multiplied where they are, and
/// must be whole tiles there, in one binding.
fn decodes(problem: &Problem) -> bool {
    problem.input(0, 1).is_none_or(|(_, w)| {
        let whole = w.shape[0].is_multiple_of(DECODED_ROWS);
        w.scheme != Scheme::BF16 || !whole || w.shape[0] * w.shape[1] * 2 > LEAST_BINDING
    })
}

fn scratch(problem: &Problem) -> Scratch {
    Scratch::of(problem, decodes(problem), 1)
}

fn workspace(problem: &Problem) -> u64 {
    let scratch = scratch(problem);
    (scratch.x + scratch.decoded) as u64
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let x = step.input(0)?;
    let scratch = scratch(step.problem);
    let space = step.workspace()?;
    let k = Matrix::of(step.input(1)?).map_err(|e| step.refuse(e))?.k;
    let rounded = part_of(space, 0, [scratch.x / 2 / k, k], Scheme::BF16);
    round(step, x, &rounded)?;
    let w = step.input(1)?;
    let matrix = Matrix::of(w).map_err(|e| step.refuse(e))?;
    if scratch.columns == 0 {
        return multiply(step, &rounded, w, (0, matrix.n));
    }
    let to = part_of(space, scratch.x, [scratch.columns, k], Scheme::BF16);
    for (from, n) in step.row_parts(&matrix)? {
        for first in (from..from + n).step_by(scratch.columns) {
            let n = scratch.columns.min(from + n - first);
            decode(step, w, first, n, &to)?;
            multiply(step, &rounded, &to, (first, n))?;
        }
    }
    Ok(())
}

/// Columns `first..first + n` of y by the rows of `w`.
fn multiply(
    step: &mut Step<'_>,
    x: &TensorRef,
    w: &TensorRef,
    (first, n): (usize, usize),
) -> Result<()> {
    let matrix = Matrix::of(w).map_err(|e| step.refuse(e))?;
    let bias = match step.problem.input(0, 2) {
        Some(_) => Some(step.operand(0, 2)?),
        None => None,
    };
    let tile = Tile::of_workgroups(step.further_constants(0));
    let tile = tile.ok_or_else(|| step.refuse("it has no shader that multiplies"))?;
    let (y, meta) = (step.output(), &step.binds.step);
    let mut args = step.args();
    let xs = args.bind(x, 0, x.bytes, 16)? as usize;
    let ws = args.matrix(w, &matrix, 0, matrix.n)?;
    check_pieces(step, &matrix, &[ws])?;
    // Without a bias the binding is never read.
    let b = args.words(bias.unwrap_or(x))? as usize;
    let ys = args.rows(y)?;
    let step_at = args.step(meta)?;
    args.count(step_at, step.problem.outputs[0].rows)?;
    args.u32s(&[n, matrix.k, xs, ws, matrix.stride()])?;
    args.u32s(&[b + first, usize::from(bias.is_some())])?;
    args.u32s(&[ys.0 + first, ys.1])?;
    let mut accesses = vec![x.read(), w.read(), meta.read(), y.write()];
    accesses.extend(bias.map(TensorRef::read));
    let rows = step.max_rows().div_ceil(tile.rows);
    let groups = [rows, (n as u32).div_ceil(tile.columns), 1];
    step.dispatch_further(0, &args, groups, &accesses)
}

/// The shader that multiplies, and the one that decodes.
const FURTHER: &[Further] = &[
    Further {
        shader: shader!("linear.coopmat2", 5, 10),
        constants: coopmat_tiles::of_workgroups,
    },
    coopmat::decoder(Way::Bf16),
];

/// The kernel of one scheme.
pub const fn kernel(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    let round = shader!("common.rounded", 3, 6);
    let mut plain = Plain::new(&Pattern::LINEAR, quant, "coopmat2", round, record)
        .with_matrix(layouts)
        .with_further(FURTHER, workspace)
        .with_constants(|_, gpu| coopmat::rounding(gpu, Way::Bf16));
    plain.fits = fits;
    plain.spec.act = Way::Bf16.act();
    plain.spec.rank = 50;
    plain.spec.tolerance = 1e-4;
    plain
}
