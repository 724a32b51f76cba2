//! `engine chat`: a conversation. Each turn's prompt is the whole conversation;
//! what the cache already holds of it is not run again.

use crate::answer::{self, Timings, answer, closing_line};
use crate::args::{SamplingArgs, at_least_one};
use crate::cmd::Context;
use crate::interrupt::Interrupt;
use crate::memory::MemoryUse;
use crate::output::{self, Exit};
use crate::session::{self, Need};
use anyhow::Context as _;
use clap::Args;
use formats::{ChatMessage, ChatTemplate, Tokenizer};
use runtime::{Finish, GenerateOptions, Generator, RuntimeError};
use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct ChatArgs {
    /// Model folder, GGUF file, or OWNER/NAME in the Hugging Face cache; the model must have a chat template
    #[arg(short, long, value_name = "MODEL")]
    pub model: PathBuf,

    /// System message
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,

    /// Most tokens of one answer [default: what the context holds]
    #[arg(short = 'n', long, value_name = "N", value_parser = at_least_one)]
    pub max_tokens: Option<usize>,

    #[command(flatten)]
    pub sampling: SamplingArgs,
}

const HELP: &str = "\
Type a message. Ctrl-C stops an answer; Ctrl-D or /exit ends the conversation.
/reset forgets it, /help shows this.";

pub fn chat(context: &Context, args: &ChatArgs) -> anyhow::Result<Exit> {
    args.sampling.params(&Default::default())?;
    let interrupt = Interrupt::install()?;
    let term = &context.term;
    let options = session::load_options(&context.global);
    let placed = session::place(term, &args.model, options, Need::Required)?;
    let tokenizer = placed.tokenizer.clone().context("no tokenizer")?;
    let template = ChatTemplate::from_config(tokenizer.config())?;
    let sampling = args.sampling.params(&placed.opened.files.generation)?;
    let mut talk = Talk {
        tokenizer: &tokenizer,
        template: &template,
        system: args.system.as_deref(),
        messages: Vec::new(),
    };
    talk.reset();
    // A system message that fills the context is found before loading.
    placed.check_prompt(&talk.prompt_with("")?)?;
    let mut session = placed.load(term)?;
    let mut request = GenerateOptions {
        max_tokens: args.max_tokens.unwrap_or(usize::MAX),
        sampling,
        stop_tokens: answer::stop_tokens(&session, args.sampling.ignore_eos),
        stop_strings: args.sampling.stop.clone(),
        ..GenerateOptions::default()
    };
    let stdin_tty = std::io::stdin().is_terminal();
    if stdin_tty {
        let program = session.runner.program();
        term.note(format_args!(
            "{} | {}\n{HELP}",
            session::device_summary(program),
            session::plan_summary(program)
        ));
    }
    let seq = session.runner.create()?;
    let program = session.runner.program().clone();
    let devices: Vec<_> = session.runner.devices().cloned().collect();
    let mut generator = Generator::new(&mut session.runner, session.tokenizer.clone());
    loop {
        interrupt.at_prompt();
        if stdin_tty {
            term.prompt("> ");
        }
        let line = read_line()?;
        interrupt.working();
        let Some(line) = line else {
            if stdin_tty {
                term.note("");
            }
            return Ok(Exit::Done);
        };
        let said = line.trim();
        match said {
            "" => continue,
            "/exit" | "/quit" => return Ok(Exit::Done),
            "/reset" => {
                talk.reset();
                continue;
            }
            "/help" => {
                term.note(HELP);
                continue;
            }
            _ => {}
        }
        let prompt = talk.prompt_with(said)?;
        let done = answer(
            &mut generator,
            seq,
            &prompt,
            request.clone(),
            &interrupt,
            &mut output::print,
        );
        interrupt.working();
        let done = match done {
            Ok(done) => done,
            // Someone who types can shorten the message; a script cannot.
            Err(e) if stdin_tty && is_too_long(&e) => {
                term.note(format_args!("{e}; or start anew with /reset"));
                continue;
            }
            Err(e) => return Err(e),
        };
        if !done.text.ends_with('\n') {
            output::print("\n")?;
        }
        match done.finish {
            Finish::Context => term.note("(the context is full: /reset starts anew)"),
            Finish::Cancelled => term.note("(stopped)"),
            _ => {}
        }
        let timings = Timings::of(&done, session.load_seconds, context.start);
        let cached = prompt.len().saturating_sub(done.prefill.0);
        term.detail(format_args!(
            "{cached} of {} prompt tokens were in the cache | {}",
            prompt.len(),
            closing_line(&program, &done, &timings, &MemoryUse::of(devices.iter()))
        ));
        talk.heard(said, done.text);
        // Another turn draws other numbers.
        request.sequence += 1;
    }
}

fn is_too_long(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(RuntimeError::PromptTooLong { .. })
    )
}

/// What was said so far.
struct Talk<'a> {
    tokenizer: &'a Tokenizer,
    template: &'a ChatTemplate,
    system: Option<&'a str>,
    messages: Vec<ChatMessage>,
}

impl Talk<'_> {
    fn reset(&mut self) {
        self.messages.clear();
        self.messages
            .extend(self.system.map(|s| ChatMessage::new("system", s)));
    }

    /// Token ids of the conversation with one more message of the user.
    fn prompt_with(&self, said: &str) -> anyhow::Result<Vec<u32>> {
        let mut messages = self.messages.clone();
        messages.push(ChatMessage::new("user", said));
        let text = self.template.render(&messages, true, Default::default())?;
        // The template writes the special tokens itself.
        Ok(self.tokenizer.encode(&text, false)?)
    }

    fn heard(&mut self, said: &str, answer: String) {
        self.messages.push(ChatMessage::new("user", said));
        self.messages.push(ChatMessage::new("assistant", answer));
    }
}

/// `None` at the end of input. Bytes that are not UTF-8 become U+FFFD.
fn read_line() -> anyhow::Result<Option<String>> {
    let mut bytes = Vec::new();
    let n = std::io::stdin()
        .lock()
        .read_until(b'\n', &mut bytes)
        .context("cannot read standard input")?;
    Ok((n > 0).then(|| String::from_utf8_lossy(&bytes).into_owned()))
}
