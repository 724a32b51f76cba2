//! One file per command.

pub mod chat;
pub mod demo;
pub mod doctor;
pub mod eval;
pub mod inspect;
pub mod kernels;
pub mod logits;
pub mod plan;
pub mod run;
pub mod tokenize;
pub mod verify;

use crate::args::{Cli, Command, GlobalArgs};
use crate::output::{Exit, Term};
use std::time::Instant;

/// What every command gets.
pub struct Context {
    pub global: GlobalArgs,
    pub term: Term,
    /// When the process began.
    pub start: Instant,
}

pub fn dispatch(cli: Cli, start: Instant) -> anyhow::Result<Exit> {
    let term = Term::new(cli.global.quiet, cli.global.verbose);
    let context = Context {
        global: cli.global,
        term,
        start,
    };
    match cli.command {
        None => demo::demo(&context),
        Some(Command::Run(args)) => run::run(&context, &args),
        Some(Command::Chat(args)) => chat::chat(&context, &args),
        Some(Command::Logits(args)) => logits::logits(&context, &args),
        Some(Command::Tokenize(args)) => tokenize::tokenize(&args),
        Some(Command::Inspect(args)) => inspect::inspect(&context, &args),
        Some(Command::Kernels(args)) => kernels::kernels(&context, &args),
        Some(Command::Plan(args)) => plan::plan(&context, &args),
        Some(Command::Eval(args)) => eval::eval(&context, &args),
        Some(Command::Verify(args)) => verify::verify(&context, &args),
        Some(Command::Doctor(args)) => doctor::doctor(&context, &args),
    }
}
