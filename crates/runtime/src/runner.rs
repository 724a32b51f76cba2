//! Steps on one device or two: prepare once, record once per bucket, replay.

use crate::cache::{PageCopy, SeqId, Sequences};
use crate::error::RuntimeError;
use crate::footprint::{self, Kernels};
use crate::part::Part;
use crate::recorded::{Counts, Recorded};
use crate::step::{SpanPlan, StepWriter};
use crate::weights;
use formats::TensorStore;
use graph::{Dim, NodeId, OpKind, ValueId};
use hal::{Device, RecordingStats};
use planner::{Plan, Program};
use std::collections::HashMap;
use std::sync::Arc;

/// One sequence's tokens in a step.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    pub seq: SeqId,
    /// Appended to the sequence by the step.
    pub tokens: &'a [u32],
    /// How many of the last tokens need outputs.
    pub outputs: usize,
    /// How many of the last tokens keep the recurrent state behind them, so that
    /// the sequence can be truncated there; the last one always does. At most
    /// [`planner::Limits::drafts`] + 1. Without recurrent layers it says nothing.
    pub states: usize,
}

impl<'a> Span<'a> {
    /// Tokens of which the last `outputs` need outputs.
    pub fn new(seq: SeqId, tokens: &'a [u32], outputs: usize) -> Self {
        Span {
            seq,
            tokens,
            outputs,
            states: 1,
        }
    }
}

/// What the host reads back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Want {
    /// The greedy token of each output row.
    Argmax,
    /// The largest logits of each output row, see [`graph::Op::TopK`].
    TopK,
    /// The logits of each output row.
    Logits,
}

/// The outputs of a step, rows in span order.
#[derive(Clone, Debug)]
pub enum Forward<'a> {
    Argmax(&'a [u32]),
    /// Ids and bits of f32, `rows × k`.
    TopK {
        rows: &'a [[u32; 2]],
        k: usize,
    },
    /// `rows × vocab`, row-major.
    Logits {
        rows: &'a [f32],
        vocab: usize,
    },
}

/// Where the time of one repeated step went, in seconds.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Index into [`Program::plans`].
    pub plan: usize,
    /// Of each step of that plan; none where nothing was recorded, because it makes
    /// another output than the one asked for.
    pub steps: Vec<Option<f64>>,
    /// Of what the runner puts around them: the step's inputs in, its outputs out.
    pub around: f64,
}

/// A loaded program and its sequences.
pub struct Runner {
    program: Arc<Program>,
    /// As the program's targets.
    parts: Vec<Part>,
    /// As the program's plans.
    kernels: Vec<Kernels>,
    sequences: Sequences,
    recorded: HashMap<(usize, Want), Recorded>,
    writer: StepWriter,
    /// Records every step anew instead of replaying: for checking that it makes
    /// no difference.
    eager: bool,
    ids: Vec<u32>,
    top: Vec<[u32; 2]>,
    logits: Vec<f32>,
    bytes: Vec<u8>,
}

