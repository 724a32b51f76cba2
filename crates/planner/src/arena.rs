//! Settling kernels and placing activations: each value lies in its target's arena
//! from the step that writes it to the last that reads it. Where that one runs on
//! another target, the value is copied to the arena there before the first segment
//! that reads it.

use crate::layout::Layouts;
use crate::plan::{EdgeCopy, Output, Place, Plan, PlanStep, Segment};
use crate::select::{Draft, DraftStep};
use crate::{CachePlan, PlanError};
use graph::{CacheKind, Dim, Graph, ValueId, ValueKind};
use registry::{RowsFrom, Why};
use std::collections::HashMap;

/// Keeps neighbours on separate cache lines and satisfies the offset alignment
/// of every GPU API's buffer bindings.
const ALIGN: u64 = 256;

pub(crate) fn place(
    graph: &Graph,
    caches: &CachePlan,
    draft: Draft,
    targets: usize,
    layouts: &Layouts,
) -> Result<Plan, PlanError> {
    let bytes = |id: ValueId, dims: &[usize]| -> Result<u64, PlanError> {
        dims.iter()
            .try_fold(4u64, |n, d| n.checked_mul(*d as u64))
            .filter(|n| *n < 1 << 40)
            .ok_or_else(|| PlanError::TooLarge {
                what: "activation",
                detail: format!("{} {dims:?}", graph.value(id).name),
            })
    };
    let segments = segments(&draft.steps);
    let segment_of = |step: usize| segments.partition_point(|s| s.steps.end <= step);
    // Lifetimes in steps, both ends included, by target and value.
    let mut lives: HashMap<(usize, ValueId), Life> = HashMap::new();
    let mut made: HashMap<ValueId, usize> = HashMap::new();
    // (value, from, to)
    let mut edges: Vec<(ValueId, usize, usize)> = Vec::new();
    for (i, step) in draft.steps.iter().enumerate() {
        for (v, o) in step.outputs.iter().zip(&step.problem.outputs) {
            if graph.value(*v).is_activation() {
                lives.insert((step.target, *v), (i, i, bytes(*v, &o.shape)?));
                made.insert(*v, i);
            }
        }
        for v in &step.inputs {
            if let Some(life) = lives.get_mut(&(step.target, *v)) {
                life.1 = life.1.max(i);
            } else if let Some(&maker) = made.get(v) {
                let (from, to) = (segment_of(maker), segment_of(i));
                edges.push((*v, from, to));
                // It leaves at the end of its segment and comes at the start of this.
                let source = lives.get_mut(&(segments[from].target, *v));
                let size = source.map_or(0, |life| {
                    life.1 = life.1.max(segments[from].steps.end - 1);
                    life.2
                });
                lives.insert((step.target, *v), (segments[to].steps.start, i, size));
            }
        }
    }
    for v in graph.outputs() {
        let home = made.get(v).map(|maker| draft.steps[*maker].target);
        if let Some(life) = home.and_then(|t| lives.get_mut(&(t, *v))) {
            life.1 = draft.steps.len();
        }
    }
    let (mut offsets, mut arenas) = (Vec::new(), Vec::new());
    for target in 0..targets {
        let here = lives.iter().filter(|((t, _), _)| *t == target);
        let (places, end) = pack(&here.map(|((_, v), life)| (*v, *life)).collect());
        offsets.push(places);
        arenas.push(end);
    }
    let place_of = |target: usize, v: &ValueId| match graph.value(*v).kind {
        ValueKind::Activation(_) => Place::Arena {
            offset: offsets[target][v],
            bytes: lives[&(target, *v)].2,
        },
        ValueKind::Cache(ref spec) => match spec.kind {
            CacheKind::Recurrent => Place::States,
            CacheKind::Full | CacheKind::Window { .. } => Place::Pages {
                buffer: caches.slots[v].buffer,
            },
        },
        _ => Place::Resident(*v),
    };
    let output = |v: &ValueId| {
        let segment = made.get(v).map_or(0, |maker| segment_of(*maker));
        Output {
            value: *v,
            segment,
            place: place_of(segments[segment].target, v),
        }
    };
    let copy = |&(value, from, to): &(ValueId, usize, usize)| {
        let shape = &graph.value(value).shape;
        let src = place_of(segments[from].target, &value);
        let dst = place_of(segments[to].target, &value);
        EdgeCopy {
            value,
            from,
            to,
            rows: rows_from(shape.leading()),
            // Checked when its lifetime began.
            row_bytes: shape.fixed_len().unwrap_or(0) as u64 * 4,
            src,
            dst,
        }
    };
    let outputs = graph.outputs().iter().map(output).collect();
    let copies = edges.iter().map(copy).collect();
    let mut steps = Vec::with_capacity(draft.steps.len());
    for step in draft.steps {
        let inputs = step.inputs.iter().map(|v| place_of(step.target, v));
        let inputs = inputs.collect();
        let outputs = step.outputs.iter().map(|v| place_of(step.target, v));
        let outputs = outputs.collect();
        steps.push(settle(step, inputs, outputs, layouts));
    }
    Ok(Plan {
        rows: draft.rows,
        step: draft.step,
        steps,
        segments,
        copies,
        arenas,
        outputs,
    })
}

