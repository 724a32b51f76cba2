//! Ctrl-C: ends an answer if there is one, the program otherwise.

use crate::output::{Exit, stderr_line};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

const WORKING: u8 = 0;
const ANSWERING: u8 = 1;
const AT_PROMPT: u8 = 2;
const WARNED: u8 = 3;

/// What the program is doing, shared with the signal handler.
#[derive(Clone, Default)]
pub struct Interrupt {
    phase: Arc<AtomicU8>,
    cancel: Arc<AtomicBool>,
}

impl Interrupt {
    /// Starts to listen. While the program works, an interrupt ends it; while it
    /// answers, the first ends the answer.
    pub fn install() -> anyhow::Result<Self> {
        let interrupt = Interrupt::default();
        let heard = interrupt.clone();
        ctrlc::set_handler(move || heard.hear())
            .map_err(|e| anyhow::anyhow!("cannot listen for Ctrl-C: {e}"))?;
        Ok(interrupt)
    }

    fn hear(&self) {
        match self.phase.load(Ordering::SeqCst) {
            ANSWERING if !self.cancel.swap(true, Ordering::SeqCst) => return,
            AT_PROMPT => {
                self.phase.store(WARNED, Ordering::SeqCst);
                stderr_line("\n(Ctrl-C again, Ctrl-D or /exit ends the conversation)");
                return;
            }
            _ => {}
        }
        std::process::exit(Exit::Interrupted as i32);
    }

    /// The flag that ends an answer.
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        self.cancel.clone()
    }

    /// An answer begins.
    pub fn answering(&self) {
        self.cancel.store(false, Ordering::SeqCst);
        self.phase.store(ANSWERING, Ordering::SeqCst);
    }

    /// The program waits for the user to type.
    pub fn at_prompt(&self) {
        self.phase.store(AT_PROMPT, Ordering::SeqCst);
    }

    /// The program does something that ends with the first interrupt.
    pub fn working(&self) {
        self.phase.store(WORKING, Ordering::SeqCst);
    }
}
