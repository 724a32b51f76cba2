//! What the linear variants share: the arguments, part by part of a matrix that
//! is larger than a binding.

use crate::common::args::Args;
use crate::common::launch::{Gpu, Result, Step};
use crate::common::stored::{Matrix, is_plain, scheme_constant};
use graph::OpKind;
use hal::DeviceKind;
use registry::{Operand, Problem, Scheme};

/// Above this kernels in tiles read each weight more seldom.
pub const MOST_FEW_ROWS: usize = 16;

/// Rows that share a weight load in a gemv; more of them spill registers.
const SHARED_ROWS: usize = 4;

/// Subgroups of a workgroup in which each works alone.
const SUBGROUPS: u32 = 4;

/// Subgroups of a workgroup that rounds activations for all of them; of one that rounds
/// a single row, and the most workgroups that do: one for each multiprocessor of a large
/// device, since whoever comes later rounds first, too.
const ROUNDING_SUBGROUPS: u32 = 16;
const ONE_ROW_SUBGROUPS: u32 = 32;
const MOST_ONE_ROW: u32 = 132;

/// Groups of 32 weights that a lane loads at once.
const MOST_AHEAD: usize = 4;

/// Most workgroups that round activations for themselves.
const MOST_ROUNDING: u32 = 512;

/// Most activations that a workgroup keeps in int8: 24 KiB with their scales.
const MOST_ROUNDED: usize = 16384;

/// Room for a row of rounded activations comes in powers of two from here on, so
/// that matrices of different K share a pipeline.
const LEAST_WIDTH: usize = 4096;

/// Columns of a workgroup on a software device, which has few lanes to share the
/// rounding.
const SOFTWARE_COLUMNS: u32 = 32;

/// Constants of the gemv shaders: `n` output columns of `rows` rows at once.
pub fn gemv_constants(
    scheme: Scheme,
    rows: usize,
    n: usize,
    gpu: Gpu,
) -> std::result::Result<Vec<u32>, String> {
    let rows = if rows <= 1 { 1 } else { SHARED_ROWS };
    let software = gpu.info.kind == DeviceKind::Software;
    // More columns share each x; fewer keep more lanes busy.
    let columns = match (is_plain(scheme), n) {
        (true, _) => 2,
        (false, _) if software || rows > 1 => 2,
        (false, 0..=2048) => 1,
        (false, 2049..=8192) => 2,
        (false, _) => 4,
    };
    team_constants(scheme, rows, columns, SUBGROUPS, gpu)
}

/// Constants of the gemv shaders that round rows of activations to int8.
pub fn gemv_q8_constants(problem: &Problem, gpu: Gpu) -> std::result::Result<Vec<u32>, String> {
    let (_, w) = problem.input(0, 1).ok_or("a linear has a weight")?;
    let matrices = problem.ops.iter().filter(|o| o.op.kind() == OpKind::Linear);
    let rows = problem.outputs[0].shape[0];
    // More columns share the rounded rows; one alone is rather read ahead.
    let columns = if rows > 1 { 2 } else { 1 };
    rounded_constants(w, rows, columns, matrices.count(), gpu)
}

/// As [`gemv_q8_constants`], of teams that take so many columns of `matrices` that
/// are like `w` at once.
pub fn rounded_constants(
    w: &Operand,
    rows: usize,
    columns: u32,
    matrices: usize,
    gpu: Gpu,
) -> std::result::Result<Vec<u32>, String> {
    let k = w.shape[1];
    let width = k.next_power_of_two().max(LEAST_WIDTH);
    let (rows, most_ahead) = match rows {
        rows if rows > 1 => ((MOST_ROUNDED / width).min(SHARED_ROWS), 1),
        _ => (1, MOST_AHEAD / matrices.max(1)),
    };
    let (subgroups, most_ahead) = match gpu.limits.gemv {
        Some([subgroups, _, ahead]) if rows == 1 => (subgroups, ahead as usize / matrices.max(1)),
        None if rows == 1 => (ONE_ROW_SUBGROUPS, most_ahead),
        _ => (ROUNDING_SUBGROUPS, most_ahead),
    };
    let of_a_lane = (k / 32).div_ceil(gpu.info.subgroup as usize);
    let ahead = of_a_lane.clamp(1, most_ahead.max(1));
    let mut all = team_constants(w.scheme, rows, columns, subgroups, gpu)?;
    all.extend([width as u32, ahead as u32]);
    Ok(all)
}