/// What no plan's size could make right.
fn check_spans(spans: &[Span<'_>]) -> Result<(), RuntimeError> {
    if spans.iter().all(|s| s.tokens.is_empty()) {
        return Err(RuntimeError::BadStep("it has no tokens".into()));
    }
    for (i, s) in spans.iter().enumerate() {
        if s.outputs > s.tokens.len() {
            let (outputs, tokens) = (s.outputs, s.tokens.len());
            let reason = format!("{outputs} outputs were asked for of {tokens} tokens");
            return Err(RuntimeError::BadStep(reason));
        }
        if spans[..i].iter().any(|other| other.seq == s.seq) {
            let reason = format!("{:?} appears twice: give its tokens in one span", s.seq);
            return Err(RuntimeError::BadStep(reason));
        }
    }
    Ok(())
}

impl Runner {
    /// Loads weights and allocates caches and activations, on one device.
    pub fn load(
        device: Arc<dyn Device>,
        program: Arc<Program>,
        tensors: &TensorStore,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, RuntimeError> {
        Self::load_on(vec![device], program, tensors, progress)
    }

    /// As [`Runner::load`], on the device of each of the program's targets.
    pub fn load_on(
        devices: Vec<Arc<dyn Device>>,
        program: Arc<Program>,
        tensors: &TensorStore,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, RuntimeError> {
        let targets = program.targets().len();
        if devices.len() != targets {
            return Err(RuntimeError::Placement(format!(
                "the model is planned for {targets} devices and {} are open: open one for each \
                 target of its program",
                devices.len()
            )));
        }
        let mut kernels = Vec::new();
        for plan in &program.plans {
            kernels.push(footprint::prepare(plan, &devices)?);
        }
        let mut workspaces = Vec::new();
        for (target, device) in devices.iter().enumerate() {
            let bytes = footprint::workspace(&program, &kernels, target);
            workspaces.push(Part::workspace(&**device, bytes)?);
        }
        let resident = weights::load(&program, &devices, tensors, progress)?;
        let mut parts = Vec::new();
        let lying = devices.into_iter().zip(resident).zip(workspaces);
        for (target, ((device, resident), workspace)) in lying.enumerate() {
            parts.push(Part::new(&program, target, device, resident, workspace)?);
        }
        let sequences = Sequences::new(&program.cache, &program.limits);
        Ok(Runner {
            program,
            parts,
            kernels,
            sequences,
            recorded: HashMap::new(),
            writer: StepWriter::default(),
            eager: false,
            ids: Vec::new(),
            top: Vec::new(),
            logits: Vec::new(),
            bytes: Vec::new(),
        })
    }

    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }

    /// The first device; see [`Runner::devices`].
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.parts[0].device
    }

    /// Of each of the program's targets.
    pub fn devices(&self) -> impl Iterator<Item = &Arc<dyn Device>> {
        self.parts.iter().map(|p| &p.device)
    }

    pub fn sequences(&self) -> &Sequences {
        &self.sequences
    }

    /// Records each step anew (`true`) or once (`false`, the default).
    pub fn set_eager(&mut self, eager: bool) {
        self.eager = eager;
    }

    pub fn create(&mut self) -> Result<SeqId, RuntimeError> {
        self.sequences.create()
    }

    pub fn fork(&mut self, of: SeqId) -> Result<SeqId, RuntimeError> {
        self.sequences.fork(of)
    }

    pub fn free(&mut self, id: SeqId) -> Result<(), RuntimeError> {
        self.sequences.free(id)
    }

    /// Forgets all but the first `len` tokens of a sequence.
    pub fn truncate(&mut self, id: SeqId, len: usize) -> Result<(), RuntimeError> {
        self.sequences.truncate(id, len)
    }

    /// The recurrent state of a sequence, f32 in the order of the plan's views, target
    /// by target; `None` for a model without, or before the first token.
    pub fn recurrent_state(&self, id: SeqId) -> Result<Option<Vec<u8>>, RuntimeError> {
        let Some(kept) = self.sequences.states(id)?.last() else {
            return Ok(None);
        };
        let mut out = Vec::new();
        let bytes = &self.program.cache.states.slot_bytes;
        for (part, bytes) in self.parts.iter().zip(bytes) {
            part.read_states(kept.slot, *bytes, &mut out)?;
        }
        Ok(Some(out))
    }

    pub fn vocab(&self) -> usize {
        let logits = self.output(Want::Logits).0;
        self.program.graph.value(logits).shape.last().unwrap_or(0)
    }

    /// How many logits of a row [`Want::TopK`] gives.
    pub fn largest(&self) -> usize {
        let top = self.output(Want::TopK).0;
        match self.program.graph.value(top).shape.dims() {
            [_, Dim::Fixed(k), Dim::Fixed(2)] => *k,
            _ => 0,
        }
    }

    /// The graph output a want reads, by the op that makes it.
    fn output(&self, want: Want) -> (ValueId, usize) {
        let graph = &self.program.graph;
        let is = |v: ValueId| {
            let maker = graph.producer(v).map(|n| graph.node(n).op.kind());
            match want {
                Want::Argmax => maker == Some(OpKind::ArgMax),
                Want::TopK => maker == Some(OpKind::TopK),
                Want::Logits => !matches!(maker, Some(OpKind::ArgMax | OpKind::TopK)),
            }
        };
        let found = (graph.outputs().iter().enumerate()).find(|(_, v)| is(**v));
        // Families declare all outputs; a graph without one has no such want.
        found.map_or((graph.outputs()[0], 0), |(i, v)| (*v, i))
    }

    /// Runs one ragged batch: appends each span's tokens to its sequence and
    /// computes the outputs asked for.
    pub fn forward(&mut self, spans: &[Span<'_>], want: Want) -> Result<Forward<'_>, RuntimeError> {
        check_spans(spans)?;
        let rows: usize = spans.iter().map(|s| s.tokens.len()).sum();
        let outputs: usize = spans.iter().map(|s| s.outputs).sum();
        let index = self.program.index_for(rows);
        let fits = |p: &Plan| spans.len() <= p.step.max_spans && outputs <= p.step.max_logit_rows;
        let Some(index) = index.filter(|i| fits(&self.program.plans[*i])) else {
            let last = self.program.plans.last();
            return Err(RuntimeError::StepTooLarge {
                rows,
                spans: spans.len(),
                max_rows: last.map_or(0, |p| p.rows.max),
                max_spans: last.map_or(0, |p| p.step.max_spans),
            });
        };
        let vocab = self.vocab();
        for id in spans.iter().flat_map(|s| s.tokens) {
            if *id as usize >= vocab {
                return Err(RuntimeError::TokenRange { id: *id, vocab });
            }
        }
        self.append(spans)?;
        if let Err(e) = self.run(index, spans, want) {
            self.take_back(spans)?;
            return Err(e);
        }
        let k = self.largest();
        let outputs_bytes = match want {
            Want::Argmax => outputs * 4,
            Want::TopK => outputs * k * 8,
            Want::Logits => outputs * vocab * 4,
        };
        self.bytes.resize(outputs_bytes, 0);
        self.recorded[&(index, want)].out.read(0, &mut self.bytes)?;
        let words = self.bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
        Ok(match want {
            Want::Argmax => {
                self.ids.clear();
                self.ids.extend(words.map(u32::from_le_bytes));
                Forward::Argmax(&self.ids)
            }
            Want::TopK => {
                let words: Vec<u32> = words.map(u32::from_le_bytes).collect();
                self.top.clear();
                self.top.extend_from_slice(words.as_chunks().0);
                Forward::TopK { rows: &self.top, k }
            }
            Want::Logits => {
                self.logits.clear();
                self.logits.extend(words.map(f32::from_le_bytes));
                Forward::Logits {
                    rows: &self.logits,
                    vocab,
                }
            }
        })
    }

    /// Appends to every sequence or to none, and copies shared pages.
    fn append(&mut self, spans: &[Span<'_>]) -> Result<(), RuntimeError> {
        let mut copies = Vec::new();
        for (i, s) in spans.iter().enumerate() {
            if let Err(e) = self
                .sequences
                .append(s.seq, s.tokens, s.states, &mut copies)
            {
                // Pages have changed hands already: the copies are still due.
                self.copy_or_forget(&copies, spans)?;
                self.take_back(&spans[..i])?;
                return Err(e);
            }
        }
        self.copy_or_forget(&copies, spans)
    }

    /// Undoes the append of a step that did not happen.
    fn take_back(&mut self, spans: &[Span<'_>]) -> Result<(), RuntimeError> {
        for s in spans {
            let kept = self.sequences.tokens(s.seq)?.len() - s.tokens.len();
            self.sequences.truncate(s.seq, kept)?;
        }
        Ok(())
    }

    /// Copies shared pages before they are written. If that fails the sequences
    /// own pages without content: they are emptied.
    fn copy_or_forget(
        &mut self,
        copies: &[PageCopy],
        spans: &[Span<'_>],
    ) -> Result<(), RuntimeError> {
        let copied = self.copy_pages(copies);
        if copied.is_err() {
            for s in spans {
                self.sequences.truncate(s.seq, 0)?;
            }
        }
        copied
    }

    fn copy_pages(&self, copies: &[PageCopy]) -> Result<(), RuntimeError> {
        let pools = &self.program.cache.pools;
        for (target, (part, pool)) in self.parts.iter().zip(pools).enumerate() {
            let here: Vec<&PageCopy> = copies.iter().filter(|c| c.target == target).collect();
            part.copy_pages(&here, &pool.parts)?;
        }
        Ok(())
    }

    fn run(&mut self, index: usize, spans: &[Span<'_>], want: Want) -> Result<(), RuntimeError> {
        if self.eager || !self.recorded.contains_key(&(index, want)) {
            let (wanted, output) = self.output(want);
            let plan = &self.program.plans[index];
            let graph = &self.program.graph;
            // Of the ops that make outputs alone, that of this one.
            let idle = |nodes: &[NodeId]| {
                let made = nodes.iter().flat_map(|n| &graph.node(*n).outputs);
                nodes.len() == 1
                    && made.clone().all(|v| {
                        graph.is_output(*v) && graph.consumers(*v).is_empty() && *v != wanted
                    })
            };
            let kernels = &self.kernels[index];
            let recorded = Recorded::record(plan, index, output, &idle, &self.parts, kernels)?;
            self.recorded.insert((index, want), recorded);
        }
        self.write_step(index, spans)?;
        let counts = Counts {
            rows: spans.iter().map(|s| s.tokens.len()).sum(),
            outputs: spans.iter().map(|s| s.outputs).sum(),
        };
        match self.recorded.get_mut(&(index, want)) {
            Some(recorded) => recorded.run(&self.bytes, counts),
            None => Ok(()),
        }
    }

    /// The words of a step, as bytes.
    fn write_step(&mut self, index: usize, spans: &[Span<'_>]) -> Result<(), RuntimeError> {
        let plans: Vec<SpanPlan> = spans
            .iter()
            .map(|s| SpanPlan {
                seq: s.seq,
                rows: s.tokens.len(),
                logits: s.outputs,
            })
            .collect();
        let layout = &self.program.plans[index].step;
        let words = self.writer.write(layout, &plans, &self.sequences)?;
        self.bytes.clear();
        self.bytes
            .extend(words.iter().flat_map(|w| w.to_le_bytes()));
        Ok(())
    }

    /// Commands and barriers of the recorded step for `rows` rows, if it was
    /// recorded.
    pub fn stats(&self, rows: usize, want: Want) -> Option<RecordingStats> {
        let index = self.program.index_for(rows)?;
        Some(self.recorded.get(&(index, want))?.stats())
    }

    /// Repeats the last step of that bucket with a clock on every command; `None`
    /// if there was none. The cache is written with the same values again.
    pub fn profile(&mut self, rows: usize, want: Want) -> Result<Option<Profile>, RuntimeError> {
        let Some(plan) = self.program.index_for(rows) else {
            return Ok(None);
        };
        let Some(recorded) = self.recorded.get_mut(&(plan, want)) else {
            return Ok(None);
        };
        let (steps, around) = recorded.run_timed()?;
        Ok(Some(Profile {
            plan,
            steps,
            around,
        }))
    }
}
