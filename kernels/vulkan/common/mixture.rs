//! One row through a mixture, activations in int8. See `mixture_gates.comp` and
//! `mixture_sum.comp`.

use crate::common::launch::{Gpu, Plain, Result, Step, shader};
use crate::common::linear::{few_rounded, gemv_groups, gemv_q8_groups, rounded_constants};
use crate::common::stored::Matrix;
use graph::Op;
use hal::DeviceKind;
use registry::patterns::{
    EXPERTS_GATE_UP, EXPERTS_SHARED_DOWN_ADD, EXPERTS_SHARED_DOWN_ADD_NORM, EXPERTS_SHARED_GATE_UP,
};
use registry::{Act, Operand, Pattern, Problem, TensorRef};

type Checked<T> = std::result::Result<T, String>;

/// Ops of the experts alone, ahead of the shared expert's.
const OWN_GATES: usize = EXPERTS_GATE_UP.ops.len();

/// Place of the norm behind a sum.
const NORM: usize = EXPERTS_SHARED_DOWN_ADD.ops.len();

/// Largest matrix that a software device binds.
const MOST_SOFTWARE: u64 = 120 << 20;

/// Workgroups among which columns are spread before workgroups get larger.
const SPREAD: usize = 128;

/// Groups of a column of the sum that a lane loads at once; fewer on a software device,
/// which compiles what is unrolled for seconds.
const SUM_AHEAD: usize = 5;
const SOFTWARE_SUM_AHEAD: usize = 2;

fn weight(problem: &Problem, op: usize) -> Checked<&Operand> {
    let found = problem.input(op, 1).map(|(_, w)| w);
    found.ok_or_else(|| "a product has a weight".into())
}

/// Elements of a row of the matrix of op `op`.
fn width(problem: &Problem, op: usize) -> Checked<usize> {
    Ok(weight(problem, op)?.shape[1])
}

/// Parts of a row and rows of an expert's matrix.
fn parts(problem: &Problem) -> Checked<(usize, usize)> {
    match problem.ops[0].shape.as_slice() {
        &[_, parts, n] => Ok((parts, n)),
        _ => Err("y must be [T, parts, N]".into()),
    }
}

/// What both want: one row of `k` activations, and matrices that a binding holds.
fn fits(problem: &Problem, k: usize) -> Checked<()> {
    let rows = problem.outputs[0].shape[0];
    if rows != 1 {
        return Err(format!("for one row, not {rows}"));
    }
    few_rounded(problem, k)?;
    let stack = weight(problem, 0)?;
    let bytes = stack.scheme.row_bytes(stack.shape.iter().product());
    if problem.device.kind == DeviceKind::Software && bytes.is_none_or(|b| b > MOST_SOFTWARE) {
        return Err("a software device does not bind so large a matrix at once".into());
    }
    Ok(())
}

fn fits_gates(problem: &Problem) -> Checked<()> {
    problem.common_attributes()?;
    fits(problem, width(problem, 0)?)?;
    match problem.input(0, 0) {
        Some((_, x)) if x.shape.len() == 2 => Ok(()),
        _ => Err("all experts must read one x".into()),
    }
}

/// Activations of all parts and of the shared expert.
fn sum_width(problem: &Problem) -> Checked<usize> {
    Ok(parts(problem)?.0 * width(problem, 0)? + width(problem, 2)?)
}

fn fits_sum(problem: &Problem) -> Checked<()> {
    fits(problem, sum_width(problem)?)?;
    let (_, n) = parts(problem)?;
    if problem.input(0, 0).is_none_or(|(_, x)| x.shape.len() < 3) {
        return Err("each expert must have an x of its own".into());
    }
    let rows_of = |op: usize, i: usize| problem.input(op, i).map(|(_, o)| o.row_len());
    if rows_of(5, 0) != Some(n) {
        return Err("what the sum is added to must have its columns".into());
    }
    if problem.input(3, 0).is_none() || problem.input(1, 1).is_none() {
        return Err("the gate and the experts' weights must come from outside".into());
    }
    match problem.input(NORM, 1) {
        Some((_, w)) if w.shape != [n] => Err("the norm must span whole rows".into()),
        _ => Ok(()),
    }
}

fn gates_constants(problem: &Problem, gpu: Gpu) -> Checked<Vec<u32>> {
    let mut all = rounded_constants(weight(problem, 0)?, 1, 1, 2, gpu)?;
    all.push(parts(problem)?.0 as u32);
    all.push(u32::from(problem.ops.len() > OWN_GATES));
    Ok(all)
}

