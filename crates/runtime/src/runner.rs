//! Steps on one device or two: prepare once, record once per bucket, replay.

use crate::cache::{PageCopy, SeqId, Sequences};
use crate::error::RuntimeError;
use crate::footprint::{self, Kernels};
use crate::late::Late;
use crate::part::Part;
use crate::recorded::{Counts, Recorded};
use crate::step::{SpanPlan, StepWriter};
use crate::weights;
use formats::TensorStore;
use graph::{Dim, Graph, NodeId, OpKind, ValueId};
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
    /// Those, and the sum of each row's weights, see [`graph::Op::ExpSum`].
    TopKAndTotal,
    /// The logits of each output row.
    Logits,
}

/// The outputs of a step, rows in span order.
#[derive(Clone, Debug)]
pub enum Forward<'a> {
    Argmax(&'a [u32]),
    /// Ids and bits of f32, `rows × k`; with [`Want::TopKAndTotal`] a sum for each row,
    /// else none.
    TopK {
        rows: &'a [[u32; 2]],
        k: usize,
        totals: &'a [u64],
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
    /// Copies of single rows of logits.
    late: Late,
    /// Plan and output rows of the last step.
    last: (usize, usize),
    writer: StepWriter,
    /// Records every step anew instead of replaying: for checking that it makes
    /// no difference.
    eager: bool,
    ids: Vec<u32>,
    top: Vec<[u32; 2]>,
    totals: Vec<u64>,
    logits: Vec<f32>,
    bytes: Vec<u8>,
}

/// A graph output.
#[derive(Clone, Copy, Debug)]
enum Made {
    Logits,
    /// By this op, from the logits.
    Op(OpKind),
}

const OF_LOGITS: [OpKind; 3] = [OpKind::ArgMax, OpKind::TopK, OpKind::ExpSum];

/// Whether a node makes nothing but outputs that nobody wants.
fn is_idle(graph: &Graph, node: NodeId, wanted: &dyn Fn(ValueId) -> bool) -> bool {
    graph.node(node).outputs.iter().all(|v| {
        let readers = graph.consumers(*v);
        graph.is_output(*v) && !wanted(*v) && readers.iter().all(|n| is_idle(graph, *n, wanted))
    })
}

/// Bytes of f32 as such.
fn numbers(bytes: &[u8], out: &mut Vec<f32>) {
    let words = bytes.as_chunks().0.iter();
    out.clear();
    out.extend(words.map(|w| f32::from_le_bytes(*w)));
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
            late: Late::default(),
            last: (0, 0),
            writer: StepWriter::default(),
            eager: false,
            ids: Vec::new(),
            top: Vec::new(),
            totals: Vec::new(),
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
        let logits = self.output(Made::Logits).0;
        self.program.graph.value(logits).shape.last().unwrap_or(0)
    }

    /// How many logits of a row [`Want::TopK`] gives.
    pub fn largest(&self) -> usize {
        self.pairs(OpKind::TopK)
    }

    /// Pairs of a row of the output that an op makes; none if it makes none.
    fn pairs(&self, op: OpKind) -> usize {
        let value = self.output(Made::Op(op)).0;
        match self.program.graph.value(value).shape.dims() {
            [_, Dim::Fixed(n), Dim::Fixed(2)] => *n,
            _ => 0,
        }
    }

    /// A graph output, by the op that makes it, and its index.
    fn output(&self, made: Made) -> (ValueId, usize) {
        let graph = &self.program.graph;
        let is = |v: ValueId| {
            let maker = graph.producer(v).map(|n| graph.node(n).op.kind());
            match made {
                Made::Op(op) => maker == Some(op),
                Made::Logits => !maker.is_some_and(|op| OF_LOGITS.contains(&op)),
            }
        };
        let found = (graph.outputs().iter().enumerate()).find(|(_, v)| is(**v));
        // Families declare all outputs; a graph without one has no such want.
        found.map_or((graph.outputs()[0], 0), |(i, v)| (*v, i))
    }

    /// The graph outputs that a want reads.
    fn outputs(&self, want: Want) -> Vec<(ValueId, usize)> {
        let made: &[Made] = match want {
            Want::Argmax => &[Made::Op(OpKind::ArgMax)],
            Want::TopK => &[Made::Op(OpKind::TopK)],
            Want::TopKAndTotal => &[Made::Op(OpKind::TopK), Made::Op(OpKind::ExpSum)],
            Want::Logits => &[Made::Logits],
        };
        made.iter().map(|m| self.output(*m)).collect()
    }

    /// Runs one ragged batch: appends each span's tokens to its sequence and
    /// computes the outputs asked for.
    pub fn forward(&mut self, spans: &[Span<'_>], want: Want) -> Result<Forward<'_>, RuntimeError> {
        self.forward_at(spans, want, &[])
    }

    /// As [`Runner::forward`]. `inv_temps`: [`sampling::inverse`] of the temperatures of
    /// the first output rows, for [`Want::TopKAndTotal`]; the others' is 1.
    pub fn forward_at(
        &mut self,
        spans: &[Span<'_>],
        want: Want,
        inv_temps: &[f32],
    ) -> Result<Forward<'_>, RuntimeError> {
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
        self.last = (0, 0);
        if let Err(e) = self.run(index, spans, want, inv_temps) {
            self.take_back(spans)?;
            return Err(e);
        }
        self.last = (index, outputs);
        self.read(index, want, outputs)
    }

    /// What a step left of its outputs.
    fn read(
        &mut self,
        index: usize,
        want: Want,
        outputs: usize,
    ) -> Result<Forward<'_>, RuntimeError> {
        let (vocab, k) = (self.vocab(), self.pairs(OpKind::TopK));
        let parts = self.pairs(OpKind::ExpSum).max(1);
        let outs = &self.recorded[&(index, want)].outs;
        let bytes = &mut self.bytes;
        let mut read = |out: usize, words: usize| -> Result<Vec<u32>, RuntimeError> {
            bytes.resize(words * 4, 0);
            outs[out].read(0, bytes)?;
            let words = bytes.as_chunks().0.iter();
            Ok(words.map(|w| u32::from_le_bytes(*w)).collect())
        };
        match want {
            Want::Argmax => {
                self.ids = read(0, outputs)?;
                Ok(Forward::Argmax(&self.ids))
            }
            Want::TopK | Want::TopKAndTotal => {
                self.top.clear();
                self.top
                    .extend_from_slice(read(0, outputs * k * 2)?.as_chunks().0);
                self.totals.clear();
                if want == Want::TopKAndTotal {
                    let words = read(1, outputs * parts * 2)?;
                    let sum = |w: &[u32; 2]| u64::from(w[1]) << 32 | u64::from(w[0]);
                    let rows = words.chunks_exact(parts * 2);
                    let rows = rows.map(|r| r.as_chunks().0.iter().map(sum).sum::<u64>());
                    self.totals.extend(rows);
                }
                Ok(Forward::TopK {
                    rows: &self.top,
                    k,
                    totals: &self.totals,
                })
            }
            Want::Logits => {
                bytes.resize(outputs * vocab * 4, 0);
                outs[0].read(0, bytes)?;
                numbers(bytes, &mut self.logits);
                Ok(Forward::Logits {
                    rows: &self.logits,
                    vocab,
                })
            }
        }
    }

    /// The logits of an output row of the last step, whatever was read back of it.
    pub fn logits_row(&mut self, row: usize) -> Result<&[f32], RuntimeError> {
        let (index, outputs) = self.last;
        if row >= outputs {
            let reason = format!("the last one has {outputs} output rows, none with number {row}");
            return Err(RuntimeError::BadStep(reason));
        }
        let (vocab, (_, output)) = (self.vocab(), self.output(Made::Logits));
        let plan = &self.program.plans[index];
        let row_bytes = vocab * 4;
        let at = (index, row);
        (self.late).read(plan, output, at, &self.parts, row_bytes, &mut self.bytes)?;
        numbers(&self.bytes, &mut self.logits);
        Ok(&self.logits)
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

    fn run(
        &mut self,
        index: usize,
        spans: &[Span<'_>],
        want: Want,
        inv_temps: &[f32],
    ) -> Result<(), RuntimeError> {
        if self.eager || !self.recorded.contains_key(&(index, want)) {
            let outputs = self.outputs(want);
            let plan = &self.program.plans[index];
            let graph = &self.program.graph;
            let wanted = |v: ValueId| outputs.iter().any(|(o, _)| *o == v);
            // Of the ops that make outputs alone, those that these come from.
            let idle = |nodes: &[NodeId]| matches!(nodes, [n] if is_idle(graph, *n, &wanted));
            let outputs: Vec<usize> = outputs.iter().map(|(_, i)| *i).collect();
            let kernels = &self.kernels[index];
            let recorded = Recorded::record(plan, index, &outputs, &idle, &self.parts, kernels)?;
            self.recorded.insert((index, want), recorded);
        }
        self.write_step(index, spans, inv_temps)?;
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
    fn write_step(
        &mut self,
        index: usize,
        spans: &[Span<'_>],
        inv_temps: &[f32],
    ) -> Result<(), RuntimeError> {
        let plans: Vec<SpanPlan> = spans
            .iter()
            .map(|s| SpanPlan {
                seq: s.seq,
                rows: s.tokens.len(),
                logits: s.outputs,
            })
            .collect();
        let layout = &self.program.plans[index].step;
        let words = (self.writer).write(layout, &plans, inv_temps, &self.sequences)?;
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
        self.last = (0, 0);
        let (steps, around) = recorded.run_timed()?;
        Ok(Some(Profile {
            plan,
            steps,
            around,
        }))
    }
}
