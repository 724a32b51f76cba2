//! The convolutions of q, k and v of one row, the gated delta rule and maybe the norm
//! and gate behind it. See `conv_delta.comp`.

use crate::common::launch::{Gpu, Plain, Result, Step, shader};
use crate::common::state::{check_pool, view_of};
use graph::{ConvSpec, DeltaSpec, Op};
use hal::DeviceKind;
use hal::vulkan::STORAGE_BUFFERS_24;
use registry::{OperandSrc, Pattern, Problem, StateView};

type Checked<T> = std::result::Result<T, String>;

/// Longest column of a head's state, and most columns of one.
const MOST_DIM: usize = 256;

/// Columns of a workgroup that makes no norm.
const COLUMNS: u32 = 32;

/// Lanes that share a column.
const SLICES: u32 = 8;

// Places of the rule, and of the norm and the gate that may follow it.
const DELTA: usize = 3;
const NORM: usize = 4;
const GATE: usize = 5;

/// Where each state is an operand: of which op, and its place there.
const STATES: [(usize, usize); 4] = [(0, 2), (1, 2), (2, 2), (DELTA, 7)];

/// Heads of keys and of values, and their dimensions.
struct Heads {
    key_heads: usize,
    heads: usize,
    dk: usize,
    dv: usize,
}

fn heads(problem: &Problem) -> Checked<Heads> {
    match (&problem.ops[0].shape[..], &problem.ops[2].shape[..]) {
        (&[_, key_heads, dk], &[_, heads, dv]) => Ok(Heads {
            key_heads,
            heads,
            dk,
            dv,
        }),
        _ => Err("q, k and v must be [T, heads, head_dim]".into()),
    }
}

fn conv(problem: &Problem, op: usize) -> Checked<ConvSpec> {
    match problem.ops[op].op {
        Op::CausalConv(spec) => Ok(spec),
        _ => Err("not a causal_conv".into()),
    }
}

fn rule(problem: &Problem) -> Checked<DeltaSpec> {
    match problem.ops[DELTA].op {
        Op::GatedDelta(spec) => Ok(spec),
        _ => Err("not a gated_delta".into()),
    }
}

/// The views of all states: places in the slots of one pool.
fn views(problem: &Problem) -> Checked<[StateView; 4]> {
    let mut views = [view_of(problem, DELTA, 7)?; 4];
    for (view, (op, i)) in views.iter_mut().zip(STATES) {
        *view = view_of(problem, op, i)?;
    }
    let pool = |v: &StateView| (v.slots, v.slot_stride);
    match views.iter().all(|v| pool(v) == pool(&views[0])) {
        true => Ok(views),
        false => Err("all states must lie in one pool".into()),
    }
}

fn fits(problem: &Problem) -> Checked<()> {
    problem.common_attributes()?;
    if !problem.device.features.contains(STORAGE_BUFFERS_24) {
        return Err(format!("the device has no {STORAGE_BUFFERS_24}"));
    }
    let rows = problem.outputs[0].shape[0];
    if rows != 1 {
        return Err(format!("for one row, not {rows}"));
    }
    let Heads { dk, dv, .. } = heads(problem)?;
    if dk.max(dv) > MOST_DIM {
        return Err(format!("for heads of up to {MOST_DIM}, not {dk} and {dv}"));
    }
    views(problem)?;
    let from_outside = |op: usize, i: usize| problem.input(op, i).is_some();
    if !(3..7).all(|i| from_outside(DELTA, i)) {
        return Err("what the rule decays by must come from outside".into());
    }
    match problem.input(NORM, 1) {
        Some((_, w)) if w.shape != [dv] => Err("the norm must be of each head".into()),
        Some(_) if !matches!(problem.ops[GATE].inputs[0], OperandSrc::Input(_)) => {
            Err("the gate must come from outside".into())
        }
        _ => Ok(()),
    }
}

