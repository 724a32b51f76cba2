//! op: embed. y[t, :] = table[token_ids[t], :].
//!
//! table [V, H] stored, y f32 [T, H]. Threads share the rows. Exact.

use crate::common::plumbing::{Plain, Result, Step};
use crate::common::stored::{for_each_scheme, register_schemes};
use registry::Pattern;

fn record(mut step: Step<'_>) -> Result<()> {
    let table = step.matrix(0)?;
    let y = step.output()?;
    let meta = step.meta()?;
    step.task(move |ctx| {
        // SAFETY: a declared read.
        let meta = unsafe { meta.view() };
        for t in ctx.share(meta.rows()) {
            let id = meta.token_id(t);
            assert!(
                id < table.n,
                "row {t} has token {id}, but the table ends before {}",
                table.n
            );
            // SAFETY: a declared read, and this thread's own row of the output.
            unsafe { table.decode(id, y.row_mut(t)) };
        }
    })
}

const fn of(quant: &'static [&'static str]) -> Plain {
    Plain::new(&Pattern::EMBED, quant, "plain", record).with_matrix()
}

for_each_scheme!(register_schemes);
