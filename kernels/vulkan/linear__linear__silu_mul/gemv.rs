//! op: linear+linear+silu_mul, few rows. See `gemv.comp`.

use crate::common::launch::{Plain, Result, Step, element_bytes, shader};
use crate::common::linear::{few_rows, gemv_constants, is_aligned};
use graph::{Activation, OpKind};
use registry::{Pattern, PatternOp, Src};

static PATTERN: Pattern = Pattern {
    ops: &[
        PatternOp {
            kind: OpKind::Linear,
            inputs: &[],
        },
        PatternOp {
            kind: OpKind::Linear,
            inputs: &[Src::Same(0, 0)],
        },
        PatternOp {
            kind: OpKind::GatedMul(Activation::Silu),
            inputs: &[Src::Op(0), Src::Op(1)],
        },
    ],
    outputs: &[2],
};

fn record(step: &mut Step<'_>) -> Result<()> {
    let (x, gate, up) = (
        step.operand(0, 0)?,
        step.operand(0, 1)?,
        step.operand(1, 1)?,
    );
    let &[all, k] = gate.shape.as_slice() else {
        return Err(step.refuse(format!(
            "a matrix [N, K] was expected, not {:?}",
            gate.shape
        )));
    };
    let size = element_bytes(gate.scheme);
    let row = k as u64 * size;
    let most = step.limits().rows_per_binding(row, all);
    if most == 0 {
        return Err(step.refuse("one row of the weight is larger than a binding"));
    }
    let bias = |op: usize| match step.problem.input(op, 2) {
        Some(_) => step.operand(op, 2).map(Some),
        None => Ok(None),
    };
    let biases = [bias(0)?, bias(1)?];
    for first in (0..all).step_by(most) {
        let n = most.min(all - first);
        let (at, bytes) = (first as u64 * row, n as u64 * row);
        let mut args = step.args();
        let xs = args.rows(x)?;
        let gs = args.bind(gate, at, bytes, size)? as usize;
        let us = args.bind(up, at, bytes, size)? as usize;
        // Without a bias the binding is never read.
        let [gb, ub] = biases.map(|b| args.words(b.unwrap_or(x)));
        let ys = args.rows(step.output())?;
        let meta = args.step(&step.binds.step)?;
        args.count(meta, step.problem.outputs[0].rows)?;
        args.u32s(&[n, k, xs.0, xs.1, gs, us])?;
        args.u32s(&[gb? as usize + first, usize::from(biases[0].is_some())])?;
        args.u32s(&[ub? as usize + first, usize::from(biases[1].is_some())])?;
        args.u32s(&[ys.0 + first, ys.1])?;
        args.u32(usize::from(is_aligned(gate.scheme, k, &[gs, us], xs)))?;
        let groups = (n as u32).min(step.limits().workgroups[0]);
        step.dispatch(&args, [groups, 1, 1])?;
    }
    Ok(())
}

const fn of(quant: &'static [&'static str]) -> Plain {
    let shader = shader!("linear__linear__silu_mul.gemv", 7, 14);
    let mut plain = Plain::new(&PATTERN, quant, "gemv", shader, record)
        .with_matrix()
        .with_constants(gemv_constants);
    plain.fits = few_rows;
    plain
}

static F32: Plain = of(&["f32"]);
static F16: Plain = of(&["f16"]);
static BF16: Plain = of(&["bf16"]);
registry::register!(F32, F16, BF16);