fn constants(problem: &Problem, gpu: Gpu) -> Checked<Vec<u32>> {
    check_pool(&views(problem)?[0], gpu)?;
    let sizes = heads(problem)?;
    let normed = problem.ops.len() > NORM;
    let most = gpu.limits.workgroup_invocations;
    let columns = match gpu.info.kind {
        DeviceKind::Software => gpu.info.subgroup,
        _ if normed => (sizes.dv.next_power_of_two() as u32).max(COLUMNS).min(most),
        _ => COLUMNS,
    };
    let slices = match gpu.info.kind {
        DeviceKind::Software => 1,
        _ => SLICES.min(most / columns).max(1),
    };
    let mut all = gpu.lanes(columns * slices);
    all.extend([sizes.dk, sizes.dv, sizes.heads, sizes.key_heads].map(|n| n as u32));
    all.extend([columns, slices]);
    let (mut silu, mut biased) = (0, 0);
    for op in 0..DELTA {
        let spec = conv(problem, op)?;
        all.push(spec.kernel as u32);
        silu |= u32::from(spec.silu) << op;
        biased |= u32::from(problem.input(op, 3).is_some()) << op;
    }
    let rule = rule(problem)?;
    all.extend([silu, biased]);
    all.extend([rule.log_decay, rule.tiled, normed].map(u32::from));
    Ok(all)
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let sizes = heads(step.problem).map_err(|e| step.refuse(e))?;
    let views = views(step.problem).map_err(|e| step.refuse(e))?;
    let normed = step.problem.ops.len() > NORM;
    // Each of the first four ops has two outputs, its values and its state.
    let outputs = &step.binds.outputs;
    let pool = step.operand(DELTA, 7)?;
    for (op, i) in STATES {
        let other = step.operand(op, i)?;
        if (other.buffer.id(), other.offset) != (pool.buffer.id(), pool.offset) {
            return Err(step.refuse("all states must lie in one pool: plan without fusion"));
        }
    }
    let mut args = step.args();
    // Of q, k and v: x, weights, biases, values.
    let mut at = [[0; 3]; 4];
    for (slot, at) in [0, 1, 3].into_iter().zip(&mut at) {
        for (op, at) in at.iter_mut().enumerate() {
            // Without a bias the binding is never read.
            let tensor = step.optional(op, slot)?.unwrap_or(step.operand(op, 0)?);
            *at = args.words(tensor)? as usize;
        }
    }
    for (op, at) in at[3].iter_mut().enumerate() {
        *at = args.words(&outputs[2 * op])? as usize;
    }
    let states = args.words(pool)? as usize;
    let mut gates = [0; 4];
    for (i, at) in gates.iter_mut().enumerate() {
        *at = args.words(step.operand(DELTA, 3 + i)?)? as usize;
    }
    let o = &outputs[2 * DELTA];
    let mut behind = [0; 4];
    // What is not there is bound to o and neither read nor written.
    let norm = step.optional(NORM, 1)?.unwrap_or(o);
    let gate = step.optional(GATE, 0)?.unwrap_or(o);
    let last = outputs.last().filter(|_| normed).unwrap_or(o);
    for (tensor, at) in [o, norm, gate, last].into_iter().zip(&mut behind) {
        *at = args.words(tensor)? as usize;
    }
    let meta = args.step(&step.binds.step)?;
    let layout = &step.problem.step;
    args.count(meta, step.problem.outputs[0].rows)?;
    args.u32(meta + layout.row_span())?;
    args.u32s(&[meta + layout.state_in(), meta + layout.state_out()])?;
    args.u32s(at.as_flattened())?;
    args.u32s(&views.map(|v| states + v.offset))?;
    args.u32s(&[views[0].slot_stride, views[0].slots])?;
    args.u32s(&gates)?;
    args.u32s(&behind)?;
    let (eps, offset) = match step.problem.ops.get(NORM).map(|o| &o.op) {
        Some(Op::RmsNorm { eps, weight_offset }) => (*eps, *weight_offset),
        _ => (0.0, 0.0),
    };
    args.f32(eps);
    args.f32(offset);
    let chunks = match normed {
        true => 1,
        false => (sizes.dv as u32).div_ceil(step.constants[7]),
    };
    step.dispatch(&args, [sizes.heads as u32 * chunks, 1, 1])
}

/// The kernel of one of the patterns.
pub const fn kernel(pattern: &'static Pattern, rank: i32) -> Plain {
    let shader = shader!("common.conv_delta", 22, 32);
    let mut plain =
        Plain::new(pattern, &["f32"], "recurrent", shader, record).with_constants(constants);
    plain.fits = fits;
    plain.spec.rank = rank;
    plain.spec.tolerance = 5e-5;
    plain
}
