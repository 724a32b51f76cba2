//! A progress bar, on a terminal only, and only for what takes a while.

use crate::output::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::{Duration, Instant};

/// Shorter work shows no bar.
const PATIENCE: Duration = Duration::from_millis(300);

/// Counts bytes or other units.
pub struct Progress {
    label: &'static str,
    template: &'static str,
    shown: bool,
    start: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub fn bytes(term: &Term, label: &'static str) -> Self {
        Self::new(
            term,
            label,
            "{prefix} {wide_bar} {binary_bytes} of {binary_total_bytes}",
        )
    }

    pub fn count(term: &Term, label: &'static str) -> Self {
        Self::new(term, label, "{prefix} {wide_bar} {pos} of {len}")
    }

    fn new(term: &Term, label: &'static str, template: &'static str) -> Self {
        Progress {
            label,
            template,
            shown: term.stderr_tty && !term.quiet,
            start: Instant::now(),
            bar: None,
        }
    }

    pub fn update(&mut self, done: u64, total: u64) {
        if !self.shown || (self.bar.is_none() && self.start.elapsed() < PATIENCE) {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template(self.template) {
                bar.set_style(style);
            }
            bar.set_prefix(self.label);
            bar
        });
        bar.set_length(total);
        bar.set_position(done);
    }

    /// Prints something without the bar in the way.
    pub fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
