//! `engine logits`: teacher-forced logits of given ids, for scripts and gates.

use crate::args::at_least_one;
use crate::cmd::Context;
use crate::output::{Exit, Usage};
use crate::progress::Progress;
use crate::prompt;
use crate::session::{self, Need};
use clap::Args;
use formats::StoredType;
use runtime::{Forward, LoadOptions, Span, Want, human};
use std::io;
use std::path::{Path, PathBuf};

#[derive(Args, Debug)]
pub struct LogitsArgs {
    /// Model folder, GGUF file, or OWNER/NAME in the Hugging Face cache; a tokenizer is not needed
    #[arg(short, long, value_name = "MODEL")]
    pub model: PathBuf,

    /// Token ids: 1,2,3 or @FILE with ids between commas or blanks
    #[arg(long, value_name = "IDS")]
    pub ids: String,

    /// File to write: tensor `logits`, f32 [tokens, vocabulary]
    #[arg(long, value_name = "FILE.safetensors")]
    pub out: PathBuf,

    /// Tokens of one step [default: 256, fewer for very large vocabularies]
    #[arg(long, visible_alias = "rows", value_name = "N", value_parser = at_least_one)]
    pub chunk: Option<usize>,
}

/// A step's logits may take about this much by default.
const STEP_BYTES: usize = 64 << 20;

pub fn logits(context: &Context, args: &LogitsArgs) -> anyhow::Result<Exit> {
    let ids = prompt::ids(&args.ids)?;
    probe_writable(&args.out)?;
    let term = &context.term;
    let global = session::load_options(&context.global);
    let options = LoadOptions {
        context: Some(global.context.unwrap_or(ids.len())),
        rows: Some(args.chunk.unwrap_or(256)),
        all_logits: true,
        ..global
    };
    let sized = |opened: &runtime::Opened, options: &mut LoadOptions| {
        let model = &opened.model;
        if context.global.ctx.is_none() && ids.len() > model.context_length {
            return Err(Usage(format!(
                "{} ids are more than the {} positions this model was made for; --ctx {0} goes beyond them",
                ids.len(),
                model.context_length
            ))
            .into());
        }
        if args.chunk.is_none() {
            let rows = STEP_BYTES / (model.vocab_size * 4).max(1);
            options.rows = Some(rows.clamp(16, 256));
        }
        if let Some(limit) = options.context.filter(|c| ids.len() > *c) {
            return Err(runtime::RuntimeError::PromptTooLong {
                tokens: ids.len(),
                context: limit,
            }
            .into());
        }
        session::check_ids(&ids, model.vocab_size)?;
        let bytes = ids.len() as u64 * model.vocab_size as u64 * 4;
        let available = hal::cpu::available_memory();
        if bytes > available {
            anyhow::bail!(
                "the logits of {} tokens take {} and {} of host memory is free: give fewer ids",
                ids.len(),
                human(bytes),
                human(available)
            );
        }
        Ok(())
    };
    let placed = session::place_with(term, &args.model, options, Need::No, sized)?;
    let rows = placed.program.limits.rows;
    let mut session = placed.load(term)?;
    let seq = session.runner.create()?;
    let mut bytes = Vec::with_capacity(ids.len() * session.opened.model.vocab_size * 4);
    let mut bar = Progress::count(term, "tokens");
    let mut done = 0;
    for chunk in ids.chunks(rows) {
        let span = Span {
            seq,
            tokens: chunk,
            outputs: chunk.len(),
            states: 1,
        };
        if let Forward::Logits { rows, .. } = session.runner.forward(&[span], Want::Logits)? {
            bytes.extend(rows.iter().flat_map(|x| x.to_le_bytes()));
        }
        done += chunk.len();
        bar.update(done as u64, ids.len() as u64);
    }
    drop(bar);
    let shape = [ids.len(), session.runner.vocab()];
    let tensor = ("logits", StoredType::F32, &shape[..], &bytes[..]);
    formats::write_safetensors(&args.out, &[tensor])?;
    term.note(format_args!(
        "wrote logits [{}, {}] of {} to {}",
        shape[0],
        shape[1],
        session::device_summary(session.runner.program()),
        args.out.display()
    ));
    Ok(Exit::Done)
}

/// Finds out before any work whether the output's folder takes files.
fn probe_writable(path: &Path) -> Result<(), formats::Error> {
    let unwritable = |source| formats::Error::Unwritable {
        path: path.to_path_buf(),
        source,
    };
    if path.is_dir() {
        let e = io::Error::new(io::ErrorKind::IsADirectory, "it is a folder");
        return Err(unwritable(e));
    }
    let Some(name) = path.file_name() else {
        let e = io::Error::new(io::ErrorKind::InvalidInput, "it names no file");
        return Err(unwritable(e));
    };
    let mut probe = name.to_os_string();
    probe.push(format!(".probe-{}", std::process::id()));
    let probe = path.with_file_name(probe);
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&probe)
        .map_err(unwritable)?;
    std::fs::remove_file(&probe).map_err(unwritable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        probe_writable(&dir.path().join("x.safetensors")).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let bad = probe_writable(&dir.path().join("no/x.safetensors"));
        assert!(matches!(bad, Err(formats::Error::Unwritable { .. })));
        assert!(probe_writable(dir.path()).is_err());
    }
}
