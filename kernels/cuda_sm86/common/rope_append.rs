//! ops: [rms_norm+rms_norm+]rope+rope+kv_append. See `rope_append.cuh`.

use crate::common::args::Args;
use crate::common::cache;
use crate::common::launch::{Fits, Plain, Ptx, Result, Step, blocks, ptx, suffix};
use graph::Op;
use registry::{Pattern, Problem, TensorRef};

const PTX: Ptx = ptx!("common.rope_append");
const INT8_PTX: Ptx = ptx!("common.rope_append_int8");

/// Largest head: its elements stay in the registers of a warp.
const MOST_DIM: usize = 512;

/// Warps of a block.
const WARPS: usize = 4;

fn first_rope(problem: &Problem) -> usize {
    problem.ops.len() - 3
}

fn fits(problem: &Problem) -> Fits {
    problem.common_attributes()?;
    let at = first_rope(problem);
    let view = problem.input(at + 2, 2).and_then(|(_, o)| o.cache);
    let dim = view.ok_or("the cache is missing")?.head_dim;
    if dim > MOST_DIM {
        return Err(format!("for heads of up to {MOST_DIM}, not {dim}"));
    }
    let (Op::Rope(q), Op::Rope(k)) = (&problem.ops[at].op, &problem.ops[at + 1].op) else {
        return Err("two ropes were expected".into());
    };
    if q != k {
        return Err("both ropes must turn alike".into());
    }
    for op in 0..at {
        let wanted = problem.input(op, 1).map(|(_, w)| w.shape.as_slice());
        if wanted != Some(&[dim]) {
            return Err("the norms must be over heads".into());
        }
    }
    Ok(())
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let at = first_rope(step.problem);
    let view = cache::view(step, at + 2, 2)?;
    let Op::Rope(rope) = step.problem.ops[at].op else {
        return Err(step.refuse("not a rope"));
    };
    let normed = at > 0;
    let norm = |i: usize| -> (Option<&TensorRef>, f32, f32) {
        match (normed, &step.problem.ops[i].op) {
            (true, Op::RmsNorm { eps, weight_offset }) => {
                (step.optional(i, 1), *eps, *weight_offset)
            }
            _ => (None, 0.0, 0.0),
        }
    };
    let (q_norm, k_norm) = (norm(0), norm(1));
    let (q, k) = match normed {
        true => (step.operand(0, 0)?, step.operand(1, 0)?),
        false => (step.operand(at, 0)?, step.operand(at + 1, 0)?),
    };
    let v = step.operand(at + 2, 1)?;
    let table = step.operand(at, 1)?;
    let (y, stored) = (&step.binds.outputs[0], &step.binds.outputs[1]);
    let heads = step.row_len() / view.head_dim;
    let mut args = Args::default();
    for t in [q, k, v, table] {
        args.tensor(step, t)?;
    }
    args.optional(step, q_norm.0)?;
    args.optional(step, k_norm.0)?;
    args.tensor(step, y)?;
    cache::pointers(&mut args, step, stored, &view)?;
    args.count(step, step.rows_from())?;
    cache::words(&mut args, step, stored.scheme, &view)?;
    let half = rope.rotary_dim / 2;
    args.u32s(step, &[heads, view.kv_heads, view.head_dim, half])?;
    for t in [q, k, v, table, y] {
        args.u32(step, t.row_stride())?;
    }
    for value in [q_norm.1, q_norm.2, k_norm.1, k_norm.2] {
        args.f32(value);
    }
    let entry = suffix(stored.scheme).map_err(|e| step.refuse(e))?;
    let grid = [blocks(heads + 2 * view.kv_heads, WARPS), step.max_rows(), 1];
    step.launch(
        &format!("rope_append_{entry}"),
        &args,
        grid,
        32 * WARPS as u32,
    )
}

/// The kernel of one plain cache scheme.
pub const fn kernel(pattern: &'static Pattern, quant: &'static [&'static str]) -> Plain {
    of(pattern, quant, PTX)
}

/// That of int8_kv.
pub const fn int8_kernel(pattern: &'static Pattern) -> Plain {
    of(pattern, &["int8_kv"], INT8_PTX)
}

const fn of(pattern: &'static Pattern, quant: &'static [&'static str], ptx: Ptx) -> Plain {
    Plain::new(pattern, quant, "fused", ptx, record)
        .with_fits(fits)
        .with_rank(50)
        .with_tolerance(1e-5)
}
