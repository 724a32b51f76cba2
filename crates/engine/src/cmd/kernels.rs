//! `engine kernels`: what is registered.

use crate::cmd::Context;
use crate::output::{self, Exit};
use crate::session;
use clap::Args;
use registry::{Act, Entry, Registry};
use serde::Serialize;
use std::fmt::Write;

#[derive(Args, Debug)]
pub struct KernelsArgs {
    /// Only kernels of this layer: an op list such as add+rms_norm, or one op,
    /// which also finds the fused kernels that hold it
    #[arg(long, value_name = "LAYER")]
    pub layer: Option<String>,

    /// Only kernels that read this storage scheme, such as bf16
    #[arg(long, value_name = "SCHEME")]
    pub quant: Option<String>,

    /// Print JSON: an array of {backend, layer, quant, variant, …}
    #[arg(long)]
    pub json: bool,
}

#[derive(Serialize)]
struct Row {
    backend: &'static str,
    layer: Vec<&'static str>,
    quant: String,
    variant: &'static str,
    act: Act,
    rank: i32,
    tolerance: f32,
    layouts: &'static [&'static str],
    source: &'static str,
}

/// `--backend` filters here: one name, or several between commas.
pub fn kernels(context: &Context, args: &KernelsArgs) -> anyhow::Result<Exit> {
    let registry = Registry::collect()?;
    let wanted: Vec<&str> = context.global.backend.split(',').map(str::trim).collect();
    let any = wanted.contains(&runtime::device::AUTO);
    for name in &wanted {
        session::registry_knows(&registry, name)?;
    }
    let rows: Vec<Row> = registry
        .entries()
        .filter(|e| any || wanted.contains(&e.key.backend))
        .filter(|e| args.layer.as_deref().is_none_or(|l| has_layer(e, l)))
        .filter(|e| args.quant.as_deref().is_none_or(|q| has_quant(e, q)))
        .map(row)
        .collect();
    if args.json {
        output::print_json(&rows)?;
    } else {
        output::print(&table(&rows)?)?;
        context.term.note(format_args!("{} kernels", rows.len()));
    }
    Ok(Exit::Done)
}

fn has_layer(entry: &Entry, wanted: &str) -> bool {
    let layer = &entry.key.layer;
    layer.to_string() == wanted || layer.0.iter().any(|op| op.name() == wanted)
}

fn has_quant(entry: &Entry, wanted: &str) -> bool {
    let quant = &entry.key.quant;
    quant == wanted || quant.split(',').any(|q| q == wanted)
}

fn row(entry: &Entry) -> Row {
    let spec = entry.kernel.spec();
    Row {
        backend: entry.key.backend,
        layer: entry.key.layer.0.iter().map(|op| op.name()).collect(),
        quant: entry.key.quant.clone(),
        variant: entry.key.variant,
        act: spec.act,
        rank: spec.rank,
        tolerance: spec.tolerance,
        layouts: spec.layouts,
        source: entry.file,
    }
}

fn table(rows: &[Row]) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let layers: Vec<String> = rows.iter().map(|r| r.layer.join("+")).collect();
    let wide = |f: &dyn Fn(usize) -> usize| (0..rows.len()).map(f).max().unwrap_or(0);
    let backend = wide(&|i| rows[i].backend.len());
    let layer = wide(&|i| layers[i].len());
    let quant = wide(&|i| rows[i].quant.len());
    let variant = wide(&|i| rows[i].variant.len());
    for (r, l) in rows.iter().zip(&layers) {
        writeln!(
            text,
            "{:backend$}  {l:layer$}  {:quant$}  {:variant$}  act {:<6}  rank {:>3}  {}",
            r.backend,
            r.quant,
            r.variant,
            r.act.name(),
            r.rank,
            r.source
        )?;
    }
    Ok(text)
}
