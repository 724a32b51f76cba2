//! Settling kernels and placing activations: each value lies in one arena from
//! the step that writes it to the last that reads it.

use crate::PlanError;
use crate::plan::{Place, Plan, PlanStep};
use crate::select::{Draft, DraftStep};
use graph::{CacheKind, Graph, ValueId, ValueKind};
use registry::Why;
use std::collections::HashMap;

/// Keeps neighbours on separate cache lines and satisfies the offset alignment
/// of every GPU API's buffer bindings.
const ALIGN: u64 = 256;

pub(crate) fn place(
    graph: &Graph,
    draft: Draft,
    layouts: &HashMap<ValueId, &'static str>,
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
    // Lifetimes in steps, both ends included.
    let mut lives: HashMap<ValueId, (usize, usize, u64)> = HashMap::new();
    for (i, step) in draft.steps.iter().enumerate() {
        for (v, o) in step.outputs.iter().zip(&step.problem.outputs) {
            if graph.value(*v).is_activation() {
                lives.insert(*v, (i, i, bytes(*v, &o.shape)?));
            }
        }
        for v in &step.inputs {
            if let Some(life) = lives.get_mut(v) {
                life.1 = i;
            }
        }
    }
    for v in graph.outputs() {
        if let Some(life) = lives.get_mut(v) {
            life.1 = draft.steps.len();
        }
    }
    let (offsets, arena_bytes) = pack(&lives);
    let place_of = |v: &ValueId| match graph.value(*v).kind {
        ValueKind::Activation(_) => Place::Arena {
            offset: offsets[v],
            bytes: lives[v].2,
        },
        ValueKind::Cache(ref spec) => match spec.kind {
            CacheKind::Recurrent => Place::States,
            CacheKind::Full | CacheKind::Window { .. } => Place::Pool,
        },
        _ => Place::Resident(*v),
    };
    let outputs = graph.outputs().iter().map(|v| (*v, place_of(v))).collect();
    let mut steps = Vec::with_capacity(draft.steps.len());
    for step in draft.steps {
        let inputs = step.inputs.iter().map(place_of).collect();
        let outputs = step.outputs.iter().map(place_of).collect();
        steps.push(settle(step, inputs, outputs, layouts));
    }
    Ok(Plan {
        rows: draft.rows,
        step: draft.step,
        steps,
        arena_bytes,
        outputs,
    })
}

/// The best kernel that takes the layouts all consumers agreed on.
fn settle(
    step: DraftStep,
    inputs: Vec<Place>,
    outputs: Vec<Place>,
    layouts: &HashMap<ValueId, &'static str>,
) -> PlanStep {
    let mut problem = step.problem;
    let mut wanted = None;
    for (v, operand) in step.inputs.iter().zip(&mut problem.inputs) {
        if let Some(layout) = layouts.get(v) {
            operand.layout = layout;
            wanted = Some(*layout);
        }
    }
    let takes =
        |c: &&crate::select::Choice| wanted.is_none_or(|l| c.kernel.spec().layouts.contains(&l));
    // `agree` only returns layouts that every step has a kernel for.
    let best = step.choices.iter().find(takes).unwrap_or(&step.choices[0]);
    PlanStep {
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
fn pack(lives: &HashMap<ValueId, (usize, usize, u64)>) -> (HashMap<ValueId, u64>, u64) {
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
