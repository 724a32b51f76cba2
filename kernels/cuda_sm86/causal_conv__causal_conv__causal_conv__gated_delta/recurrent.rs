//! op: causal_conv+causal_conv+causal_conv+gated_delta: q, k and v of few rows, and
//! the rule. See `recurrent.cu`.

use crate::common::args::Args;
use crate::common::delta;
use crate::common::launch::{Fits, Plain, Result, Step, blocks, ptx};
use crate::common::state;
use graph::Op;
use registry::patterns::CONV_DELTA;
use registry::{Problem, StepLayout};

/// Largest key: one element for each thread.
const MOST_DK: usize = 256;

/// More rows are for the kernels that take many at once.
const MOST_ROWS: usize = 64;

const DELTA: usize = 3;

fn fits(problem: &Problem) -> Fits {
    problem.common_attributes()?;
    let rows = problem.outputs[0].shape[0];
    if rows > MOST_ROWS {
        return Err(format!("for up to {MOST_ROWS} rows, not {rows}"));
    }
    match delta::sizes(problem)?.dk {
        dk if dk <= MOST_DK => Ok(()),
        dk => Err(format!("for keys of up to {MOST_DK}, not {dk}")),
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let sizes = delta::sizes(step.problem).map_err(|e| step.refuse(e))?;
    // Each op has two outputs, its values and its state.
    let values = |i: usize| &step.binds.outputs[2 * i];
    let convs = [0, 1, 2];
    let mut args = Args::default();
    for slot in 0..2 {
        for i in convs {
            args.tensor(step, step.operand(i, slot)?)?;
        }
    }
    for i in convs {
        args.optional(step, step.optional(i, 3))?;
    }
    for i in convs {
        args.tensor(step, values(i))?;
    }
    for i in convs {
        let view = state::view_of(step, i, 2)?;
        state::start(&mut args, step, i, 2, &view)?;
    }
    for i in convs {
        args.tensor(step, values(i))?;
    }
    for i in 3..7 {
        args.tensor(step, step.operand(DELTA, i)?)?;
    }
    args.tensor(step, values(DELTA))?;
    let view = state::view_of(step, DELTA, 7)?;
    state::start(&mut args, step, DELTA, 7, &view)?;
    state::words(&mut args, step)?;
    args.step(step, StepLayout::SPANS)?;
    let strides = [
        values(0).row_stride(),
        values(1).row_stride(),
        values(2).row_stride(),
        step.operand(DELTA, 3)?.row_stride(),
        step.operand(DELTA, 4)?.row_stride(),
        values(DELTA).row_stride(),
    ];
    delta::words(&mut args, step, &sizes, &view, &strides)?;
    let mut of_convs = [[0; 3]; 7];
    for i in convs {
        let Op::CausalConv(spec) = step.problem.ops[i].op else {
            return Err(step.refuse("not a causal_conv"));
        };
        let view = state::view_of(step, i, 2)?;
        let own = [
            values(i).shape.iter().skip(1).product(),
            spec.kernel,
            usize::from(spec.silu),
            view.slots,
            view.slot_stride,
            step.operand(i, 0)?.row_stride(),
            values(i).row_stride(),
        ];
        for (all, own) in of_convs.iter_mut().zip(own) {
            all[i] = own;
        }
    }
    args.u32s(step, of_convs.as_flattened())?;
    let spans = step.problem.step.max_spans as u32;
    let grid = [blocks(sizes.dv, 32), sizes.heads as u32, spans];
    step.launch("conv_delta", &args, grid, 256)
}

static F32: Plain = Plain::new(
    &CONV_DELTA,
    &["f32"],
    "recurrent",
    ptx!("causal_conv__causal_conv__causal_conv__gated_delta.recurrent"),
    record,
)
.with_fits(fits)
.with_rank(20)
.with_tolerance(1e-4);
registry::register!(F32);
