//! op: kv_append. Stores each row's keys and values at its position.
//!
//! k, v f32 [T, kv_heads, head_dim]; cache in pages, f32, f16, bf16 (rounded to
//! nearest even) or int8_kv. Row t of span s at position p goes to token p mod block of page
//! table[s][p / block]. Threads share the rows, whose positions differ.

use crate::common::plumbing::{Plain, Result, Step};
use registry::{NO_BLOCK, Pattern};

fn record(mut step: Step<'_>) -> Result<()> {
    let kv = [step.activation(0)?, step.activation(1)?];
    let cache = step.cache(2)?;
    let meta = step.meta()?;
    let view = cache.view;
    step.task(move |ctx| {
        // SAFETY: a declared read.
        let meta = unsafe { meta.view() };
        for t in ctx.share(meta.rows()) {
            let position = meta.position(t);
            let page = meta.table(view.group, meta.row_span(t))[position / view.block];
            assert!(
                page != NO_BLOCK && (page as usize) < view.pages,
                "row {t} has no page for position {position}"
            );
            for (s, rows) in kv.iter().enumerate() {
                // SAFETY: a declared read.
                let x = unsafe { rows.row(t) };
                for (head, x) in x.chunks_exact(view.head_dim).enumerate() {
                    // SAFETY: a declared write; rows have distinct positions.
                    unsafe { cache.store(page as usize, s, head, position % view.block, x) };
                }
            }
        }
    })
}

const fn of(quant: &'static [&'static str]) -> Plain {
    Plain::new(&Pattern::KV_APPEND, quant, "plain", record)
}

static F32: Plain = of(&["f32"]);
static F16: Plain = of(&["f16"]);
static BF16: Plain = of(&["bf16"]);
static INT8: Plain = of(&["int8_kv"]);
registry::register!(F32, F16, BF16, INT8);
