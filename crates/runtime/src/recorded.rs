//! A recorded step: a recording for each segment of its plan, and the mailboxes
//! between them.

use crate::edges::Edges;
use crate::error::RuntimeError;
use crate::footprint::Kernels;
use crate::part::Part;
use graph::NodeId;
use hal::{Mailbox, Recording, RecordingStats, StepTime};
use planner::{EdgeCopy, Output, Place, Plan};
use registry::RowsFrom;
use std::sync::Arc;

/// How many rows a step has, and how many of them are read back.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub rows: usize,
    pub outputs: usize,
}

struct Segment {
    recording: Box<dyn Recording>,
    /// Commands recorded before each of its steps, and before what follows.
    marks: Vec<usize>,
    /// What must have come before it runs.
    edges: Vec<Edge>,
}

/// Host memory through which an activation goes from one device to another: the one
/// it leaves by and the one it comes by, of different drivers.
struct Edge {
    out: Arc<dyn Mailbox>,
    into: Arc<dyn Mailbox>,
    rows: RowsFrom,
    row_bytes: usize,
}

pub(crate) struct Recorded {
    segments: Vec<Segment>,
    /// The step's words, for each target that the plan uses.
    step_in: Vec<Arc<dyn Mailbox>>,
    /// The outputs that were recorded.
    pub outs: Vec<Arc<dyn Mailbox>>,
    /// Of the last run.
    counts: Counts,
    buffer: Vec<u8>,
}

/// Where an activation lies in its arena.
pub(crate) fn arena(place: &Place) -> Result<(u64, u64), RuntimeError> {
    match place {
        Place::Arena { offset, bytes } => Ok((*offset, *bytes)),
        _ => Err(RuntimeError::Weight {
            tensor: "output".into(),
            reason: "is not computed by the graph".into(),
        }),
    }
}

impl Recorded {
    /// Records plan number `index` with the outputs of those indices, without the steps
    /// whose nodes are `idle` then.
    pub fn record(
        plan: &Plan,
        index: usize,
        outputs: &[usize],
        idle: &dyn Fn(&[NodeId]) -> bool,
        parts: &[Part],
        kernels: &Kernels,
    ) -> Result<Self, RuntimeError> {
        let home = |o: &Output| &parts[plan.segments[o.segment].target];
        let wanted: Vec<Output> = outputs.iter().map(|o| plan.outputs[*o]).collect();
        let mut outs = Vec::new();
        for o in &wanted {
            let (_, bytes) = arena(&o.place)?;
            outs.push(home(o).device.mailbox(bytes as usize)?);
        }
        let edges = edges(plan, parts)?;
        let step_bytes = plan.step.bytes();
        let mut step_in: Vec<Arc<dyn Mailbox>> = Vec::new();
        let mut begun = vec![false; parts.len()];
        let mut recorders = Vec::new();
        for (at, segment) in plan.segments.iter().enumerate() {
            let part = &parts[segment.target];
            let mut recorder = part.device.recorder("step")?;
            if !std::mem::replace(&mut begun[segment.target], true) {
                let words = part.device.mailbox(step_bytes as usize)?;
                recorder.copy_in(&words, &part.steps[index], 0, step_bytes)?;
                step_in.push(words);
            }
            let copies = || plan.copies.iter().zip(&edges);
            for (copy, edge) in copies().filter(|(c, _)| c.to == at) {
                let (offset, bytes) = arena(&copy.dst)?;
                recorder.copy_in(&edge.into, &part.arena, offset, bytes)?;
            }
            let mut marks = Vec::with_capacity(segment.steps.len() + 1);
            let steps = &plan.steps[segment.steps.clone()];
            for (s, kernel) in steps.iter().zip(&kernels[segment.steps.clone()]) {
                marks.push(recorder.commands());
                if idle(&s.nodes) {
                    continue;
                }
                let binds = part.binds(plan, index, s, kernel.workspace());
                kernel.record(&mut *recorder, &binds)?;
            }
            marks.push(recorder.commands());
            for (copy, edge) in copies().filter(|(c, _)| c.from == at) {
                let (offset, bytes) = arena(&copy.src)?;
                recorder.copy_out(&part.arena, offset, bytes, &edge.out, 0)?;
            }
            for (o, out) in wanted.iter().zip(&outs).filter(|(o, _)| o.segment == at) {
                let (offset, bytes) = arena(&o.place)?;
                recorder.copy_out(&home(o).arena, offset, bytes, out, 0)?;
            }
            recorders.push((recorder, marks));
        }
        let mut segments = Vec::new();
        for (recorder, marks) in recorders {
            segments.push(Segment {
                recording: recorder.finish()?,
                marks,
                edges: Vec::new(),
            });
        }
        for (copy, edge) in plan.copies.iter().zip(edges) {
            segments[copy.to].edges.push(edge);
        }
        Ok(Recorded {
            segments,
            step_in,
            outs,
            counts: Counts::default(),
            buffer: Vec::new(),
        })
    }

