//! op: embed. See `plain.comp`.

use crate::common::launch::{Gpu, Plain, Result, Step, shader};
use crate::common::stored::{Matrix, for_each_scheme, is_plain, register_schemes, scheme_constant};
use registry::{Pattern, Problem};

/// Elements of a group of a block scheme.
const GROUP: usize = 32;

fn constants(problem: &Problem, gpu: Gpu) -> std::result::Result<Vec<u32>, String> {
    let mut all = gpu.elementwise();
    all.push(scheme_constant(problem.inputs[0].scheme)?);
    Ok(all)
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let table = step.input(0)?;
    let matrix = Matrix::of(table).map_err(|e| step.refuse(e))?;
    let items = match is_plain(table.scheme) {
        true => matrix.k,
        false => matrix.k / GROUP,
    };
    for (first, count) in step.row_parts(&matrix)? {
        let mut args = step.args();
        let w = args.matrix(table, &matrix, first, count)?;
        let y = args.rows(step.output())?;
        let meta = args.step(&step.binds.step)?;
        args.count(meta, step.problem.outputs[0].rows)?;
        let ids = meta + step.problem.step.token_ids();
        args.u32s(&[matrix.k, w, matrix.stride(), y.0, y.1, ids, first, count])?;
        step.dispatch(&args, [step.groups_of(items), step.max_rows(), 1])?;
    }
    Ok(())
}

const fn of(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    let shader = shader!("embed.plain", 3, 9);
    Plain::new(&Pattern::EMBED, quant, "plain", shader, record)
        .with_matrix(layouts)
        .with_constants(constants)
}

for_each_scheme!(register_schemes);
