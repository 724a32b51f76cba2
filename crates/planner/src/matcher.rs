//! Finding where registered composites apply.

use graph::{Graph, NodeId, ValueId};
use registry::{Pattern, Src};
use std::collections::HashSet;

/// Ops that a pattern does not link directly (the norms of q and k) are looked
/// for this many nodes around its first op: families emit them side by side.
const REACH: u32 = 16;

/// Every match of a pattern, as nodes in pattern order.
pub(crate) fn find(graph: &Graph, pattern: &Pattern) -> Vec<Vec<NodeId>> {
    let mut found = Vec::new();
    for i in 0..graph.nodes().len() as u32 {
        extend(graph, pattern, &mut vec![], NodeId(i), &mut found);
    }
    found
}

fn extend(
    graph: &Graph,
    pattern: &Pattern,
    chosen: &mut Vec<NodeId>,
    candidate: NodeId,
    found: &mut Vec<Vec<NodeId>>,
) {
    let at = chosen.len();
    if chosen.contains(&candidate) || !accepts(graph, pattern, chosen, candidate) {
        return;
    }
    chosen.push(candidate);
    if chosen.len() == pattern.ops.len() {
        if legal(graph, pattern, chosen) {
            found.push(chosen.clone());
        }
    } else {
        for next in candidates(graph, pattern, chosen, at + 1) {
            extend(graph, pattern, chosen, next, found);
        }
    }
    chosen.pop();
}

fn candidates(graph: &Graph, pattern: &Pattern, chosen: &[NodeId], op: usize) -> Vec<NodeId> {
    for src in pattern.ops[op].inputs {
        match *src {
            Src::Op(j) => return graph.consumers(graph.node(chosen[j]).outputs[0]).to_vec(),
            Src::Same(j, k) => {
                return match graph.node(chosen[j]).inputs.get(k) {
                    Some(v) => near(graph.consumers(*v).iter().copied(), chosen[0]),
                    None => vec![],
                };
            }
            Src::Any => {}
        }
    }
    let anchor = chosen[0].0;
    let end = (graph.nodes().len() as u32).min(anchor + REACH + 1);
    (anchor.saturating_sub(REACH)..end).map(NodeId).collect()
}

fn near(nodes: impl Iterator<Item = NodeId>, anchor: NodeId) -> Vec<NodeId> {
    nodes.filter(|n| n.0.abs_diff(anchor.0) <= REACH).collect()
}

/// Whether a node can stand at the next place of the pattern.
fn accepts(graph: &Graph, pattern: &Pattern, chosen: &[NodeId], candidate: NodeId) -> bool {
    let want = &pattern.ops[chosen.len()];
    let node = graph.node(candidate);
    if node.op.kind() != want.kind || node.inputs.len() < want.inputs.len() {
        return false;
    }
    let wired = want
        .inputs
        .iter()
        .zip(&node.inputs)
        .all(|(src, v)| match *src {
            Src::Any => true,
            Src::Op(j) => graph.node(chosen[j]).outputs[0] == *v,
            Src::Same(j, k) => graph.node(chosen[j]).inputs.get(k) == Some(v),
        });
    // An operand that the pattern wants from outside must not come from inside.
    let outside = node.inputs.iter().enumerate().all(|(i, v)| {
        matches!(want.inputs.get(i), Some(Src::Op(_) | Src::Same(..)))
            || !chosen.iter().any(|c| graph.node(*c).outputs.contains(v))
    });
    wired && outside
}

/// Values used outside are declared outputs, and no path leaves the match and
/// comes back.
fn legal(graph: &Graph, pattern: &Pattern, nodes: &[NodeId]) -> bool {
    for (i, n) in nodes.iter().enumerate() {
        let out = graph.node(*n).outputs[0];
        let escapes =
            graph.is_output(out) || graph.consumers(out).iter().any(|c| !nodes.contains(c));
        if escapes && !pattern.outputs.contains(&i) {
            return false;
        }
    }
    let (Some(first), Some(last)) = (nodes.iter().min(), nodes.iter().max()) else {
        return false;
    };
    let mut tainted: HashSet<ValueId> = HashSet::new();
    for i in first.0..=last.0 {
        let id = NodeId(i);
        let node = graph.node(id);
        let inside = nodes.contains(&id);
        let after = node.inputs.iter().any(|v| tainted.contains(v));
        if inside && after {
            return false;
        }
        let leaves = node
            .inputs
            .iter()
            .any(|v| graph.producer(*v).is_some_and(|p| nodes.contains(&p)));
        if !inside && (after || leaves) {
            tainted.extend(&node.outputs);
        }
    }
    true
}
