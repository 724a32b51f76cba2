//! `engine`: Espalier's command line.

// inventory registers nothing for a crate that no code names.
use kernels as _;

mod answer;
mod args;
mod cmd;
mod interrupt;
mod memory;
mod output;
mod progress;
mod prompt;
mod session;

use clap::Parser;
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let start = Instant::now();
    let exit = match args::Cli::try_parse() {
        Ok(cli) => cmd::dispatch(cli, start).unwrap_or_else(|e| output::report(&e)),
        Err(e) => output::report_usage(&e),
    };
    exit.into()
}
