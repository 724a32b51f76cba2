//! From prompts to tokens: a small continuous-batching scheduler.
//!
//! Each [`Generator::step`] runs one ragged batch: a row for every request that
//! decodes, and prompt chunks of waiting requests in the rows that are left.

use crate::cache::SeqId;
use crate::error::RuntimeError;
use crate::runner::{Forward, Runner, Span, Want};
use formats::{IncrementalDetokenizer, Tokenizer};
use sampling::{HEAD, Head, History, Reads, SampleError, Sampler, SamplingParams, StopMatcher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What one request wants.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// Most tokens to generate; the context is a limit of its own.
    pub max_tokens: usize,
    pub sampling: SamplingParams,
    /// Any of these ends the answer and is not part of it.
    pub stop_tokens: Vec<u32>,
    /// Text that ends the answer and is not part of it.
    pub stop_strings: Vec<String>,
    /// Number of the sequence for its random numbers: the same request gives the
    /// same answer whatever runs beside it.
    pub sequence: u64,
    /// Whether special tokens appear in the text.
    pub show_special: bool,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        GenerateOptions {
            max_tokens: 256,
            sampling: SamplingParams::default(),
            stop_tokens: Vec::new(),
            stop_strings: Vec::new(),
            sequence: 0,
            show_special: false,
        }
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// A stop token.
    StopToken(u32),
    StopString,
    /// `max_tokens` were generated.
    Length,
    /// The context is full.
    Context,
    Cancelled,
    /// No token could be drawn; [`Event::error`] says why.
    Failed,
}

impl Finish {
    /// The name that OpenAI-style interfaces use.
    pub fn name(self) -> &'static str {
        match self {
            Finish::StopToken(_) | Finish::StopString => "stop",
            Finish::Length | Finish::Context => "length",
            Finish::Cancelled => "cancelled",
            Finish::Failed => "error",
        }
    }
}

/// Something that happened to a request in a step.
#[derive(Clone, Debug)]
pub struct Event {
    /// As [`Generator::add`] numbered it.
    pub request: usize,
    /// The token drawn, if one was.
    pub token: Option<u32>,
    /// Text that is complete by now; may be empty.
    pub text: String,
    pub finish: Option<Finish>,
    /// With [`Finish::Failed`]: what ended this request and no other.
    pub error: Option<SampleError>,
}

struct Request {
    id: usize,
    seq: SeqId,
    /// Whether the sequence ends with the request.
    owned: bool,
    /// Prompt and answer.
    tokens: Vec<u32>,
    prompt_len: usize,
    /// Tokens in the cache.
    fed: usize,
    options: GenerateOptions,
    sampler: Sampler,
    flat: Flat,
    detok: Option<IncrementalDetokenizer>,
    stop: StopMatcher,
}

/// Whether rows have been too flat of late for their largest logits to tell a draw:
/// then whole ones are asked for at once, for a while that grows from miss to miss.
#[derive(Clone, Copy, Debug, Default)]
struct Flat {
    misses: u32,
    rows: u32,
}

impl Flat {
    /// Misses after which a while, which doubles with each, grows no more: one of 64 steps
    /// then reads more than it must.
    const MOST: u32 = 6;

    fn now(self) -> bool {
        self.rows > 0
    }

    /// A head was looked at.
    fn saw(&mut self, enough: bool) {
        self.misses = if enough { 0 } else { self.misses + 1 };
        // A miss now and then is what a tail is for.
        self.rows = match self.misses {
            0 | 1 => 0,
            n => 1 << n.min(Self::MOST),
        };
    }

    fn row_read(&mut self) {
        self.rows = self.rows.saturating_sub(1);
    }
}

/// Drives a [`Runner`] for any number of requests.
pub struct Generator<'r> {
    runner: &'r mut Runner,
    tokenizer: Option<Arc<Tokenizer>>,
    active: Vec<Request>,
    /// Of a step that failed when it had drawn some tokens already.
    held: Vec<Event>,
    next: usize,
    cancel: Arc<AtomicBool>,
    /// Prompt tokens that were run (not found in the cache), and the seconds.
    pub prefill: (usize, f64),
    /// Tokens that were decoded one row at a time, and the seconds.
    pub decode: (usize, f64),
}

