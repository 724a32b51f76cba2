//! `engine run`: a prompt in, text out.

use crate::answer::{self, Answer, Timings, answer, closing_line};
use crate::args::{SamplingArgs, TextArgs, at_least_one};
use crate::cmd::Context;
use crate::interrupt::Interrupt;
use crate::memory::MemoryUse;
use crate::output::{self, Exit, Usage};
use crate::prompt;
use crate::session::{self, Need, Placed};
use anyhow::Context as _;
use clap::Args;
use formats::{ChatMessage, ChatTemplate};
use runtime::{Finish, GenerateOptions, Generator};
use sampling::Sampler;
use serde_json::json;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct RunArgs {
    /// Model folder (config.json, safetensors weights, tokenizer.json), GGUF file, or OWNER/NAME[@REVISION][:Q4_K_M] in the Hugging Face cache
    #[arg(short, long, value_name = "MODEL")]
    pub model: PathBuf,

    #[command(flatten)]
    pub text: TextArgs,

    /// Token ids instead of a text: 1,2,3 or @FILE; works without a tokenizer
    #[arg(long, value_name = "IDS", conflicts_with_all = ["prompt", "file", "chat"])]
    pub ids: Option<String>,

    /// Most tokens to generate
    #[arg(short = 'n', long, value_name = "N", default_value = "256", value_parser = at_least_one)]
    pub max_tokens: usize,

    /// Put the prompt into the model's chat template: it is answered, not continued
    #[arg(long)]
    pub chat: bool,

    /// System message, with --chat
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub system: Option<String>,

    /// Show special tokens in the text
    #[arg(long)]
    pub special: bool,

    /// Print one JSON object at the end instead of streaming text
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub sampling: SamplingArgs,

    /// Said before the answer; for a prompt that the user did not type.
    #[arg(skip)]
    pub echo: Option<String>,
}

pub fn run(context: &Context, args: &RunArgs) -> anyhow::Result<Exit> {
    // Flags that no model can make right are refused before its files are read.
    args.sampling.params(&Default::default())?;
    let ids = args.ids.as_deref().map(prompt::ids).transpose()?;
    let text = match &ids {
        Some(_) => None,
        None => Some(prompt::text(&args.text)?),
    };
    let interrupt = Interrupt::install()?;
    let need = match &ids {
        Some(_) => Need::Optional,
        None => Need::Required,
    };
    let options = session::load_options(&context.global);
    let placed = session::place(&context.term, &args.model, options, need)?;
    let prompt = match (ids, text) {
        (Some(ids), _) => ids,
        (None, text) => encode(&placed, args, &text.unwrap_or_default())?,
    };
    if placed.tokenizer.is_none() && !args.sampling.stop.is_empty() {
        return Err(Usage(
            "--stop: this model has no tokenizer, so there is no text to stop at".into(),
        )
        .into());
    }
    complete(context, args, &interrupt, placed, &prompt)
}

fn encode(placed: &Placed, args: &RunArgs, text: &str) -> anyhow::Result<Vec<u32>> {
    let tokenizer = placed.tokenizer.as_ref().context("no tokenizer")?;
    if !args.chat {
        return Ok(tokenizer.encode(text, true)?);
    }
    if text.is_empty() {
        return Err(runtime::RuntimeError::EmptyPrompt.into());
    }
    let template = ChatTemplate::from_config(tokenizer.config())?;
    let mut messages = Vec::new();
    if let Some(system) = &args.system {
        messages.push(ChatMessage::new("system", system));
    }
    messages.push(ChatMessage::new("user", text));
    let rendered = template.render(&messages, true, Default::default())?;
    // The template writes the special tokens itself.
    Ok(tokenizer.encode(&rendered, false)?)
}

/// Loads, answers, and says how it went.
fn complete(
    context: &Context,
    args: &RunArgs,
    interrupt: &Interrupt,
    placed: Placed,
    prompt: &[u32],
) -> anyhow::Result<Exit> {
    placed.check_prompt(prompt)?;
    let sampling = args.sampling.params(&placed.opened.files.generation)?;
    let mut session = placed.load(&context.term)?;
    if let Some(echo) = &args.echo {
        context.term.note(echo);
    }
    let options = GenerateOptions {
        max_tokens: args.max_tokens,
        sampling,
        stop_tokens: answer::stop_tokens(&session, args.sampling.ignore_eos),
        stop_strings: args.sampling.stop.clone(),
        show_special: args.special,
        ..GenerateOptions::default()
    };
    let seed = options.sampling.seed;
    if let Ok(sampler) = Sampler::new(options.sampling.clone()) {
        context
            .term
            .detail(format_args!("sampling: {}", sampler.chain()));
    }
    let tokenizer = session.tokenizer.clone();
    let has_text = tokenizer.is_some();
    let seq = session.runner.create()?;
    let mut generator = Generator::new(&mut session.runner, tokenizer);
    let mut stream = |text: &str| {
        if args.json {
            return Ok(());
        }
        output::print(text)
    };
    let done = answer(&mut generator, seq, prompt, options, interrupt, &mut stream)?;
    drop(generator);
    let timings = Timings::of(&done, session.load_seconds, context.start);
    let memory = MemoryUse::of(session.runner.devices());
    let program = session.runner.program();
    if args.json {
        output::print_json_line(&json!({
            "text": done.text,
            "tokens": done.tokens,
            "finish_reason": done.finish.name(),
            "stop_token": stop_token(&done),
            "prompt_tokens": prompt.len(),
            "generated_tokens": done.tokens.len(),
            "seed": seed,
            "timings": timings,
            "backend": program.backend.name,
            "device": program.device.name,
            "placement": session::placement(program),
            "memory": memory,
        }))?;
    } else if has_text {
        if !done.text.ends_with('\n') {
            output::print("\n")?;
        }
    } else {
        let ids: Vec<String> = done.tokens.iter().map(u32::to_string).collect();
        output::print(&format!("{}\n", ids.join(",")))?;
    }
    let line = closing_line(program, &done, &timings, &memory);
    context.term.note(line);
    Ok(match done.finish {
        Finish::Cancelled => Exit::Interrupted,
        _ => Exit::Done,
    })
}

fn stop_token(done: &Answer) -> Option<u32> {
    match done.finish {
        Finish::StopToken(id) => Some(id),
        _ => None,
    }
}
