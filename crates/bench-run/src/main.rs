//! Measures prefill and decode of a model, and a peer beside it in the same run.
//!
//! The gate comes first: the plan that is to be timed is compared with the oracle
//! (ring 3), and a run whose gate fails is not accepted. Repeats of ours and of
//! the peer's alternate (A B A B …), because shared machines drift.

mod artifact;
mod gate;
mod measure;
mod peer;

use anyhow::{Context as _, Result};
use artifact::{Artifact, Measurements, Stat, Status};
use clap::Parser;
// The trees register themselves; a crate that nobody names registers nothing.
use kernels as _;
use registry::{OpenOptions, Registry};
use runtime::{LoadOptions, Opened};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Measure a model's speed, with its correctness gate.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Model folder
    #[arg(short, long)]
    model: PathBuf,
    #[arg(long, default_value = "auto")]
    backend: String,
    #[arg(long)]
    device: Option<String>,
    #[arg(long)]
    threads: Option<usize>,
    /// Tokens of the prompt whose processing is timed
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    prompt_tokens: u32,
    /// Tokens generated one at a time
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    gen_tokens: u32,
    /// Tokens that are in the cache before decoding starts
    #[arg(long, default_value_t = 0)]
    depth: u32,
    /// Sequences that decode together
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    batch: u32,
    /// Runs that are not counted
    #[arg(long, default_value_t = 1)]
    warmup: u32,
    /// Runs that are
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// A llama-bench command to run between ours; `-p`, `-n`, `-d` and `-o jsonl`
    /// are added
    #[arg(long)]
    peer: Option<String>,
    /// Write the artifact here
    #[arg(long)]
    json: Option<PathBuf>,
    /// Skip the gate: the run is only a diagnostic
    #[arg(long)]
    no_gate: bool,
    /// Time every step of one decode and one prefill
    #[arg(long)]
    profile: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(Status::Accepted | Status::Diagnostic) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(3),
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<Status> {
    let registry = Registry::collect()?;
    let opened = Opened::open(&args.model)?;
    let mut options = LoadOptions::new(&args.backend);
    options.open = OpenOptions {
        device: args.device.clone(),
        threads: args.threads,
        isa: None,
    };
    let tokens = args.depth + args.prompt_tokens.max(args.gen_tokens + 1);
    options.context = Some(tokens as usize);
    options.sequences = args.batch as usize;

    let start = Instant::now();
    let mut model = opened.load(&registry, &options, &mut |_, _| {})?;
    let load_s = start.elapsed().as_secs_f64();
    for note in &model.notes {
        eprintln!("note: {note}");
    }
    let runner = &mut model.runner;
    let gate = if args.no_gate {
        None
    } else {
        Some(gate::climb(&opened, &registry, &options, runner)?)
    };
    let shape = measure::Shape {
        prompt: args.prompt_tokens as usize,
        generated: args.gen_tokens as usize,
        depth: args.depth as usize,
        batch: args.batch as usize,
    };
    let mut ours = (Vec::new(), Vec::new());
    let mut theirs = (Vec::new(), Vec::new());
    for i in 0..args.warmup + args.runs {
        let counted = i >= args.warmup;
        let once = measure::run(runner, &shape)?;
        if counted {
            ours.0.push(once.prefill);
            ours.1.push(once.decode);
        }
        if let Some(command) = &args.peer {
            let once = peer::run(command, &shape).context("the peer's run")?;
            if counted {
                theirs.0.push(once.prefill);
                theirs.1.push(once.decode);
            }
        }
    }
    if args.profile {
        measure::profile(runner, &shape)?;
    }
    let pair = |(prefill, decode): (Vec<f64>, Vec<f64>)| Measurements {
        prefill_tok_s: Stat::of(prefill),
        decode_tok_s: Stat::of(decode),
    };
    let baseline = args.peer.as_ref().map(|command| (command, pair(theirs)));
    let artifact = Artifact::new(args, runner, load_s, gate, pair(ours), baseline);
    print!("{}", artifact.table());
    if let Some(path) = &args.json {
        artifact.write(path)?;
    }
    Ok(artifact.status)
}
