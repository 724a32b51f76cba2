//! One row through a mixture with a shared expert. See `mixture.cuh`.

use crate::common::args::Args;
use crate::common::launch::{Fits, Plain, Ptx, Result, Step, blocks, ptx};
use crate::common::layout::{MMA16, ROWS, chunks};
use crate::common::linears::x_aligned;
use crate::common::mma_gemv::{MOST_CHUNKS, MOST_WARPS, row_bytes};
use graph::Op;
use registry::patterns::{
    EXPERTS_SHARED_DOWN_ADD, EXPERTS_SHARED_DOWN_ADD_NORM, EXPERTS_SHARED_GATE_UP,
};
use registry::{Act, Pattern, Problem, TensorRef};

pub const Q4_0: Ptx = ptx!("common.mixture_q4_0");
pub const Q8_0: Ptx = ptx!("common.mixture_q8_0");
pub const Q4_K: Ptx = ptx!("common.mixture_q4_k");

/// Most parts, the shared one included: a warp each.
const MOST_PARTS: usize = 16;

/// Most shared memory that needs no asking for.
const MOST_SHARED: u32 = 46 << 10;

/// Place of the norm behind a sum.
const NORM: usize = EXPERTS_SHARED_DOWN_ADD.ops.len();

/// Experts, parts of a row and rows of an expert's matrix.
fn experts(problem: &Problem) -> std::result::Result<(usize, usize, usize), String> {
    let Op::ExpertLinear { experts } = problem.ops[0].op else {
        return Err("not an expert_linear".into());
    };
    match problem.ops[0].shape.as_slice() {
        &[_, parts, n] => Ok((experts, parts, n)),
        _ => Err("y must be [T, parts, N]".into()),
    }
}

/// Columns of the matrix of op `op`.
fn columns(problem: &Problem, op: usize) -> usize {
    let w = problem.input(op, 1);
    w.and_then(|(_, w)| w.shape.last().copied()).unwrap_or(0)
}

fn fits(problem: &Problem) -> Fits {
    match problem.outputs[0].shape[0] {
        1 => Ok(()),
        rows => Err(format!("for one row, not {rows}")),
    }
}

fn fits_gates(problem: &Problem) -> Fits {
    fits(problem)?;
    problem.common_attributes()?;
    experts(problem)?;
    if problem.input(0, 0).is_none_or(|(_, x)| x.shape.len() > 2) {
        return Err("all experts must read one x".into());
    }
    match chunks(columns(problem, 0)) {
        n if n <= MOST_CHUNKS => Ok(()),
        _ => Err(format!("for up to {MOST_CHUNKS} chunks of columns")),
    }
}

/// Shared memory of the parts' rows; those of the shared expert are the last.
fn sum_shared(problem: &Problem, parts: usize) -> u32 {
    let own = row_bytes(chunks(columns(problem, 0)));
    own * parts as u32 + row_bytes(chunks(columns(problem, 2)))
}

fn fits_sum(problem: &Problem) -> Fits {
    fits(problem)?;
    let (_, parts, n) = experts(problem)?;
    if parts >= MOST_PARTS {
        return Err(format!("for less than {MOST_PARTS} experts, not {parts}"));
    }
    if !n.is_multiple_of(ROWS) {
        return Err(format!("for columns in multiples of {ROWS}, not {n}"));
    }
    if problem.input(0, 0).is_none_or(|(_, x)| x.shape.len() < 3) {
        return Err("each expert must have an x of its own".into());
    }
    let whole = |op: usize, i: usize| {
        let operand = problem.input(op, i);
        operand.is_some_and(|(_, o)| o.row_len() == n)
    };
    if !whole(5, 0) {
        return Err("what the sum is added to must have its columns".into());
    }
    if problem.input(3, 0).is_none() {
        return Err("the gate must come from outside".into());
    }
    let norm = problem.input(NORM, 1);
    if norm.is_some_and(|(_, w)| w.shape != [n]) {
        return Err("the norm must span whole rows".into());
    }
    match sum_shared(problem, parts) {
        bytes if bytes <= MOST_SHARED => Ok(()),
        bytes => Err(format!("{bytes} bytes of shared memory are too many")),
    }
}

/// Pointer to a packed matrix.
fn packed(args: &mut Args, step: &Step<'_>, op: usize) -> Result<()> {
    let at = args.tensor(step, step.operand(op, 1)?)?;
    match at.is_multiple_of(16) {
        true => Ok(()),
        false => Err(step.refuse("packed weights must start at a 16-byte piece")),
    }
}

