//! `bench-run`: see `benchmarks/README.md`.

use anyhow::Result;
use bench_run::args::{Cli, Command, MeasureArgs};
use bench_run::artifact::Status;
use bench_run::run;
use clap::Parser as _;
use registry::Registry;
use std::process::ExitCode;

fn main() -> ExitCode {
    match dispatch(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(3),
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether what was asked for holds.
fn dispatch(cli: Cli) -> Result<bool> {
    match cli.command {
        None => measure(&cli.measure),
        Some(Command::Peer(peer)) => {
            let mut args = peer.measure;
            args.peer.extend(peer.exec);
            measure(&args)
        }
        Some(_) => Ok(true),
    }
}

fn measure(args: &MeasureArgs) -> Result<bool> {
    let artifact = run::measure(&Registry::collect()?, args)?;
    print!("{}", artifact.table());
    if let Some(path) = &args.json {
        artifact.write(path)?;
    }
    Ok(matches!(
        artifact.status,
        Status::Accepted | Status::Diagnostic
    ))
}
