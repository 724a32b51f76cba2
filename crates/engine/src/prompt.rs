//! Prompts and token ids from arguments, files and pipes.

use crate::args::TextArgs;
use crate::output::Usage;
use std::io::{IsTerminal, Read};
use std::path::Path;

/// Larger prompts than any context holds: refused before they are read.
const MAX_BYTES: u64 = 256 << 20;

/// The text that the arguments name; standard input if they name none.
pub fn text(args: &TextArgs) -> anyhow::Result<String> {
    if let Some(text) = &args.prompt {
        return Ok(text.clone());
    }
    match &args.file {
        Some(path) if path != Path::new("-") => read_file(path),
        Some(_) => read_stdin(),
        None if std::io::stdin().is_terminal() => Err(Usage(
            "no prompt: give -p TEXT or -f FILE, or pipe one into standard input".into(),
        )
        .into()),
        None => read_stdin(),
    }
}

fn read_file(path: &Path) -> anyhow::Result<String> {
    let fail = |e: std::io::Error| anyhow::anyhow!("cannot read {}: {e}", path.display());
    let file = std::fs::File::open(path).map_err(fail)?;
    if file.metadata().map_err(fail)?.is_dir() {
        anyhow::bail!("cannot read {}: it is a folder", path.display());
    }
    let text = read_text(file, &path.display().to_string())?;
    Ok(text)
}

fn read_stdin() -> anyhow::Result<String> {
    read_text(std::io::stdin().lock(), "standard input")
}

fn read_text(from: impl Read, name: &str) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    from.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| anyhow::anyhow!("cannot read {name}: {e}"))?;
    if bytes.len() as u64 > MAX_BYTES {
        anyhow::bail!("{name} is longer than {MAX_BYTES} bytes, too long for a prompt");
    }
    let mut text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        anyhow::anyhow!("{name} is not UTF-8 text (byte {at}); convert it first")
    })?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

/// Token ids written as `1,2,3`, or `@FILE` with ids between commas or blanks.
pub fn ids(source: &str) -> anyhow::Result<Vec<u32>> {
    let (text, name) = match source.strip_prefix('@') {
        Some(path) => (read_file(Path::new(path))?, path),
        None => (source.to_string(), "--ids"),
    };
    let mut ids = Vec::new();
    for word in text.split(|c: char| c == ',' || c.is_whitespace()) {
        if word.is_empty() {
            continue;
        }
        let id = word.parse().map_err(|_| {
            let shown: String = word.chars().take(40).collect();
            Usage(format!(
                "{name}: '{}' is no token id; wanted numbers between commas, or @FILE with such numbers",
                shown.escape_default()
            ))
        })?;
        ids.push(id);
    }
    if ids.is_empty() {
        return Err(Usage(format!("{name}: no token ids; give at least one")).into());
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_between_commas_and_blanks() {
        assert_eq!(ids("1,2, 3").unwrap(), [1, 2, 3]);
        assert!(ids("").is_err() && ids("1,x").is_err() && ids("-1").is_err());
        assert!(ids("4294967296").is_err());
        assert!(ids("@/nonexistent/ids").is_err());
    }

    #[test]
    fn one_last_newline_is_dropped() {
        assert_eq!(read_text(&b"a\n\n"[..], "x").unwrap(), "a\n");
        assert_eq!(read_text(&b"a\r\n"[..], "x").unwrap(), "a");
        let error = read_text(&b"ab\xff"[..], "x").unwrap_err();
        assert!(error.to_string().contains("byte 2"), "{error}");
    }
}