impl<'r> Generator<'r> {
    /// Without a tokenizer, events carry ids and no text.
    pub fn new(runner: &'r mut Runner, tokenizer: Option<Arc<Tokenizer>>) -> Self {
        Generator {
            runner,
            tokenizer,
            active: Vec::new(),
            held: Vec::new(),
            next: 0,
            cancel: Arc::default(),
            prefill: (0, 0.0),
            decode: (0, 0.0),
        }
    }

    /// Set it to end all answers with the next step.
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        self.cancel.clone()
    }

    /// Uses a flag of the caller's, such as one that a signal handler sets.
    pub fn set_cancel_flag(&mut self, flag: Arc<AtomicBool>) {
        self.cancel = flag;
    }

    pub fn is_idle(&self) -> bool {
        self.active.is_empty() && self.held.is_empty()
    }

    /// Adds a request on a new sequence, which ends with it.
    pub fn add(&mut self, prompt: &[u32], options: GenerateOptions) -> Result<usize, RuntimeError> {
        let seq = self.runner.create()?;
        let added = self.add_to(seq, prompt, options);
        match (&added, self.active.last_mut()) {
            (Ok(_), Some(request)) => request.owned = true,
            _ => self.runner.free(seq)?,
        }
        added
    }

    /// Adds a request whose prompt may begin with what the sequence's cache
    /// already holds: the common prefix is not run again.
    pub fn add_to(
        &mut self,
        seq: SeqId,
        prompt: &[u32],
        options: GenerateOptions,
    ) -> Result<usize, RuntimeError> {
        let context = self.runner.program().limits.context;
        if prompt.is_empty() {
            return Err(RuntimeError::EmptyPrompt);
        }
        // One place must be left for an answer.
        if prompt.len() >= context {
            return Err(RuntimeError::PromptTooLong {
                tokens: prompt.len(),
                context,
            });
        }
        let vocab = self.runner.vocab();
        if let Some(id) = prompt.iter().find(|id| **id as usize >= vocab) {
            return Err(RuntimeError::TokenRange { id: *id, vocab });
        }
        let biased = options.sampling.logit_bias.iter().map(|(id, _)| *id);
        if let Some(token) = biased.into_iter().find(|id| *id as usize >= vocab) {
            return Err(SampleError::BiasToken { token, vocab }.into());
        }
        let sampler = Sampler::new(options.sampling.clone())?;
        let stop = StopMatcher::new(&options.stop_strings, &options.stop_tokens)?;
        let cached = self.runner.sequences().tokens(seq)?;
        let common = cached
            .iter()
            .zip(prompt)
            .take_while(|(a, b)| a == b)
            .count();
        // The last token is run again: its logits are needed.
        let wanted = common.min(prompt.len() - 1);
        let mut fed = self.runner.sequences().reachable(seq, wanted)?;
        match self.runner.truncate(seq, fed) {
            Ok(()) => {}
            Err(RuntimeError::BehindWindow { .. }) => {
                self.runner.truncate(seq, 0)?;
                fed = 0;
            }
            Err(e) => return Err(e),
        }
        let detok = self
            .tokenizer
            .as_ref()
            .map(|t| IncrementalDetokenizer::continuing(t.clone(), !options.show_special));
        let id = self.next;
        self.next += 1;
        self.active.push(Request {
            id,
            seq,
            owned: false,
            tokens: prompt.to_vec(),
            prompt_len: prompt.len(),
            fed,
            stop,
            options,
            sampler,
            flat: Flat::default(),
            detok,
        });
        Ok(id)
    }

    /// Runs one batch. Empty when there is nothing to do.
    ///
    /// # Errors
    /// The step's: no request is worse off and the step may be tried again. But for a row of
    /// logits that cannot be fetched behind it: its request has ended, and what the
    /// others drew comes with the next call.
    pub fn step(&mut self) -> Result<Vec<Event>, RuntimeError> {
        if self.cancel.load(Ordering::Relaxed) {
            let mut events = std::mem::take(&mut self.held);
            for mut r in std::mem::take(&mut self.active) {
                let text = r.rest();
                events.push(Event {
                    request: r.id,
                    token: None,
                    text,
                    finish: Some(Finish::Cancelled),
                    error: None,
                });
                self.end(&r)?;
            }
            return Ok(events);
        }
        if !self.held.is_empty() {
            return Ok(std::mem::take(&mut self.held));
        }
        let (batch, decoding) = self.schedule();
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let start = Instant::now();
        let spans: Vec<Span<'_>> = batch
            .iter()
            .map(|(i, n)| {
                let r = &self.active[*i];
                Span {
                    seq: r.seq,
                    tokens: &r.tokens[r.fed..r.fed + n],
                    outputs: usize::from(r.fed + n == r.tokens.len()),
                    states: 1,
                }
            })
            .collect();
        let rows: usize = batch.iter().map(|(_, n)| n).sum();
        let drawing = batch.iter().filter(|(i, n)| {
            let r = &self.active[*i];
            r.fed + n == r.tokens.len()
        });
        let drawing: Vec<usize> = drawing.map(|(i, _)| *i).collect();
        let (want, inv_temps) = match drawing.is_empty() {
            false => self.wanted(&drawing),
            // As the step that will draw, whose recording then serves both.
            true => self.wanted(&batch.iter().map(|(i, _)| *i).collect::<Vec<_>>()),
        };
        let vocab = self.runner.vocab();
        let forward = self.runner.forward_at(&spans, want, &inv_temps)?;
        for (i, n) in &batch {
            self.active[*i].fed += n;
        }
        let mut drawn = Vec::new();
        for (row, i) in drawing.iter().enumerate() {
            drawn.push(self.active[*i].draw(&forward, row, vocab));
        }
        let mut events = Vec::new();
        let (mut lost, mut broken) = (Vec::new(), None);
        for (row, (i, drawn)) in drawing.into_iter().zip(drawn).enumerate() {
            let r = &mut self.active[i];
            let drawn = match drawn {
                Ok(Some(token)) => Ok(token),
                Ok(None) => match self.runner.logits_row(row) {
                    Ok(logits) => r.draw_of(logits),
                    Err(e) => {
                        lost.push(r.id);
                        broken.get_or_insert(e);
                        continue;
                    }
                },
                Err(e) => Err(e),
            };
            events.push(match drawn {
                Ok(token) => r.accept(token),
                Err(e) => Event {
                    request: r.id,
                    token: None,
                    text: String::new(),
                    finish: Some(Finish::Failed),
                    error: Some(e),
                },
            });
        }
        let seconds = start.elapsed().as_secs_f64();
        let phase = if decoding == rows {
            &mut self.decode
        } else {
            &mut self.prefill
        };
        phase.0 += rows;
        phase.1 += seconds;
        let context = self.runner.program().limits.context;
        for e in &mut events {
            let at = self.active.iter().position(|r| r.id == e.request);
            let Some(at) = at else { continue };
            let r = &mut self.active[at];
            // Prompt and answer together are at most the context.
            if e.finish.is_none() && r.tokens.len() >= context {
                e.finish = Some(Finish::Context);
            }
            if e.finish.is_some() {
                let rest = if e.finish == Some(Finish::StopString) {
                    String::new()
                } else {
                    r.rest()
                };
                e.text.push_str(&rest);
                let ended = self.active.remove(at);
                self.end(&ended)?;
            }
        }
        if let Some(e) = broken {
            // Whose next tokens nobody knows.
            for id in lost {
                if let Some(at) = self.active.iter().position(|r| r.id == id) {
                    let ended = self.active.remove(at);
                    self.end(&ended)?;
                }
            }
            self.held = events;
            return Err(e);
        }
        Ok(events)
    }

    /// As little as serves nearly all draws of a step, and the temperatures of its rows.
    /// Who needs a whole row beside others that do not gets it later, alone.
    fn wanted(&self, drawing: &[usize]) -> (Want, Vec<f32>) {
        let samplers = || drawing.iter().map(|i| &self.active[*i].sampler);
        let vocab = self.runner.vocab();
        let head = self.runner.largest() == HEAD;
        let reads = drawing.iter().map(|i| {
            let r = &self.active[*i];
            match r.sampler.reads(vocab) {
                Reads::First => Reads::First,
                reads if head && !r.flat.now() => reads,
                _ => Reads::Row,
            }
        });
        let rows = reads.clone().filter(|r| *r == Reads::Row).count();
        let want = match reads.filter(|r| *r != Reads::Row).max() {
            // One copy of all is sooner than many of one.
            _ if 2 * rows > drawing.len() => Want::Logits,
            Some(Reads::First) => Want::Argmax,
            Some(Reads::Head) => Want::TopK,
            Some(_) => Want::TopKAndTotal,
            None => Want::Logits,
        };
        let inv_temp = |s: &Sampler| match s.params().is_greedy() {
            true => 1.0,
            false => sampling::inverse(s.params().temperature),
        };
        (want, samplers().map(inv_temp).collect())
    }

    fn end(&mut self, request: &Request) -> Result<(), RuntimeError> {
        if request.owned {
            self.runner.free(request.seq)?;
        }
        Ok(())
    }

    /// Requests and how many of their tokens to run, and how many rows decode.
    fn schedule(&self) -> (Vec<(usize, usize)>, usize) {
        let limits = &self.runner.program().limits;
        let mut left = limits.rows;
        let mut batch = Vec::new();
        let waiting = |r: &Request| r.tokens.len() - r.fed;
        let is_decode = |r: &Request| r.fed >= r.prompt_len;
        for (i, r) in self.active.iter().enumerate() {
            if is_decode(r) && left > 0 && batch.len() < limits.sequences {
                batch.push((i, 1));
                left -= 1;
            }
        }
        let decoding = batch.len();
        for (i, r) in self.active.iter().enumerate() {
            if !is_decode(r) && left > 0 && batch.len() < limits.sequences {
                let n = waiting(r).min(left);
                batch.push((i, n));
                left -= n;
            }
        }
        (batch, decoding)
    }
}