/// Whether a gemv in int8 is meant for the problem: few rows, and a device that
/// multiplies bytes at least as fast as floats (or one for tests).
pub fn few_rounded_rows(problem: &Problem) -> std::result::Result<(), String> {
    match problem.input(0, 1) {
        Some((_, w)) => few_rounded(problem, w.shape[1]),
        None => Err("a linear has a weight".into()),
    }
}

/// As [`few_rounded_rows`], of rows of `k` activations.
pub fn few_rounded(problem: &Problem, k: usize) -> std::result::Result<(), String> {
    few_rows(problem)?;
    let device = &problem.device;
    if device.kind != DeviceKind::Software && !device.features.contains("integer_dot_accelerated") {
        return Err("the device does not accelerate products of bytes".into());
    }
    match k {
        k if k <= MOST_ROUNDED => Ok(()),
        _ => Err(format!("for K up to {MOST_ROUNDED}")),
    }
}

/// Constants of teams of lanes: workgroups of so many subgroups, each a team where all
/// are whole.
pub fn team_constants(
    scheme: Scheme,
    rows: usize,
    columns: u32,
    subgroups: u32,
    gpu: Gpu,
) -> std::result::Result<Vec<u32>, String> {
    let subgroup = gpu.info.subgroup;
    let teams = gpu.limits.whole_subgroups;
    let software = gpu.info.kind == DeviceKind::Software;
    let most = (gpu.limits.workgroup_invocations / subgroup).clamp(1, subgroups);
    let subgroups = if teams && !software { most } else { 1 };
    let mut all = gpu.lanes(subgroups * subgroup);
    all.push(scheme_constant(scheme)?);
    all.extend([rows as u32, columns, u32::from(teams), subgroup]);
    Ok(all)
}

/// Workgroups of a gemv of `n` columns.
pub fn gemv_groups(step: &Step<'_>, n: usize) -> u32 {
    let teams = (step.constants[0] / step.constants[7]).max(1);
    let most = step.limits().workgroups[0];
    (n as u32).div_ceil(teams * step.constants[5]).min(most)
}

/// Workgroups of a gemv of `n` columns that rounds activations.
pub fn gemv_q8_groups(step: &Step<'_>, n: usize) -> u32 {
    match step.constants[0] == step.constants[7] {
        true => (n as u32).div_ceil(SOFTWARE_COLUMNS),
        false => {
            let most = match step.limits().gemv {
                Some([_, most, _]) if step.max_rows() == 1 => most.max(1),
                None if step.max_rows() == 1 => MOST_ONE_ROW,
                _ => MOST_ROUNDING,
            };
            gemv_groups(step, n).min(most)
        }
    }
}

/// Whether a gemv is meant for the problem.
pub fn few_rows(problem: &Problem) -> std::result::Result<(), String> {
    match problem.outputs[0].shape[0] {
        rows if rows <= MOST_FEW_ROWS => Ok(()),
        rows => Err(format!("for up to {MOST_FEW_ROWS} rows, not {rows}")),
    }
}

/// One dispatch of a linear: columns `first .. first + n` of the output.
pub struct Part<'a> {
    pub args: Args<'a>,
    pub n: usize,
    /// Whether whole pieces of 16 bytes may be loaded.
    pub aligned: bool,
}

/// Arguments of the shaders' common prefix: bindings x, w, bias, y, step;
/// constants rows, n, k, x, w, bias, y.
pub fn parts<'a>(step: &Step<'a>) -> Result<Vec<Part<'a>>> {
    let (x, w, y) = (step.input(0)?, step.input(1)?, step.output());
    let matrix = Matrix::of(w).map_err(|e| step.refuse(e))?;
    let bias = match step.has_input(2) {
        true => Some(step.input(2)?),
        false => None,
    };
    let mut found = Vec::new();
    for (first, n) in step.row_parts(&matrix)? {
        let mut args = step.args();
        let xs = args.rows(x)?;
        let ws = args.matrix(w, &matrix, first, n)?;
        // Without a bias the binding is never read.
        let bs = args.words(bias.unwrap_or(x))? as usize + first;
        let ys = args.rows(y)?;
        let meta = args.step(&step.binds.step)?;
        args.count(meta, step.problem.outputs[0].rows)?;
        let with_bias = usize::from(bias.is_some());
        args.u32s(&[n, matrix.k, xs.0, xs.1, ws, matrix.stride()])?;
        args.u32s(&[bs, with_bias, ys.0 + first, ys.1])?;
        let aligned = matrix.is_aligned(&[ws], xs).map_err(|e| step.refuse(e))?;
        found.push(Part { args, n, aligned });
    }
    Ok(found)
}
