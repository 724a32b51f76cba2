//! What the kernels of `gated_delta` share: their operands.

use crate::common::args::Args;
use crate::common::launch::{Result, Step};
use graph::Op;
use registry::{OperandSrc, Problem, StateView};

/// Heads and their dimensions.
pub struct Sizes {
    pub key_heads: usize,
    pub heads: usize,
    pub dk: usize,
    pub dv: usize,
}

/// Those of op `rule`, whose inputs may be made by others before it.
pub fn sizes(problem: &Problem, rule: usize) -> std::result::Result<Sizes, String> {
    let (ops, inputs) = (&problem.ops, &problem.inputs);
    let delta = ops.get(rule).ok_or("no gated_delta")?;
    let shape = |i: usize| match delta.inputs.get(i) {
        Some(OperandSrc::Input(n)) => inputs.get(*n).map(|o| o.shape.as_slice()),
        Some(OperandSrc::Op(n)) => ops.get(*n).map(|o| o.shape.as_slice()),
        None => None,
    };
    match (shape(0), shape(2)) {
        (Some(&[_, key_heads, dk]), Some(&[_, heads, dv])) => Ok(Sizes {
            key_heads,
            heads,
            dk,
            dv,
        }),
        _ => Err("q, k and v must be [T, heads, head_dim]".into()),
    }
}

/// The entry of a kernel for keys of that size: one element for each thread.
pub fn entry(body: &str, sizes: &Sizes) -> std::result::Result<String, String> {
    match sizes.dk {
        0..=128 => Ok(format!("{body}_128")),
        129..=256 => Ok(format!("{body}_256")),
        dk => Err(format!("for keys of up to 256, not {dk}")),
    }
}

/// The pointers of all inputs but the state, and of o.
pub fn inputs(args: &mut Args, step: &Step<'_>) -> Result<Sizes> {
    let sizes = sizes(step.problem, 0).map_err(|e| step.refuse(e))?;
    for i in 0..7 {
        args.tensor(step, step.input(i)?)?;
    }
    args.tensor(step, step.output())?;
    Ok(sizes)
}

/// Distances of rows of q, k, v, a, b and o of a primitive.
pub fn strides(step: &Step<'_>) -> Result<[usize; 6]> {
    let mut strides = [step.output().row_stride(); 6];
    for (i, stride) in strides[..5].iter_mut().enumerate() {
        *stride = step.input(i)?.row_stride();
    }
    Ok(strides)
}

/// The words that follow the pointers.
pub fn words(
    args: &mut Args,
    step: &Step<'_>,
    sizes: &Sizes,
    view: &StateView,
    strides: &[usize; 6],
) -> Result<()> {
    let rule = (step.problem.ops.iter()).find_map(|o| match o.op {
        Op::GatedDelta(spec) => Some(spec),
        _ => None,
    });
    let Some(spec) = rule else {
        return Err(step.refuse("not a gated_delta"));
    };
    args.u32s(step, &[sizes.key_heads, sizes.heads, sizes.dk, sizes.dv])?;
    args.u32s(
        step,
        &[usize::from(spec.log_decay), usize::from(spec.tiled)],
    )?;
    args.u32s(step, &[view.slots, view.slot_stride])?;
    args.u32s(step, strides)
}