impl Drop for Generator<'_> {
    fn drop(&mut self) {
        for r in std::mem::take(&mut self.active) {
            // The only error is a sequence that somebody else has freed.
            let _ = self.end(&r);
        }
    }
}

impl Request {
    /// The next token from output row `row` of a step; none if that takes more of the row
    /// than was read back.
    fn draw(
        &mut self,
        forward: &Forward<'_>,
        row: usize,
        vocab: usize,
    ) -> Result<Option<u32>, SampleError> {
        let (sequence, position) = (self.options.sequence, self.tokens.len() as u64);
        let reads = self.sampler.reads(vocab);
        match forward {
            // Argmax passes over what is no number, which a draw must not.
            Forward::Argmax(ids) if reads == Reads::First => match ids[row] {
                // The op's word for a row with nothing above −∞.
                u32::MAX => Err(SampleError::BadLogit {
                    sequence,
                    position,
                    token: 0,
                    value: f32::NAN,
                }),
                id => Ok(Some(id)),
            },
            Forward::TopK { rows, k, totals } if reads != Reads::Row && !self.flat.now() => {
                let head = Head {
                    largest: &rows[row * k..][..*k],
                    vocab,
                    total: totals.get(row).copied(),
                };
                let history = History::split(&self.tokens, self.prompt_len);
                let drawn = (self.sampler).sample_head(head, history, sequence, position)?;
                self.flat.saw(drawn.is_some());
                Ok(drawn)
            }
            Forward::Logits { rows, vocab } => {
                let logits = &rows[row * vocab..(row + 1) * vocab];
                self.draw_of(logits).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The next token from a row of logits.
    fn draw_of(&mut self, logits: &[f32]) -> Result<u32, SampleError> {
        let (sequence, position) = (self.options.sequence, self.tokens.len() as u64);
        let history = History::split(&self.tokens, self.prompt_len);
        self.flat.row_read();
        (self.sampler).sample_token(logits, history, sequence, position)
    }

    /// Takes a drawn token: its text, and whether it ends the answer.
    fn accept(&mut self, token: u32) -> Event {
        let mut event = Event {
            request: self.id,
            token: Some(token),
            text: String::new(),
            finish: None,
            error: None,
        };
        if self.options.stop_tokens.contains(&token) {
            event.text = self.stop.push_token(token, "").text;
            event.finish = Some(Finish::StopToken(token));
            return event;
        }
        self.tokens.push(token);
        let piece = match &mut self.detok {
            Some(d) => d.push(token),
            None => String::new(),
        };
        let released = self.stop.push_token(token, &piece);
        event.text = released.text;
        if released.stop.is_some() {
            event.finish = Some(Finish::StopString);
        } else if self.tokens.len() - self.prompt_len >= self.options.max_tokens {
            event.finish = Some(Finish::Length);
        }
        event
    }

    /// Text held back for a stop string or an incomplete character.
    fn rest(&mut self) -> String {
        let tail = match &mut self.detok {
            Some(d) => d.flush(),
            None => String::new(),
        };
        let mut text = self.stop.push(&tail).text;
        text.push_str(&self.stop.finish());
        text
    }
}
