//! The convolutions of q, k and v and the gated delta rule, few rows; for one row also
//! the norm and gate behind them, and the products to decay and beta ahead of them. See
//! `conv_delta.cu`.

use crate::common::args::Args;
use crate::common::delta;
use crate::common::launch::{Fits, Plain, Result, Step, blocks, ptx, suffix};
use crate::common::linears::x_aligned;
use crate::common::state;
use graph::{Op, OpKind};
use registry::{Pattern, Problem, ROW_MAJOR, StepLayout, TensorRef};

/// More rows are for the kernels that take many at once.
const MOST_ROWS: usize = 64;

/// Most heads where a norm follows, and most columns of one.
const MOST_HEADS: usize = 256;
const MOST_DV: usize = 256;

/// Places of the first convolution, of the rule and of what may follow.
struct Places {
    conv: usize,
    rule: usize,
    norm: usize,
    gate: usize,
}

/// Linears stand ahead of the convolutions or nothing does.
fn places(problem: &Problem) -> Places {
    let linears = (problem.ops.iter()).take_while(|o| o.op.kind() == OpKind::Linear);
    let conv = linears.count();
    Places {
        conv,
        rule: conv + 3,
        norm: conv + 4,
        gate: conv + 5,
    }
}

fn fits(problem: &Problem) -> Fits {
    problem.common_attributes()?;
    let at = places(problem);
    let rows = problem.outputs[0].shape[0];
    let normed = problem.ops.len() > at.norm;
    let most = if normed { 1 } else { MOST_ROWS };
    if rows > most {
        return Err(format!("for up to {most} rows, not {rows}"));
    }
    let sizes = delta::sizes(problem, at.rule)?;
    delta::entry("", &sizes)?;
    if !normed {
        return Ok(());
    }
    if sizes.heads > MOST_HEADS || sizes.dv > MOST_DV {
        return Err(format!(
            "for up to {MOST_HEADS} heads of {MOST_DV}, not {} of {}",
            sizes.heads, sizes.dv
        ));
    }
    if (problem.input(at.norm, 1)).is_none_or(|(_, w)| w.shape != [sizes.dv]) {
        return Err("the norm must be of each head".into());
    }
    let (gate, whole) = (problem.input(at.gate, 0), sizes.heads * sizes.dv);
    if gate.is_none_or(|(_, z)| z.row_len() != whole) {
        return Err("the gate must come from outside, a value for each of o".into());
    }
    match (0..at.conv)
        .all(|i| problem.ops[i].shape.iter().skip(1).product::<usize>() == sizes.heads)
    {
        true => Ok(()),
        false => Err("the products must have a value for each head".into()),
    }
}

/// The row and the matrices that a and b are products of, and the columns; whether all
/// lie so that 16-byte pieces can be read.
fn projections(args: &mut Args, step: &Step<'_>, at: &Places) -> Result<(usize, bool)> {
    if at.conv == 0 {
        for _ in 0..5 {
            args.optional(step, None)?;
        }
        return Ok((0, false));
    }
    let matrices: [&TensorRef; 2] = [step.operand(0, 1)?, step.operand(1, 1)?];
    let k = matrices[0].shape.last().copied().unwrap_or(0);
    let mut aligned = x_aligned(args.tensor(step, step.operand(0, 0)?)?, k);
    for w in matrices {
        aligned &= args.tensor(step, w)?.is_multiple_of(16);
    }
    for i in 0..2 {
        args.optional(step, step.optional(i, 2))?;
    }
    Ok((k, aligned && k.is_multiple_of(8)))
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let at = places(step.problem);
    let sizes = delta::sizes(step.problem, at.rule).map_err(|e| step.refuse(e))?;
    // Each of these ops has two outputs, its values and its state.
    let values = |i: usize| &step.binds.outputs[2 * i];
    let convs = [0, 1, 2];
    let mut args = Args::default();
    for slot in 0..2 {
        for i in convs {
            args.tensor(step, step.operand(at.conv + i, slot)?)?;
        }
    }
    for i in convs {
        args.optional(step, step.optional(at.conv + i, 3))?;
    }
    for i in convs {
        args.tensor(step, values(i))?;
    }
    for i in convs {
        let view = state::view_of(step, at.conv + i, 2)?;
        state::start(&mut args, step, at.conv + i, 2, &view)?;
    }
    args.optional(step, step.optional(at.gate, 0))?;
    args.optional(step, step.optional(at.norm, 1))?;
    args.optional(step, step.binds.outputs.get(8))?;
    let (k, aligned) = projections(&mut args, step, &at)?;
    for i in convs {
        args.tensor(step, values(i))?;
    }
    // Where the products are made here, a and b lie nowhere.
    let rates = [3, 4].map(|i| step.optional(at.rule, i));
    for t in rates {
        args.optional(step, t)?;
    }
    for i in 5..7 {
        args.tensor(step, step.operand(at.rule, i)?)?;
    }
    args.tensor(step, values(3))?;
    let view = state::view_of(step, at.rule, 7)?;
    state::start(&mut args, step, at.rule, 7, &view)?;
    state::words(&mut args, step)?;
    args.step(step, StepLayout::SPANS)?;
    let strides = [
        values(0).row_stride(),
        values(1).row_stride(),
        values(2).row_stride(),
        rates[0].map_or(0, |t| t.row_stride()),
        rates[1].map_or(0, |t| t.row_stride()),
        values(3).row_stride(),
    ];
    delta::words(&mut args, step, &sizes, &view, &strides)?;
    let mut of_convs = [[0; 3]; 7];
    for i in convs {
        let Op::CausalConv(spec) = step.problem.ops[at.conv + i].op else {
            return Err(step.refuse("not a causal_conv"));
        };
        let view = state::view_of(step, at.conv + i, 2)?;
        let own = [
            values(i).shape.iter().skip(1).product(),
            spec.kernel,
            usize::from(spec.silu),
            view.slots,
            view.slot_stride,
            step.operand(at.conv + i, 0)?.row_stride(),
            values(i).row_stride(),
        ];
        for (all, own) in of_convs.iter_mut().zip(own) {
            all[i] = own;
        }
    }
    args.u32s(step, of_convs.as_flattened())?;
    args.u32s(step, &[k, usize::from(aligned)])?;
    let (eps, offset) = match step.problem.ops.get(at.norm).map(|o| &o.op) {
        Some(Op::RmsNorm { eps, weight_offset }) => (*eps, *weight_offset),
        _ => (0.0, 0.0),
    };
    args.f32(eps);
    args.f32(offset);
    let body = match step.problem.ops.len() > at.norm {
        false => "conv_delta".to_string(),
        true if at.conv == 0 => "conv_delta_norm".to_string(),
        true => {
            let scheme = suffix(step.operand(0, 1)?.scheme).map_err(|e| step.refuse(e))?;
            format!("delta_net_{scheme}")
        }
    };
    let entry = delta::entry(&body, &sizes).map_err(|e| step.refuse(e))?;
    let spans = step.problem.step.max_spans as u32;
    let grid = [blocks(sizes.dv, 32), sizes.heads as u32, spans];
    step.launch(&entry, &args, grid, 256)
}

/// The kernel of a pattern, whose linears, if it has any, are of one scheme.
pub const fn kernel(pattern: &'static Pattern, quant: &'static [&'static str]) -> Plain {
    Plain::new(
        pattern,
        quant,
        "recurrent",
        ptx!("common.conv_delta"),
        record,
    )
    .with_layouts(&[ROW_MAJOR])
    .with_fits(fits)
    .with_tolerance(1e-4)
}