fn sum_constants(problem: &Problem, gpu: Gpu) -> Checked<Vec<u32>> {
    let (parts, n) = parts(problem)?;
    let all_h = sum_width(problem)?;
    let w = Operand {
        shape: vec![n, all_h],
        ..weight(problem, 0)?.clone()
    };
    let mut all = rounded_constants(&w, 1, 1, 1, gpu)?;
    let subgroup = gpu.info.subgroup;
    // Columns are few: rather more workgroups than more teams in each.
    let most = (all[0] / subgroup).max(1) as usize;
    let teams = n.div_ceil(SPREAD).next_power_of_two().clamp(1, most) as u32;
    if most > 1 {
        let lanes = gpu.lanes(teams.max(4.min(most as u32)) * subgroup);
        all[..lanes.len()].copy_from_slice(&lanes);
    }
    let of_a_lane = (all_h / 32).div_ceil(subgroup as usize);
    let ahead = match gpu.info.kind {
        DeviceKind::Software => SOFTWARE_SUM_AHEAD,
        _ => SUM_AHEAD,
    };
    all[9] = of_a_lane.clamp(1, ahead) as u32;
    let widths = [parts, width(problem, 0)?, width(problem, 2)?];
    all.extend(widths.map(|n| n as u32));
    all.push(u32::from(problem.ops.len() > NORM));
    Ok(all)
}

/// The matrix of op `op`, once it is known that one binding holds it.
fn matrix(step: &Step<'_>, op: usize) -> Result<Matrix> {
    let matrix = Matrix::of(step.operand(op, 1)?).map_err(|e| step.refuse(e))?;
    match step.row_parts(&matrix)?.len() {
        1 => Ok(matrix),
        _ => Err(step.refuse("a matrix is larger than a binding: plan without fusion")),
    }
}

fn gates(step: &mut Step<'_>) -> Result<()> {
    let (parts, n) = parts(step.problem).map_err(|e| step.refuse(e))?;
    let shared = step.problem.ops.len() > OWN_GATES;
    // What is not there is bound to something and never read.
    let ops = if shared { [0, 1, 3, 4] } else { [0, 1, 0, 1] };
    let x = step.operand(0, 0)?;
    let mut args = step.args();
    let xs = args.rows(x)?;
    let own = matrix(step, 0)?;
    let mut at = [0; 4];
    let mut bias_at = [0; 4];
    let mut biased = 0;
    for (at, op) in at.iter_mut().zip(ops) {
        let matrix = matrix(step, op)?;
        *at = args.matrix(step.operand(op, 1)?, &matrix, 0, matrix.n)?;
    }
    for (i, op) in ops.into_iter().enumerate() {
        let slot = if i < 2 || !shared { 3 } else { 2 };
        let bias = step.optional(op, slot)?;
        biased |= usize::from(bias.is_some()) << i;
        bias_at[i] = args.words(bias.unwrap_or(x))? as usize;
    }
    let chosen = args.words(step.operand(0, 2)?)? as usize;
    let outputs = &step.binds.outputs;
    let y = args.words(&outputs[0])? as usize;
    let z = args.words(&outputs[outputs.len() - 1])? as usize;
    let meta = args.step(&step.binds.step)?;
    let n_shared = match shared {
        true => outputs[1].shape.iter().skip(1).product(),
        false => 0,
    };
    args.count(meta, step.problem.outputs[0].rows)?;
    args.u32s(&[own.k, own.stride(), xs.0])?;
    args.u32s(&at)?;
    args.u32s(&[n, n_shared])?;
    args.u32s(&bias_at)?;
    args.u32s(&[biased, chosen, y, z])?;
    let aligned = own.is_aligned(&at, xs).map_err(|e| step.refuse(e))?;
    args.u32(usize::from(aligned))?;
    let groups = gemv_q8_groups(step, parts * n + n_shared);
    step.dispatch(&args, [groups, 1, 1])
}

