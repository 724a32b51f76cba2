//! `engine verify`: rings 2 and 3 on this machine, a line for each gate.

use crate::args::at_least_one;
use crate::cmd::{Context, demo};
use crate::output::{self, Exit, Usage};
use crate::progress::Progress;
use crate::session;
use anyhow::Context as _;
use clap::Args;
use hal::{Device, DeviceKind};
use parity::kernel_gate::{self, Cases, ChainOracle, ORACLE};
use parity::model_gate::{self, VerifyOptions};
use registry::{Backend, Registry};
use runtime::Opened;
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// Model folder, GGUF file, or OWNER/NAME in the Hugging Face cache [default: the demonstration model]
    #[arg(short, long, value_name = "MODEL")]
    pub model: Option<PathBuf>,

    /// Only this ring: 2 is every kernel, 3 is the whole model
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=3))]
    pub ring: Option<u8>,

    /// Only kernels whose key (backend/layer/quant/variant) contains this
    #[arg(long, value_name = "TEXT", conflicts_with = "ring")]
    pub only: Option<String>,

    /// A third of the cases for each kernel; always so on software devices
    #[arg(long)]
    pub quick: bool,

    /// Take the model's kernels that round no activations, though others are faster: for
    /// routers with near ties, which any rounding step turns
    #[arg(long)]
    pub f32_activations: bool,

    /// About how many seconds the model may take
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = at_least_one)]
    pub time_limit: usize,
}

pub fn verify(context: &Context, args: &VerifyArgs) -> anyhow::Result<Exit> {
    let registry = Registry::collect()?;
    let mut options = session::load_options(&context.global);
    session::registry_knows(&registry, &options.backend)?;
    session::check_placement(&registry, &options)?;
    let ring3 = args.ring != Some(2) && args.only.is_none();
    if ring3 && options.backend == ORACLE {
        return Err(Usage(format!(
            "--backend {ORACLE} is what models are compared with; name another, or check its kernels alone with --ring 2"
        ))
        .into());
    }
    // A model that cannot be read is found before minutes of kernels.
    let opened = match ring3 {
        true => Some(open_model(context, args, &options)?),
        false => None,
    };
    let mut passed = true;
    if args.ring != Some(3) {
        let chosen =
            runtime::device::choose(&registry, &options.backend, &options.open, &mut |_, _| {
                Ok(())
            })?;
        for note in &chosen.notes {
            context.term.note(format_args!("note: {note}"));
        }
        passed &= kernels(context, args, &registry, chosen.backend, &*chosen.device)?;
    }
    if let Some(opened) = &opened {
        if args.f32_activations {
            options.acts = Some(model_gate::f32_acts(opened));
        }
        let how = VerifyOptions {
            limit: Duration::from_secs(args.time_limit as u64),
            ..VerifyOptions::default()
        };
        let mut closed = None;
        let mut line = |text: &str| {
            if closed.is_none() {
                closed = output::print(&format!("ring 3  {text}\n")).err();
            }
        };
        passed &= model_gate::verify(opened, &registry, &options, &how, &mut line)
            .context("ring 3 could not run")?;
        if let Some(error) = closed {
            return Err(error);
        }
    }
    Ok(match passed {
        true => Exit::Done,
        false => Exit::GateFailed,
    })
}

fn open_model(
    context: &Context,
    args: &VerifyArgs,
    options: &runtime::LoadOptions,
) -> anyhow::Result<Opened> {
    let path = match &args.model {
        Some(path) => path.clone(),
        None => demo::find_model()?,
    };
    session::open(&context.term, &path, options)
}

/// Every kernel that the backend or its parents register, on one device.
fn kernels(
    context: &Context,
    args: &VerifyArgs,
    registry: &Registry,
    backend: &'static Backend,
    device: &dyn Device,
) -> anyhow::Result<bool> {
    let start = Instant::now();
    let chain = registry.chain(backend.name)?;
    let wanted: Vec<_> = registry
        .entries()
        .filter(|e| chain.iter().any(|b| b.name == e.key.backend))
        .filter(|e| {
            let only = args.only.as_deref();
            only.is_none_or(|text| e.key.to_string().contains(text))
        })
        .collect();
    if wanted.is_empty() {
        anyhow::bail!(
            "no kernel of {} matches; `engine kernels --backend {0}` lists them",
            backend.name
        );
    }
    let software = device.info().kind == DeviceKind::Software;
    let options = kernel_gate::Options {
        cases: match (software, args.quick) {
            (true, _) => Cases::FewPipelines,
            (false, true) => Cases::Quick,
            (false, false) => Cases::All,
        },
        ..kernel_gate::Options::default()
    };
    let oracle = ChainOracle::open(registry).context("ring 2 could not run")?;
    let mut bar = Progress::count(&context.term, "kernels");
    let (mut gates, mut failed) = (0, 0);
    for (i, entry) in wanted.iter().enumerate() {
        bar.update(i as u64, wanted.len() as u64);
        let reports = kernel_gate::gate_kernel(entry.kernel, device, &options, &oracle)
            .with_context(|| format!("ring 2 could not run for {}", entry.key))?;
        let mut lines = String::new();
        for report in &reports {
            gates += 1;
            failed += usize::from(!report.passed());
            lines.push_str(&format!("ring 2  {report}\n"));
        }
        bar.suspend(|| output::print(&lines))?;
    }
    drop(bar);
    output::print(&format!(
        "ring 2  {} of {gates} kernel gates passed on {} ({}) after {:.1} s\n",
        gates - failed,
        device.info().name,
        device.info().driver,
        start.elapsed().as_secs_f64()
    ))?;
    Ok(failed == 0)
}