/// First and last step, bytes.
type Life = (usize, usize, u64);

/// The steps in runs on one target.
fn segments(steps: &[DraftStep]) -> Vec<Segment> {
    let mut all: Vec<Segment> = Vec::new();
    for (i, step) in steps.iter().enumerate() {
        match all.last_mut() {
            Some(last) if last.target == step.target => last.steps.end = i + 1,
            _ => all.push(Segment {
                target: step.target,
                steps: i..i + 1,
            }),
        }
    }
    all
}

/// The counter of the step for an activation's leading dimension.
pub(crate) fn rows_from(leading: Option<Dim>) -> RowsFrom {
    match leading {
        Some(Dim::Rows) => RowsFrom::Batch,
        Some(Dim::LogitRows) => RowsFrom::Logits,
        _ => RowsFrom::Fixed,
    }
}

/// The best kernel that takes the layouts all consumers agreed on.
fn settle(step: DraftStep, inputs: Vec<Place>, outputs: Vec<Place>, layouts: &Layouts) -> PlanStep {
    let mut problem = step.problem;
    let mut wanted = None;
    for (v, operand) in step.inputs.iter().zip(&mut problem.inputs) {
        if let Some(layout) = layouts.get(&(step.target, *v)) {
            operand.layout = layout;
            wanted = Some(*layout);
        }
    }
    let takes =
        |c: &&crate::select::Choice| wanted.is_none_or(|l| c.kernel.spec().layouts.contains(&l));
    // `agree` only returns layouts that every step has a kernel for.
    let best = step.choices.iter().find(takes).unwrap_or(&step.choices[0]);
    PlanStep {
        target: step.target,
        key: best.kernel.spec().key(),
        kernel: best.kernel,
        file: best.file,
        why: if std::ptr::eq(best, &step.choices[0]) {
            best.why
        } else {
            Why::Layout
        },
        nodes: step.nodes,
        problem,
        inputs,
        outputs,
    }
}

/// Largest first, each at the lowest offset that no value alive at the same time
/// occupies.
fn pack(lives: &HashMap<ValueId, Life>) -> (HashMap<ValueId, u64>, u64) {
    let mut order: Vec<_> = lives.iter().map(|(v, l)| (*v, *l)).collect();
    order.sort_by_key(|(v, (from, _, bytes))| (std::cmp::Reverse(*bytes), *from, *v));
    let mut placed: Vec<(u64, u64, usize, usize)> = Vec::new();
    let mut offsets = HashMap::new();
    let mut end = 0;
    for (v, (from, to, bytes)) in order {
        let size = bytes.max(1).next_multiple_of(ALIGN);
        let mut busy: Vec<(u64, u64)> = placed
            .iter()
            .filter(|(_, _, f, t)| *f <= to && from <= *t)
            .map(|(s, e, _, _)| (*s, *e))
            .collect();
        busy.sort_unstable();
        let mut at = 0;
        for (s, e) in busy {
            if at + size <= s {
                break;
            }
            at = at.max(e);
        }
        placed.push((at, at + size, from, to));
        offsets.insert(v, at);
        end = end.max(at + size);
    }
    (offsets, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_alive_together_never_overlap() {
        // A pseudo-random set of lifetimes, checked pair by pair.
        let mut seed = 1u64;
        let mut next = |n: u64| {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        let lives: HashMap<_, _> = (0..200)
            .map(|i| {
                let from = next(50) as usize;
                let to = from + next(10) as usize;
                (ValueId(i), (from, to, next(5000)))
            })
            .collect();
        let (offsets, end) = pack(&lives);
        for (a, (f1, t1, b1)) in &lives {
            assert!(offsets[a] + b1 <= end && offsets[a] % ALIGN == 0);
            for (b, (f2, t2, b2)) in &lives {
                let together = f1 <= t2 && f2 <= t1;
                let apart = offsets[a] + b1 <= offsets[b] || offsets[b] + b2 <= offsets[a];
                assert!(a == b || !together || apart);
            }
        }
        let sum: u64 = lives.values().map(|l| l.2).sum();
        assert!(end < sum / 2, "reuse happens: {end} of {sum}");
    }
}