fn sum(step: &mut Step<'_>) -> Result<()> {
    let (_, n) = parts(step.problem).map_err(|e| step.refuse(e))?;
    let (w, s) = (matrix(step, 0)?, matrix(step, 2)?);
    let gate = step.operand(3, 0)?;
    let x = step.operand(5, 0)?;
    let word = |at: u32| at as usize;
    let mut args = step.args();
    let h = args.words(step.operand(0, 0)?).map(word)?;
    let h_shared = args.words(step.operand(2, 0)?).map(word)?;
    let ws = args.matrix(step.operand(0, 1)?, &w, 0, w.n)?;
    let ss = args.matrix(step.operand(2, 1)?, &s, 0, s.n)?;
    let biases = [step.optional(0, 3)?, step.optional(2, 2)?];
    let mut bias_at = [0; 2];
    for (at, bias) in bias_at.iter_mut().zip(biases) {
        // What is not there is bound to x and never read.
        *at = args.words(bias.unwrap_or(x)).map(word)?;
    }
    let biased = biases.iter().enumerate();
    let biased = biased.fold(0, |bits, (i, b)| bits | usize::from(b.is_some()) << i);
    let chosen = args.words(step.operand(0, 2)?).map(word)?;
    let weights = args.words(step.operand(1, 1)?).map(word)?;
    let gate_at = args.words(gate).map(word)?;
    let x_at = args.words(x).map(word)?;
    let outputs = &step.binds.outputs;
    let y = args.words(&outputs[0]).map(word)?;
    let norm = args.words(step.optional(NORM, 1)?.unwrap_or(x)).map(word)?;
    let normed: &TensorRef = &outputs[outputs.len() - 1];
    let normed = args.words(normed).map(word)?;
    let meta = args.step(&step.binds.step)?;
    args.words(step.counters()?)?;
    args.count(meta, step.problem.outputs[0].rows)?;
    args.u32s(&[n, h, h_shared, ws, w.stride(), ss, s.stride()])?;
    args.u32s(&bias_at)?;
    let one_gate = gate.shape.iter().skip(1).product::<usize>() != n;
    args.u32s(&[biased, chosen, weights, gate_at, usize::from(one_gate)])?;
    args.u32s(&[x_at, y, norm, normed])?;
    let (eps, offset) = match step.problem.ops.get(NORM).map(|o| &o.op) {
        Some(Op::RmsNorm { eps, weight_offset }) => (*eps, *weight_offset),
        _ => (0.0, 0.0),
    };
    args.f32(eps);
    args.f32(offset);
    // Pieces of 16 bytes are read in both.
    for (matrix, at) in [(&w, ws), (&s, ss)] {
        let aligned = matrix.is_aligned(&[at], (0, 0));
        aligned.map_err(|e| step.refuse(e))?;
    }
    let groups = match step.constants[0] == step.constants[7] {
        true => gemv_q8_groups(step, n),
        false => gemv_groups(step, n),
    };
    step.dispatch(&args, [groups, 1, 1])
}

const fn rated(mut plain: Plain, rank: i32, fits: fn(&Problem) -> Checked<()>) -> Plain {
    plain.fits = fits;
    plain.spec.act = Act::Q8_32;
    plain.spec.rank = rank;
    plain
}

const fn gates_of(
    pattern: &'static Pattern,
    quant: &'static [&'static str],
    layouts: &'static [&'static str],
) -> Plain {
    let shader = shader!("common.mixture_gates", 13, 19);
    Plain::new(pattern, quant, "gemv_q8", shader, gates)
        .with_matrix(layouts)
        .with_constants(gates_constants)
}

const fn sum_of(
    pattern: &'static Pattern,
    quant: &'static [&'static str],
    layouts: &'static [&'static str],
) -> Plain {
    let shader = shader!("common.mixture_sum", 15, 21);
    Plain::new(pattern, quant, "gemv_q8", shader, sum)
        .with_matrix(layouts)
        .with_constants(sum_constants)
        .with_counter()
        .with_every_attribute()
}

/// Gates and ups of the experts in one scheme.
pub const fn own_gates(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    rated(gates_of(&EXPERTS_GATE_UP, quant, layouts), 30, fits_gates)
}

/// Those of the shared expert with them.
pub const fn shared_gates(
    quant: &'static [&'static str],
    layouts: &'static [&'static str],
) -> Plain {
    rated(
        gates_of(&EXPERTS_SHARED_GATE_UP, quant, layouts),
        40,
        fits_gates,
    )
}

/// The sum in one scheme.
pub const fn sums(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    rated(
        sum_of(&EXPERTS_SHARED_DOWN_ADD, quant, layouts),
        40,
        fits_sum,
    )
}

/// The sum and its norm, in one scheme.
pub const fn normed_sums(
    quant: &'static [&'static str],
    layouts: &'static [&'static str],
) -> Plain {
    rated(
        sum_of(&EXPERTS_SHARED_DOWN_ADD_NORM, quant, layouts),
        45,
        fits_sum,
    )
}
