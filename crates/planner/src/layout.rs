//! One layout per stored matrix of a target, for all of its consumers in all buckets.

use crate::PlanError;
use crate::select::{Draft, DraftStep};
use graph::{Graph, ValueId};
use registry::{OperandRole, ROW_MAJOR, Scheme, WeightLayout, WeightShape};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The layout of each matrix on each target that reads it.
pub(crate) type Layouts = HashMap<(usize, ValueId), &'static str>;

pub(crate) fn packed_bytes(layout: &str, shape: &WeightShape) -> Option<u64> {
    if layout == ROW_MAJOR {
        shape.bytes()
    } else {
        WeightLayout::find(layout)?.bytes(shape)
    }
}

/// Chooses, for each set of matrices that share kernels, the layout that keeps
/// the most preferred kernels over all steps of all buckets.
pub(crate) fn agree(
    graph: &Graph,
    schemes: &HashMap<ValueId, Scheme>,
    drafts: &[Draft],
) -> Result<Layouts, PlanError> {
    // Matrices that one step uses together want the same layout.
    type Stored = (usize, ValueId);
    let mut leader: BTreeMap<Stored, Stored> = BTreeMap::new();
    fn find(leader: &BTreeMap<Stored, Stored>, mut v: Stored) -> Stored {
        while let Some(&up) = leader.get(&v) {
            if up == v {
                break;
            }
            v = up;
        }
        v
    }
    let steps = || drafts.iter().flat_map(|d| &d.steps);
    for step in steps() {
        let mut first = None;
        for v in matrices(step) {
            leader.entry(v).or_insert(v);
            let root = find(&leader, v);
            match first {
                None => first = Some(root),
                Some(f) => {
                    leader.insert(root, find(&leader, f));
                }
            }
        }
    }
    let mut members: BTreeMap<Stored, Vec<Stored>> = BTreeMap::new();
    for v in leader.keys() {
        members.entry(find(&leader, *v)).or_default().push(*v);
    }

    let mut users_of: BTreeMap<Stored, Vec<&DraftStep>> = BTreeMap::new();
    for step in steps() {
        if let Some(v) = matrices(step).next() {
            users_of.entry(find(&leader, v)).or_default().push(step);
        }
    }
    let mut chosen = HashMap::new();
    for (root, values) in members {
        let users = users_of.remove(&root).unwrap_or_default();
        let offered: BTreeSet<&'static str> = users
            .iter()
            .flat_map(|s| &s.choices)
            .flat_map(|c| c.kernel.spec().layouts.iter().copied())
            .collect();
        let packable = |layout: &str| {
            values.iter().all(|(_, v)| {
                let dims = &graph.value(*v).shape;
                let [graph::Dim::Fixed(n), graph::Dim::Fixed(k)] = dims.dims() else {
                    return false;
                };
                let shape = WeightShape {
                    scheme: schemes[v],
                    n: *n,
                    k: *k,
                };
                packed_bytes(layout, &shape).is_some()
            })
        };
        // The sum of how far down its list each step must go.
        let cost = |layout: &str| -> Option<usize> {
            users
                .iter()
                .map(|s| {
                    s.choices
                        .iter()
                        .position(|c| c.kernel.spec().layouts.contains(&layout))
                })
                .sum()
        };
        let best = offered
            .iter()
            .filter(|l| packable(l))
            .filter_map(|l| Some((cost(l)?, *l != ROW_MAJOR, *l)))
            .min();
        let Some((_, _, layout)) = best else {
            let detail: Vec<String> = users
                .iter()
                .map(|s| {
                    let c: Vec<_> = s
                        .choices
                        .iter()
                        .map(|c| {
                            format!(
                                "{} takes {:?}",
                                c.kernel.spec().key(),
                                c.kernel.spec().layouts
                            )
                        })
                        .collect();
                    c.join(", ")
                })
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect();
            return Err(PlanError::Layout {
                tensor: graph.value(root.1).name.clone(),
                detail: detail.join("; "),
            });
        };
        for v in values {
            chosen.insert(v, layout);
        }
    }
    Ok(chosen)
}

/// The matrices of a step, with its target.
fn matrices(step: &DraftStep) -> impl Iterator<Item = (usize, ValueId)> + '_ {
    let pairs = step.inputs.iter().zip(&step.problem.inputs);
    pairs
        .filter(|(_, o)| o.role == OperandRole::Matrix)
        .map(|(v, _)| (step.target, *v))
}
