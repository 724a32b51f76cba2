//! Standard output, standard error, exit codes.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

/// How the program ends. The numbers are documented in `--help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    GateFailed = 3,
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Arguments that parse but make no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// Whoever read standard output has gone: nothing is wrong, there is just no one
/// to write for.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
pub struct ClosedPipe;

/// Writes to standard output and flushes it.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| match e.kind() {
            io::ErrorKind::BrokenPipe => anyhow::Error::new(ClosedPipe),
            _ => anyhow::anyhow!("cannot write to standard output: {e}"),
        })
}

/// Writes JSON on one line to standard output.
pub fn print_json_line(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string(value)?;
    text.push('\n');
    print(&text)
}

/// Writes JSON for people and programs to standard output.
pub fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    print(&text)
}

/// What may be said on standard error.
#[derive(Clone, Copy, Debug)]
pub struct Term {
    pub quiet: bool,
    pub verbose: u8,
    pub stderr_tty: bool,
}

impl Term {
    pub fn new(quiet: bool, verbose: u8) -> Self {
        Term {
            quiet,
            verbose,
            stderr_tty: io::stderr().is_terminal(),
        }
    }

    /// A line for the reader, unless `--quiet`.
    pub fn note(&self, line: impl fmt::Display) {
        if !self.quiet {
            stderr_line(line);
        }
    }

    /// A line for those who asked for more with `-v`.
    pub fn detail(&self, line: impl fmt::Display) {
        if self.verbose > 0 {
            self.note(line);
        }
    }

    /// Text without a line's end, for a prompt.
    pub fn prompt(&self, text: &str) {
        let mut err = io::stderr().lock();
        // There is nobody to tell that standard error cannot be written.
        let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
    }
}

pub fn stderr_line(line: impl fmt::Display) {
    // As above.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Prints an error in at most three lines and gives the exit code for it.
pub fn report(error: &anyhow::Error) -> Exit {
    if error.is::<ClosedPipe>() {
        return Exit::Done;
    }
    stderr_line(describe(error));
    if error.is::<Usage>() {
        Exit::Usage
    } else {
        Exit::Failed
    }
}

/// The error and its causes, a line each; a cause that the line above already
/// quotes is left out.
fn describe(error: &anyhow::Error) -> String {
    const LINES: usize = 3;
    let mut said: Vec<String> = Vec::new();
    for cause in error.chain() {
        let line = one_line(&cause.to_string());
        if !said.iter().any(|s| s.contains(&line)) {
            said.push(line);
        }
    }
    said.truncate(LINES);
    let mut text = String::from("error: ");
    text.push_str(&said.join("\n  because: "));
    text
}

fn one_line(text: &str) -> String {
    let parts: Vec<&str> = text.lines().map(str::trim).collect();
    parts.join(" ")
}

/// clap's message without its blank lines, three lines at most.
pub fn report_usage(error: &clap::Error) -> Exit {
    use clap::error::ErrorKind;
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let text = error.render().to_string();
            match print(&text) {
                Ok(()) => Exit::Done,
                Err(e) => report(&e),
            }
        }
        _ => {
            let text = error.render().to_string();
            let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
            stderr_line(lines[..lines.len().min(3)].join("\n"));
            Exit::Usage
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn causes_follow_unless_already_quoted() {
        let io = io::Error::other("no space left");
        let quoted = anyhow::Error::new(io).context("cannot write x: no space left");
        assert_eq!(describe(&quoted), "error: cannot write x: no space left");
        let deep = Err::<(), _>(anyhow::anyhow!("four"))
            .context("three")
            .context("two\nlines")
            .context("one")
            .unwrap_err();
        let text = describe(&deep);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("two lines"), "{text}");
    }
}
