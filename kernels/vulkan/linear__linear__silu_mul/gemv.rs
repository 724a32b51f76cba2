//! op: linear+linear+silu_mul, few rows. See `gemv.comp`.

use crate::common::launch::{Gpu, Plain, Result, Step, shader};
use crate::common::linear::{few_rows, gemv_constants, gemv_groups};
use crate::common::stored::{Matrix, for_each_scheme, is_plain_name, register_schemes};
use graph::{Activation, OpKind};
use registry::{Pattern, PatternOp, Problem, Src};

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
    let matrix = Matrix::of(gate).map_err(|e| step.refuse(e))?;
    let bias = |op: usize| match step.problem.input(op, 2) {
        Some(_) => step.operand(op, 2).map(Some),
        None => Ok(None),
    };
    let biases = [bias(0)?, bias(1)?];
    for (first, n) in step.row_parts(&matrix)? {
        let mut args = step.args();
        let xs = args.rows(x)?;
        let gs = args.matrix(gate, &matrix, first, n)?;
        let us = args.matrix(up, &matrix, first, n)?;
        // Without a bias the binding is never read.
        let [gb, ub] = biases.map(|b| args.words(b.unwrap_or(x)));
        let ys = args.rows(step.output())?;
        let meta = args.step(&step.binds.step)?;
        args.count(meta, step.problem.outputs[0].rows)?;
        args.u32s(&[n, matrix.k, xs.0, xs.1, gs, us, matrix.stride()])?;
        args.u32s(&[gb? as usize + first, usize::from(biases[0].is_some())])?;
        args.u32s(&[ub? as usize + first, usize::from(biases[1].is_some())])?;
        args.u32s(&[ys.0 + first, ys.1])?;
        let aligned = matrix.is_aligned(&[gs, us], xs);
        args.u32(usize::from(aligned.map_err(|e| step.refuse(e))?))?;
        step.dispatch(&args, [gemv_groups(step, n), 1, 1])?;
    }
    Ok(())
}

fn constants(problem: &Problem, gpu: Gpu) -> std::result::Result<Vec<u32>, String> {
    let (_, w) = problem.input(0, 1).ok_or("a linear has a weight")?;
    gemv_constants(w.scheme, problem.outputs[0].shape[0], w.shape[0], gpu)
}

const fn of(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    let shader = shader!("linear__linear__silu_mul.gemv", 7, 15);
    let mut plain = Plain::new(&PATTERN, quant, "gemv", shader, record)
        .with_matrix(layouts)
        .with_constants(constants);
    plain.fits = few_rows;
    if !is_plain_name(quant[0]) {
        // The error of one sum counts as many times as the other is large, and a
        // few results of large sums may be small themselves. Codes are summed in
        // another order than the oracle's.
        plain.spec.tolerance = 2e-4;
    }
    plain
}

for_each_scheme!(register_schemes);