    /// Runs the step whose words these are.
    pub fn run(&mut self, words: &[u8], counts: Counts) -> Result<(), RuntimeError> {
        self.counts = counts;
        for mailbox in &self.step_in {
            mailbox.write(0, words)?;
        }
        for segment in &self.segments {
            segment.receive(counts, &mut self.buffer)?;
            segment.recording.run()?;
        }
        Ok(())
    }

    /// Runs the last step again: seconds of each step of the plan, none of those that are
    /// not recorded, and of all else.
    pub fn run_timed(&mut self) -> Result<(Vec<Option<f64>>, f64), RuntimeError> {
        let sum = |times: &[StepTime]| times.iter().map(|t| t.seconds).sum::<f64>();
        let (mut steps, mut all) = (Vec::new(), 0.0);
        for segment in &self.segments {
            segment.receive(self.counts, &mut self.buffer)?;
            let times = segment.recording.run_timed()?;
            all += sum(&times);
            let seconds = |m: &[usize]| (m[0] < m[1]).then(|| sum(&times[m[0]..m[1]]));
            steps.extend(segment.marks.windows(2).map(seconds));
        }
        let around = all - steps.iter().flatten().sum::<f64>();
        Ok((steps, around))
    }

    /// Commands and barriers of all segments.
    pub fn stats(&self) -> RecordingStats {
        let all = self.segments.iter().map(|s| s.recording.stats());
        all.fold(RecordingStats::default(), |a, b| RecordingStats {
            commands: a.commands + b.commands,
            barriers: a.barriers + b.barriers,
        })
    }
}

/// The mailboxes of every edge copy.
fn edges(plan: &Plan, parts: &[Part]) -> Result<Vec<Edge>, RuntimeError> {
    let wanted = Edges::of(plan);
    let mut boxes: Vec<Arc<dyn Mailbox>> = Vec::new();
    for (target, bytes) in wanted.boxes {
        boxes.push(parts[target].device.mailbox(bytes as usize)?);
    }
    let pairs = plan.copies.iter().zip(wanted.copies);
    let edge = |(copy, (out, into)): (&EdgeCopy, (usize, usize))| Edge {
        out: boxes[out].clone(),
        into: boxes[into].clone(),
        rows: copy.rows,
        row_bytes: copy.row_bytes as usize,
    };
    Ok(pairs.map(edge).collect())
}

impl Segment {
    /// Brings the rows of this step from the segments before it.
    fn receive(&self, counts: Counts, buffer: &mut Vec<u8>) -> Result<(), RuntimeError> {
        for edge in &self.edges {
            let rows = match edge.rows {
                RowsFrom::Batch => counts.rows,
                RowsFrom::Logits => counts.outputs,
                RowsFrom::Fixed => 1,
            };
            buffer.resize(rows * edge.row_bytes, 0);
            edge.out.read(0, buffer)?;
            edge.into.write(0, buffer)?;
        }
        Ok(())
    }
}
