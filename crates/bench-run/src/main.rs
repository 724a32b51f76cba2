//! `bench-run`: see `benchmarks/README.md`.

use anyhow::Result;
use bench_run::args::{Cli, Command, MeasureArgs, PeerArgs};
use bench_run::artifact::{Artifact, Status, write_whole};
use bench_run::compare::compare;
use bench_run::process::first_token;
use bench_run::report::report;
use bench_run::tune::tune;
use bench_run::{run, schema};
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
            let PeerArgs {
                exec,
                measure: mut args,
            } = *peer;
            args.peer.extend(exec);
            measure(&args)
        }
        Some(Command::Compare(args)) => {
            let before = Artifact::read(&args.before)?;
            let compared = compare(&before, &Artifact::read(&args.after)?);
            print!("{compared}");
            let below = args.fail_below.map(|r| !compared.below(r).is_empty());
            Ok(compared.comparable() && below != Some(true))
        }
        Some(Command::Report(args)) => {
            let out = args.out.as_ref().unwrap_or(&args.dir);
            let (written, skipped) = report(&args.dir, out)?;
            for path in written {
                println!("{}", path.display());
            }
            for reason in &skipped {
                eprintln!("left out: {reason}");
            }
            Ok(true)
        }
        Some(Command::Check(args)) => {
            let mut ok = true;
            for path in schema::files(&args.paths)? {
                let problems = schema::check_file(&path)?;
                ok &= problems.is_empty();
                println!(
                    "{}: {}",
                    path.display(),
                    match problems.is_empty() {
                        true => "ok".to_string(),
                        false => problems.join("\n  "),
                    }
                );
            }
            Ok(ok)
        }
        Some(Command::FirstToken(args)) => {
            first_token(&Registry::collect()?, &args)?;
            Ok(true)
        }
        Some(Command::Tune(args)) => {
            let tuned = tune(&Registry::collect()?, &args, &mut |line| println!("{line}"))?;
            if let Some((path, text)) = &tuned {
                write_whole(path, text)?;
                println!("{}", path.display());
            }
            Ok(tuned.is_some())
        }
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
