//! op: latent_append. Stores each row's latent vector, c followed by k, at its
//! position.
//!
//! c f32 [T, L], k f32 [T, 1, R]; cache in pages, f32, f16 or bf16 (rounded to
//! nearest even). Threads share the rows, whose positions differ.

use crate::common::plumbing::{Plain, Result, Step};
use registry::{NO_BLOCK, Pattern};

fn record(mut step: Step<'_>) -> Result<()> {
    let (c, k) = (step.activation(0)?, step.activation(1)?);
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
            // SAFETY: declared reads and a declared write; rows have distinct
            // positions.
            unsafe {
                let both = [c.row(t), k.row(t)].concat();
                cache.store(page as usize, 0, 0, position % view.block, &both);
            }
        }
    })
}

const fn of(quant: &'static [&'static str]) -> Plain {
    Plain::new(&Pattern::LATENT_APPEND, quant, "plain", record)
}

static F32: Plain = of(&["f32"]);
static F16: Plain = of(&["f16"]);
static BF16: Plain = of(&["bf16"]);
registry::register!(F32, F16, BF16);
