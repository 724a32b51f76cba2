//! op: linear, many rows of f16 or bf16 weights on the tensor cores; x is rounded
//! to the weights' format. See `common/gemm.cu`.

use crate::common::gemm::{self, Matrix};
use crate::common::launch::{Fits, Plain, Result, Step, ptx, suffix};
use registry::{Act, Pattern, Problem, ROW_MAJOR};

fn fits(problem: &Problem) -> Fits {
    gemm::fits(problem)
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let w = step.input(1)?;
    let &[n, k] = w.shape.as_slice() else {
        return Err(step.refuse(format!("a matrix [N, K] was expected, not {:?}", w.shape)));
    };
    let format = suffix(w.scheme).map_err(|e| step.refuse(e))?;
    gemm::round(step, format, k)?;
    let part = Matrix {
        tensor: w,
        at: 0,
        first: 0,
        n,
        k,
    };
    gemm::multiply(step, format, &part)
}

const fn of(quant: &'static [&'static str], act: Act) -> Plain {
    Plain::new(&Pattern::LINEAR, quant, "gemm", ptx!("common.gemm"), record)
        .with_layouts(&[ROW_MAJOR])
        .with_act(act)
        .with_fits(fits)
        .with_workspace(gemm::rounded_bytes)
        .with_rank(10)
        .with_tolerance(5e-5)
}

static F16: Plain = of(&["f16"], Act::F16);
static BF16: Plain = of(&["bf16"], Act::Bf16);
registry::register!(F16, BF16);
