//! `engine plan`: which kernels would run, and why. Loads nothing.

use crate::args::at_least_one;
use crate::cmd::Context;
use crate::output::{self, Exit};
use crate::session;
use clap::Args;
use hal::DeviceInfo;
use planner::{PlanReport, Program};
use registry::{Backend, Registry};
use runtime::{LoadOptions, Opened};
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct PlanArgs {
    /// Model folder, GGUF file, or OWNER/NAME in the Hugging Face cache
    #[arg(short, long, value_name = "MODEL")]
    pub model: PathBuf,

    /// Only the plan for a step of so many tokens [default: every bucket]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub rows: Option<usize>,

    /// Print JSON: an array of plans
    #[arg(long)]
    pub json: bool,
}

pub fn plan(context: &Context, args: &PlanArgs) -> anyhow::Result<Exit> {
    let registry = Registry::collect()?;
    let options = session::load_options(&context.global);
    session::registry_knows(&registry, &options.backend)?;
    session::check_placement(&registry, &options)?;
    let opened = session::open(&context.term, &args.model, &options)?;
    let (options, notes) = opened.settle(&options)?;
    for line in notes {
        context.term.note(format_args!("note: {line}"));
    }
    let (backend, device) = find_device(&registry, &options)?;
    let program = opened.plan(&registry, backend.name, &device, &options)?;
    let reports = reports(&program, args.rows)?;
    if args.json {
        output::print_json(&reports)?;
        return Ok(Exit::Done);
    }
    let blocks: Vec<String> = reports.iter().map(PlanReport::to_string).collect();
    output::print(&blocks.join("\n"))?;
    for line in session::placement(&program) {
        context.term.note(line);
    }
    let memory = program.memory();
    context.term.note(format_args!(
        "memory: weights {}, KV cache {} for {} tokens, activations {}",
        runtime::human(memory.weights),
        runtime::human(memory.cache),
        program.limits.context,
        runtime::human(memory.activations)
    ));
    Ok(Exit::Done)
}

fn reports(program: &Program, rows: Option<usize>) -> anyhow::Result<Vec<PlanReport>> {
    match rows {
        None => Ok(program.plans.iter().map(|p| program.report(p)).collect()),
        Some(rows) => match program.plan_for(rows) {
            Some(plan) => Ok(vec![program.report(plan)]),
            None => anyhow::bail!(
                "no step has {rows} rows: steps go up to {}, longer prompts are cut into several",
                program.limits.rows
            ),
        },
    }
}

/// The backend and device that a load would choose first, nothing opened.
pub fn find_device(
    registry: &Registry,
    options: &LoadOptions,
) -> anyhow::Result<(&'static Backend, DeviceInfo)> {
    if options.backend == runtime::device::AUTO {
        let (candidates, notes) = runtime::device::auto_candidates(registry, &options.open);
        return match candidates.into_iter().next() {
            Some(c) => Ok((c.backend, c.info)),
            None => anyhow::bail!("no backend has a device here: {}", notes.join("; ")),
        };
    }
    let backend = registry.backend(&options.backend)?;
    let device = runtime::device::find(backend, &options.open)?;
    Ok((backend, device))
}

/// Memory that a model would need there at a context length.
pub fn memory_at(
    opened: &Opened,
    registry: &Registry,
    backend: &Backend,
    device: &DeviceInfo,
    options: &LoadOptions,
    context: usize,
) -> anyhow::Result<planner::Memory> {
    let options = LoadOptions {
        context: Some(context),
        ..options.clone()
    };
    Ok(opened
        .plan(registry, backend.name, device, &options)?
        .memory())
}
