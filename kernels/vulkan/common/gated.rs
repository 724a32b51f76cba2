//! The gated products: one shader, the nonlinearity a specialization constant.

use crate::common::launch::{Plain, Result, Step, shader};
use graph::{Activation, Op};
use registry::Pattern;

fn number(act: Activation) -> u32 {
    match act {
        Activation::Silu => 0,
        Activation::GeluTanh => 1,
        Activation::Gelu => 2,
        Activation::Sigmoid => 3,
        Activation::Identity => 4,
        Activation::SwigluOai => 5,
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let (gate, up) = (step.input(0)?, step.input(1)?);
    let mut args = step.args();
    let a = args.rows(gate)?;
    let b = args.rows(up)?;
    let y = args.rows(step.output())?;
    let meta = args.step(&step.binds.step)?;
    let len = step.row_len();
    let gates: usize = gate.shape.iter().skip(1).product();
    args.count(meta, step.problem.outputs[0].rows)?;
    args.u32s(&[len, a.0, a.1, b.0, b.1, y.0, y.1])?;
    args.u32(usize::from(gates == len))?;
    step.dispatch(&args, [step.groups_of(len), step.max_rows(), 1])
}

/// The kernel of one nonlinearity.
pub const fn kernel(pattern: &'static Pattern) -> Plain {
    let shader = shader!("common.gated", 4, 9);
    Plain::new(pattern, &["f32"], "plain", shader, record)
        .with_every_attribute()
        .with_constants(|problem, gpu| {
            let Op::GatedMul(act) = problem.ops[0].op else {
                return Err("not a gated product".into());
            };
            let mut all = gpu.elementwise();
            all.push(number(act));
            Ok(all)
        })
}
