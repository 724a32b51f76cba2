//! Whole processes, from their start to their end: load the model, read a short prompt.
//! Ours and a peer's are timed by the same clock that way, whatever either counts as
//! loading.

use crate::args::{FirstTokenArgs, MeasureArgs, Source};
use crate::artifact::Artifact;
use crate::measure::{Bench, Shape};
use crate::peer::Peer;
use crate::run::open;
use anyhow::{Context as _, Result};
use registry::Registry;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Tokens of the prompt: as few as show that everything is there.
const PROMPT: u32 = 64;

const NO_FILE: &str = "--processes times how a file is loaded: give one with --model";

/// Refuses what could not be timed, before anything is.
pub fn check(args: &MeasureArgs) -> Result<()> {
    let possible = args.processes == 0 || args.model.is_some();
    anyhow::ensure!(possible, NO_FILE);
    Ok(())
}

/// What a process of ours does: opens the model, loads it, reads a prompt.
pub fn first_token(registry: &Registry, args: &FirstTokenArgs) -> Result<()> {
    let opened = open(&Source::File(args.model.clone()))?;
    let shape = Shape {
        prompt: args.prompt_tokens as usize,
        generated: 1,
        depth: 0,
        batch: 1,
    };
    let mut options = args.load.options();
    options.context = Some(shape.context());
    let mut model = opened.load(registry, &options, &mut |_, _| {})?;
    let mut bench = Bench::new(&mut model.runner, shape, Duration::ZERO)?;
    bench.prompt()?;
    bench.finish()
}

/// Whether `--program` names another program than this one, whose kernels this one's
/// gate says nothing of.
pub fn another(program: &Path) -> bool {
    let own = std::env::current_exe().and_then(|p| p.canonicalize());
    // What cannot be found is not this one.
    !own.is_ok_and(|own| program.canonicalize().is_ok_and(|p| p == own))
}

/// Seconds of `args.processes` processes of ours; each peer keeps its own.
pub fn measure(
    args: &MeasureArgs,
    backend: &str,
    peers: &mut [Peer],
    stated: &Artifact,
) -> Result<Vec<f64>> {
    let mut seconds = Vec::new();
    if args.processes == 0 {
        return Ok(seconds);
    }
    let model = args.model.as_ref().context(NO_FILE)?;
    let program = match &args.program {
        Some(path) => path.clone(),
        None => std::env::current_exe().context("the path of this program")?,
    };
    let mut ours = Command::new(program);
    ours.arg("first-token").arg("--model").arg(model);
    ours.args(["--prompt-tokens", &PROMPT.to_string()]);
    ours.args(args.load.flags(backend));
    for turn in 0..=args.processes {
        // The first brings the file into memory, for all alike.
        let counted = turn > 0;
        let (one, _) = whole(&mut ours)?;
        if counted {
            seconds.push(one);
        }
        for peer in peers.iter_mut() {
            peer.first_token(PROMPT, counted)?;
            peer.must_match(stated)?;
        }
    }
    Ok(seconds)
}

/// Seconds from a process's start to its end, which must be a good one, and what it
/// printed.
pub fn whole(command: &mut Command) -> Result<(f64, String)> {
    let name = command.get_program().to_string_lossy().into_owned();
    let start = Instant::now();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {name}"))?;
    let seconds = start.elapsed().as_secs_f64();
    crate::peer::must_succeed(&name, &output)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok((seconds, text))
}
