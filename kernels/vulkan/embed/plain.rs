//! op: embed. See `plain.comp`.

use crate::common::launch::{Gpu, Plain, Result, Step, element_bytes, scheme_constant, shader};
use registry::{Pattern, Problem};

fn constants(problem: &Problem, gpu: Gpu) -> std::result::Result<Vec<u32>, String> {
    let mut all = gpu.elementwise();
    all.push(scheme_constant(problem.inputs[0].scheme)?);
    Ok(all)
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let table = step.input(0)?;
    let &[vocabulary, len] = table.shape.as_slice() else {
        return Err(step.refuse(format!(
            "a table [V, H] was expected, not {:?}",
            table.shape
        )));
    };
    let size = element_bytes(table.scheme);
    let row = len as u64 * size;
    let limits = step.limits();
    let part = limits.rows_per_binding(row, vocabulary);
    if part == 0 {
        return Err(step.refuse("one row of the table is larger than a binding"));
    }
    for first in (0..vocabulary).step_by(part) {
        let count = part.min(vocabulary - first);
        let mut args = step.args();
        let w = args.bind(table, first as u64 * row, count as u64 * row, size)?;
        let y = args.rows(step.output())?;
        let meta = args.step(&step.binds.step)?;
        args.count(meta, step.problem.outputs[0].rows)?;
        let ids = meta + step.problem.step.token_ids();
        args.u32s(&[len, w as usize, y.0, y.1, ids, first, count])?;
        step.dispatch(&args, [step.groups_of(len), step.max_rows(), 1])?;
    }
    Ok(())
}

const fn of(quant: &'static [&'static str]) -> Plain {
    let shader = shader!("embed.plain", 3, 8);
    Plain::new(&Pattern::EMBED, quant, "plain", shader, record)
        .with_matrix()
        .with_constants(constants)
}

static F32: Plain = of(&["f32"]);
static F16: Plain = of(&["f16"]);
static BF16: Plain = of(&["bf16"]);
registry::register!(F32, F16, BF16);
