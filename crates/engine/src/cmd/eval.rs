//! `engine eval`: perplexity of a text, and KL against another model or backend.

use crate::args::at_least_one;
use crate::cmd::Context;
use crate::output::{self, Exit, Usage};
use crate::progress::Progress;
use crate::session::{self, Need};
use anyhow::Context as _;
use clap::Args;
use parity::model_gate::{BaseReader, BaseWriter, EvalOptions, Evaluation, Reference, evaluate};
use runtime::LoadOptions;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct EvalArgs {
    /// Model folder or GGUF file
    #[arg(short, long, value_name = "FOLDER")]
    pub model: PathBuf,

    /// Text to score
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,

    /// Compare with this model, position by position (KL, top-1); both need the same vocabulary
    #[arg(long, value_name = "FOLDER")]
    pub against: Option<PathBuf>,

    /// Backend of the model compared with [default: that of --backend]
    #[arg(long, value_name = "NAME", requires = "against")]
    pub against_backend: Option<String>,

    /// Compare with logits that --save-base wrote: same text, chunks and vocabulary
    #[arg(long, value_name = "FILE", conflicts_with = "against")]
    pub base: Option<PathBuf>,

    /// Keep this model's logits for --base: f32, vocabulary × 4 bytes for each scored position
    #[arg(long, value_name = "FILE.safetensors", conflicts_with = "base")]
    pub save_base: Option<PathBuf>,

    /// Tokens of a chunk; chunks know nothing of each other
    #[arg(long, value_name = "N", default_value = "512", value_parser = at_least_one)]
    pub chunk: usize,

    /// First position of a chunk that is scored [default: half of the chunk]
    #[arg(long, value_name = "N")]
    pub first: Option<usize>,

    /// Chunks of one step
    #[arg(long, value_name = "N", default_value = "1", value_parser = at_least_one)]
    pub batch: usize,

    /// At most so many chunks
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub chunks: Option<usize>,

    /// Print the figures as JSON
    #[arg(long)]
    pub json: bool,
}

pub fn eval(context: &Context, args: &EvalArgs) -> anyhow::Result<Exit> {
    let text = std::fs::read(&args.text)
        .with_context(|| format!("the text {} cannot be read", args.text.display()))?;
    let text = String::from_utf8(text).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Usage(format!(
            "{} is not UTF-8 from byte {at} on: give a plain text",
            args.text.display()
        ))
    })?;
    let how = EvalOptions {
        chunk: args.chunk,
        first: args.first.unwrap_or(args.chunk / 2),
        batch: args.batch,
    };
    let term = &context.term;
    let options = |backend: Option<&String>| {
        let global = context.global.load_options();
        LoadOptions {
            backend: backend.cloned().unwrap_or(global.backend.clone()),
            context: Some(how.chunk),
            rows: Some(how.chunk.saturating_mul(how.batch)),
            sequences: how.batch,
            all_logits: true,
            // A backend of its own holds the whole reference.
            placement: global.placement.clone().filter(|_| backend.is_none()),
            ..global
        }
    };
    let placed = session::place(term, &args.model, options(None), Need::Required)?;
    let mut ids = match &placed.tokenizer {
        Some(tokenizer) => tokenizer.encode(&text, false)?,
        None => Vec::new(),
    };
    if let Some(most) = args.chunks {
        ids.truncate(most.saturating_mul(how.chunk));
    }
    how.check(ids.len())?;
    session::check_ids(&ids, placed.opened.model.vocab_size)?;
    let mut candidate = placed.load(term)?;
    let mut reference = match &args.against {
        None => None,
        Some(path) => {
            let backend = args.against_backend.as_ref();
            let placed = session::place(term, path, options(backend), Need::No)?;
            let (own, other) = (
                candidate.opened.model.vocab_size,
                placed.opened.model.vocab_size,
            );
            if own != other {
                return Err(Usage(format!(
                    "{} has a vocabulary of {own} and {} of {other}: only models of one vocabulary can be compared",
                    args.model.display(),
                    path.display()
                ))
                .into());
            }
            Some(placed.load(term)?)
        }
    };
    let vocab = candidate.runner.vocab();
    let against = match (&mut reference, &args.base) {
        (Some(r), _) => Some(Reference::Runner(&mut r.runner)),
        (None, Some(path)) => Some(Reference::Base(BaseReader::open(path, &ids, &how, vocab)?)),
        (None, None) => None,
    };
    let mut save = match &args.save_base {
        Some(path) => Some(BaseWriter::create(path, &ids, &how, vocab)?),
        None => None,
    };
    let mut bar = Progress::count(term, "chunks");
    let found = evaluate(
        &mut candidate.runner,
        against,
        save.as_mut(),
        &ids,
        &how,
        &mut |done, total| bar.update(done as u64, total as u64),
    )?;
    drop(bar);
    if let Some(base) = save {
        base.finish()?;
    }
    let said = match args.json {
        true => format!("{}\n", serde_json::to_string_pretty(&found)?),
        false => describe(&found),
    };
    output::print(&said)?;
    Ok(Exit::Done)
}

fn describe(e: &Evaluation) -> String {
    let mut said = format!(
        "perplexity {:.4} ± {:.4} over {} positions of {} chunks\n",
        e.perplexity, e.perplexity_error, e.positions, e.chunks
    );
    if let (Some(s), Some(p)) = (&e.against, e.reference_perplexity) {
        said += &format!(
            "reference  {p:.4}\nKL         mean {:.6}, p99 {:.6}, max {:.6} nats\ntop-1      {:.2} % the same\n",
            s.mean_kl,
            s.p99_kl,
            s.max_kl,
            100.0 * s.top1_raw
        );
    }
    said
}
