//! op: embed of block-quantised tables. See `mma16.cu`.

use crate::common::args::Args;
use crate::common::launch::{Plain, Result, Step, blocks, ptx};
use crate::common::layout::{MMA16, chunks};
use registry::Pattern;

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
    args.u32s(step, &[len, chunks(len), vocabulary, y.row_stride()])?;
    let grid = [blocks(len, 128), step.max_rows(), 1];
    step.launch(&format!("embed_{}", table.scheme), &args, grid, 128)
}

const fn of(quant: &'static [&'static str]) -> Plain {
    Plain::new(&Pattern::EMBED, quant, "mma16", ptx!("embed.mma16"), record).with_layouts(&[MMA16])
}

static Q4_0: Plain = of(&["q4_0"]);
static Q8_0: Plain = of(&["q8_0"]);
static Q4_K: Plain = of(&["q4_k"]);
static Q5_K: Plain = of(&["q5_k"]);
static Q6_K: Plain = of(&["q6_k"]);
registry::register!(Q4_0, Q8_0, Q4_K, Q5_K, Q6_K);

static Q4_1: Plain = of(&["q4_1"]);
static Q5_0: Plain = of(&["q5_0"]);
static Q5_1: Plain = of(&["q5_1"]);
static Q2_K: Plain = of(&["q2_k"]);
static Q3_K: Plain = of(&["q3_k"]);
static IQ4_NL: Plain = of(&["iq4_nl"]);
static IQ4_XS: Plain = of(&["iq4_xs"]);
static MXFP4: Plain = of(&["mxfp4"]);
static W4_PARO: Plain = of(&["w4_paro"]);
registry::register!(Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, IQ4_NL, IQ4_XS, MXFP4, W4_PARO);
