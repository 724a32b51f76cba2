//! op: rotate. See `plain.comp`.

use crate::common::launch::{Plain, Result, Step, shader};
use graph::Op;
use registry::{Pattern, Problem};

/// Largest group: one f32 for each element is kept in shared memory.
const MOST: usize = 2048;

fn spec(problem: &Problem) -> std::result::Result<(usize, usize), String> {
    match problem.ops[0].op {
        Op::Rotate { rounds, group } => Ok((rounds, group)),
        _ => Err("not a rotate".into()),
    }
}

fn fits(problem: &Problem) -> std::result::Result<(), String> {
    match spec(problem)?.1 {
        group if group <= MOST => Ok(()),
        group => Err(format!("for groups of up to {MOST}, not {group}")),
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let (rounds, group) = spec(step.problem).map_err(|e| step.refuse(e))?;
    let scales = step.input(3)?;
    let width = scales.shape[0];
    let mut args = step.args();
    let x = args.rows(step.input(0)?)?;
    let theta = args.words(step.input(1)?)? as usize;
    let pairs = args.words(step.input(2)?)? as usize;
    let s = args.words(scales)? as usize;
    let y = args.rows(step.output())?;
    let meta = args.step(&step.binds.step)?;
    args.count(meta, step.problem.outputs[0].rows)?;
    args.u32s(&[width, rounds, x.0, x.1, theta, pairs, s, y.0, y.1])?;
    let groups = (step.row_len() / group) as u32;
    step.dispatch(&args, [groups, step.max_rows(), 1])
}

const fn plain() -> Plain {
    let shader = shader!("rotate.plain", 6, 10);
    let mut plain = Plain::new(&Pattern::ROTATE, &["f32"], "plain", shader, record).with_constants(
        |problem, gpu| {
            let group = spec(problem)?.1;
            let mut all = gpu.reduce(2 * group);
            all.push(group as u32);
            Ok(all)
        },
    );
    plain.fits = fits;
    plain
}

static F32: Plain = plain();
registry::register!(F32);
