//! op: embed of plain schemes. See `plain.cu`.

use crate::common::args::Args;
use crate::common::launch::{Plain, Result, Step, blocks, ptx, suffix};
use registry::{Pattern, ROW_MAJOR};

fn record(step: &mut Step<'_>) -> Result<()> {
    let (table, y) = (step.input(0)?, step.output());
    let &[vocabulary, len] = table.shape.as_slice() else {
        return Err(step.refuse(format!(
            "a table [V, H] was expected, not {:?}",
            table.shape
        )));
    };
    let mut args = Args::default();
    args.tensor(step, table)?;
    args.tensor(step, y)?;
    args.count(step, step.rows_from())?;
    args.step(step, step.problem.step.token_ids())?;
    args.u32s(step, &[len, vocabulary, y.row_stride()])?;
    let entry = suffix(table.scheme).map_err(|e| step.refuse(e))?;
    let grid = [blocks(len, 128), step.max_rows(), 1];
    step.launch(&format!("embed_{entry}"), &args, grid, 128)
}

const fn of(quant: &'static [&'static str]) -> Plain {
    Plain::new(&Pattern::EMBED, quant, "plain", ptx!("embed.plain"), record)
        .with_layouts(&[ROW_MAJOR])
}

static F32: Plain = of(&["f32"]);
static F16: Plain = of(&["f16"]);
static BF16: Plain = of(&["bf16"]);
registry::register!(F32, F16, BF16);
