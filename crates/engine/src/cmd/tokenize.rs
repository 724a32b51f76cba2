//! `engine tokenize`: text to ids and back.

use crate::args::TextArgs;
use crate::output::{self, Exit};
use crate::prompt;
use clap::Args;
use serde_json::json;
use std::fmt::Write;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct TokenizeArgs {
    /// Model folder, GGUF file, or OWNER/NAME in the Hugging Face cache; only its tokenizer is read
    #[arg(short, long, value_name = "MODEL")]
    pub model: PathBuf,

    #[command(flatten)]
    pub text: TextArgs,

    /// Show the text of these ids (1,2,3 or @FILE) instead
    #[arg(long, value_name = "IDS", conflicts_with_all = ["prompt", "file"])]
    pub decode: Option<String>,

    /// Add the model's beginning and end tokens, as `run` does (the default);
    /// with --decode: show special tokens
    #[arg(long, overrides_with = "no_special")]
    pub special: bool,

    /// Add no beginning or end tokens; with --decode: leave special tokens out
    #[arg(long, overrides_with = "special")]
    pub no_special: bool,

    /// Print JSON: {"ids", "pieces"}, or {"text"} with --decode
    #[arg(long)]
    pub json: bool,
}

pub fn tokenize(args: &TokenizeArgs) -> anyhow::Result<Exit> {
    let ids = args.decode.as_deref().map(prompt::ids).transpose()?;
    let tokenizer = formats::open_tokenizer(&args.model)?;
    if let Some(ids) = ids {
        if let Some(id) = ids.iter().find(|id| tokenizer.token_text(**id).is_none()) {
            anyhow::bail!(
                "token id {id} is not in the vocabulary, whose ids end at {}",
                tokenizer.vocab_size().saturating_sub(1)
            );
        }
        let text = tokenizer.decode(&ids, args.no_special);
        if args.json {
            output::print_json_line(&json!({ "text": text }))?;
        } else {
            output::print(&format!("{text}\n"))?;
        }
        return Ok(Exit::Done);
    }
    let text = prompt::text(&args.text)?;
    let ids = tokenizer.encode(&text, !args.no_special)?;
    let piece = |id: &u32| {
        let bytes = tokenizer.token_bytes(*id).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    if args.json {
        let pieces: Vec<String> = ids.iter().map(piece).collect();
        output::print_json_line(&json!({ "ids": ids, "pieces": pieces }))?;
    } else {
        let mut lines = String::new();
        for id in &ids {
            writeln!(lines, "{id:>8}  {:?}", piece(id))?;
        }
        output::print(&lines)?;
    }
    Ok(Exit::Done)
}
