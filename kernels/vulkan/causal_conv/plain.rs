//! op: causal_conv. See `plain.comp`.

use crate::common::launch::{Gpu, Plain, Result, Step, shader};
use crate::common::state;
use graph::Op;
use registry::{Pattern, Problem};

fn constants(problem: &Problem, gpu: Gpu) -> std::result::Result<Vec<u32>, String> {
    state::check(problem, gpu, 2)?;
    Ok(gpu.elementwise())
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::CausalConv(spec) = step.problem.ops[0].op else {
        return Err(step.refuse("not a causal_conv"));
    };
    let view = state::view(step, 2)?;
    let bias = match step.has_input(3) {
        true => Some(step.input(3)?),
        false => None,
    };
    let mut args = step.args();
    let x = args.rows(step.input(0)?)?;
    let w = args.words(step.input(1)?)? as usize;
    let s = args.words(step.input(2)?)? as usize + view.offset;
    // Without a bias the binding is never read.
    let b = args.words(bias.unwrap_or(step.input(0)?))? as usize;
    let y = args.rows(step.output())?;
    let meta = args.step(&step.binds.step)?;
    let layout = &step.problem.step;
    let channels = step.row_len();
    args.count(meta, step.problem.outputs[0].rows)?;
    args.u32s(&[channels, spec.kernel, x.0, x.1, w])?;
    args.u32s(&[s, view.slot_stride, view.slots])?;
    args.u32s(&[b, usize::from(bias.is_some()), y.0, y.1])?;
    args.u32s(&[meta + layout.row_span(), meta + layout.span_start()])?;
    args.u32s(&[meta + layout.state_in(), meta + layout.state_out()])?;
    args.u32(usize::from(spec.silu))?;
    step.dispatch(&args, [step.groups_of(channels), step.max_rows(), 1])
}

static F32: Plain = Plain::new(
    &Pattern::CAUSAL_CONV,
    &["f32"],
    "plain",
    shader!("causal_conv.plain", 6, 18),
    record,
)
.with_constants(constants);
registry::register!(F32);
