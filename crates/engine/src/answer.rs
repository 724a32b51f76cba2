//! One answer: streaming, timing, the line that ends it.

use crate::interrupt::Interrupt;
use crate::memory::MemoryUse;
use crate::session::{Session, device_summary, plan_summary};
use planner::Program;
use runtime::{Finish, GenerateOptions, Generator, SeqId};
use serde::Serialize;
use std::time::{Duration, Instant};

/// What an answer turned out to be.
pub struct Answer {
    pub text: String,
    /// Generated tokens, an end token not among them.
    pub tokens: Vec<u32>,
    pub finish: Finish,
    /// From the prompt's submission.
    pub to_first_token: Duration,
    pub first_token_at: Instant,
    /// Tokens and seconds.
    pub prefill: (usize, f64),
    pub decode: (usize, f64),
}

/// Answers `prompt` on a sequence whose cache may hold its beginning; `stream`
/// gets text as it becomes complete.
pub fn answer(
    generator: &mut Generator<'_>,
    seq: SeqId,
    prompt: &[u32],
    options: GenerateOptions,
    interrupt: &Interrupt,
    stream: &mut dyn FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<Answer> {
    generator.set_cancel_flag(interrupt.cancel_flag());
    generator.prefill = (0, 0.0);
    generator.decode = (0, 0.0);
    interrupt.answering();
    let start = Instant::now();
    generator.add_to(seq, prompt, options)?;
    let mut text = String::new();
    let mut tokens = Vec::new();
    let mut first = None;
    let mut finish = Finish::Cancelled;
    while !generator.is_idle() {
        for event in generator.step()? {
            if event.token.is_some() {
                first.get_or_insert_with(Instant::now);
            }
            let ended_by = match event.finish {
                Some(Finish::StopToken(id)) => Some(id),
                _ => None,
            };
            tokens.extend(event.token.filter(|id| Some(*id) != ended_by));
            if !event.text.is_empty() {
                stream(&event.text)?;
                text.push_str(&event.text);
            }
            if let Some(e) = event.error {
                interrupt.working();
                return Err(e.into());
            }
            if let Some(f) = event.finish {
                finish = f;
            }
        }
    }
    interrupt.working();
    let first = first.unwrap_or_else(Instant::now);
    Ok(Answer {
        text,
        tokens,
        finish,
        to_first_token: first - start,
        first_token_at: first,
        prefill: generator.prefill,
        decode: generator.decode,
    })
}

/// Stop tokens of a model: its generation config's and its tokenizer's.
pub fn stop_tokens(session: &Session, ignore_eos: bool) -> Vec<u32> {
    if ignore_eos {
        return Vec::new();
    }
    let mut ids = session.opened.files.generation.eos_token_ids.clone();
    if let Some(eos) = session.tokenizer.as_ref().and_then(|t| t.eos_id()) {
        ids.push(eos);
    }
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Timings {
    pub load_s: f64,
    /// From the start of the process to the first token.
    pub start_to_first_token_ms: f64,
    /// From the prompt's submission to the first token.
    pub ttft_ms: f64,
    pub prefill_tok_s: f64,
    pub decode_tok_s: f64,
}

impl Timings {
    pub fn of(answer: &Answer, load_seconds: f64, process_start: Instant) -> Self {
        let ms = |d: Duration| round(d.as_secs_f64() * 1e3);
        Timings {
            load_s: round(load_seconds),
            start_to_first_token_ms: ms(answer.first_token_at - process_start),
            ttft_ms: ms(answer.to_first_token),
            prefill_tok_s: round(per_second(answer.prefill)),
            decode_tok_s: round(per_second(answer.decode)),
        }
    }
}

/// Times carry no more than microseconds' worth of digits.
fn round(x: f64) -> f64 {
    (x * 1e3).round() / 1e3
}

fn per_second((tokens, seconds): (usize, f64)) -> f64 {
    if seconds > 0.0 {
        tokens as f64 / seconds
    } else {
        0.0
    }
}

/// The line that ends a run: device, plan, speed, memory.
pub fn closing_line(
    program: &Program,
    answer: &Answer,
    timings: &Timings,
    memory: &MemoryUse,
) -> String {
    let peak = match memory.peak_rss {
        Some(bytes) => runtime::human(bytes),
        None => format!("{} on the device", runtime::human(memory.device_peak)),
    };
    format!(
        "{} | {} | prompt {} tokens, {:.0} tok/s | decode {} tokens, {:.0} tok/s | first token {:.0} ms after start | peak memory {peak}",
        device_summary(program),
        plan_summary(program),
        answer.prefill.0,
        timings.prefill_tok_s,
        answer.decode.0,
        timings.decode_tok_s,
        timings.start_to_first_token_ms,
    )
}