fn gates(step: &mut Step<'_>) -> Result<()> {
    let (stack, parts, n) = experts(step.problem).map_err(|e| step.refuse(e))?;
    let (k, x) = (columns(step.problem, 0), step.operand(0, 0)?);
    let n_shared = step.binds.outputs[1].shape.iter().skip(1).product();
    let mut args = Args::default();
    let aligned = args.tensor(step, x)?.is_multiple_of(16);
    for op in [0, 1, 3, 4] {
        packed(&mut args, step, op)?;
    }
    args.tensor(step, step.operand(0, 2)?)?;
    for y in &step.binds.outputs {
        args.tensor(step, y)?;
    }
    for (op, slot) in [(0, 3), (1, 3), (3, 2), (4, 2)] {
        args.optional(step, step.optional(op, slot))?;
    }
    args.count(step, step.rows_from())?;
    args.u32s(step, &[k, chunks(k), usize::from(aligned), n, n_shared])?;
    args.u32s(step, &[stack, parts])?;
    // An expert that starts inside 16 rows reaches into one tile more.
    let own = blocks(n, ROWS) + u32::from(!n.is_multiple_of(ROWS));
    let tiles = own.max(blocks(n_shared, ROWS));
    let sharing = chunks(k).clamp(1, MOST_WARPS / 2) as u32;
    let entry = format!("mixture_gated_{}", step.operand(0, 1)?.scheme);
    let grid = [tiles, parts as u32 + 1, 1];
    step.launch_shared(&entry, &args, grid, 64 * sharing, row_bytes(chunks(k)))
}

fn sum(step: &mut Step<'_>) -> Result<()> {
    let (stack, parts, n) = experts(step.problem).map_err(|e| step.refuse(e))?;
    let (k, k_shared) = (columns(step.problem, 0), columns(step.problem, 2));
    let (h, h_shared) = (step.operand(0, 0)?, step.operand(2, 0)?);
    let gate = step.operand(3, 0)?;
    let mut args = Args::default();
    let mut aligned = x_aligned(args.tensor(step, h)?, k);
    packed(&mut args, step, 0)?;
    args.tensor(step, step.operand(0, 2)?)?;
    args.tensor(step, step.operand(1, 1)?)?;
    aligned &= x_aligned(args.tensor(step, h_shared)?, k_shared);
    packed(&mut args, step, 2)?;
    let all: [&TensorRef; 3] = [gate, step.operand(5, 0)?, step.output()];
    for t in all {
        args.tensor(step, t)?;
    }
    args.optional(step, step.optional(NORM, 1))?;
    args.optional(step, step.binds.outputs.get(1))?;
    args.optional(step, step.optional(0, 3))?;
    args.optional(step, step.optional(2, 2))?;
    args.count(step, step.rows_from())?;
    args.u32s(step, &[k, k_shared, chunks(k), chunks(k_shared)])?;
    let one_gate = gate.shape.iter().skip(1).product::<usize>() != n;
    args.u32s(step, &[usize::from(aligned), n, stack, parts])?;
    args.u32(step, usize::from(one_gate))?;
    let (eps, offset) = match step.problem.ops.get(NORM).map(|o| &o.op) {
        Some(Op::RmsNorm { eps, weight_offset }) => (*eps, *weight_offset),
        _ => (0.0, 0.0),
    };
    args.f32(eps);
    args.f32(offset);
    let entry = format!("mixture_sum_{}", step.operand(0, 1)?.scheme);
    let threads = 32 * (parts as u32 + 1);
    let shared = sum_shared(step.problem, parts);
    step.launch_shared(&entry, &args, [blocks(n, ROWS), 1, 1], threads, shared)
}

const fn kernel(
    pattern: &'static Pattern,
    quant: &'static [&'static str],
    ptx: Ptx,
    record: fn(&mut Step<'_>) -> Result<()>,
) -> Plain {
    Plain::new(pattern, quant, "mixture", ptx, record)
        .with_layouts(&[MMA16])
        .with_act(Act::F16)
        .with_rank(40)
        .with_tolerance(1e-4)
}

/// Gates and ups in one scheme.
pub const fn of_gates(quant: &'static [&'static str], ptx: Ptx) -> Plain {
    kernel(&EXPERTS_SHARED_GATE_UP, quant, ptx, gates).with_fits(fits_gates)
}

/// The sum in one scheme.
pub const fn of_sum(quant: &'static [&'static str], ptx: Ptx) -> Plain {
    kernel(&EXPERTS_SHARED_DOWN_ADD, quant, ptx, sum).with_fits(fits_sum)
}

/// The sum and its norm, in one scheme.
pub const fn of_sum_norm(quant: &'static [&'static str], ptx: Ptx) -> Plain {
    kernel(&EXPERTS_SHARED_DOWN_ADD_NORM, quant, ptx, sum)
        .with_fits(fits_sum)
        .with_rank(45)
}
