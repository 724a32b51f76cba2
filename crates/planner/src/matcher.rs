//! Finding where registered composites apply.

use graph::{Graph, NodeId, ValueId};
use registry::{Pattern, Src};
use std::collections::HashSet;

/// Ops that a pattern does not link directly (the norms of q and k) are looked
/// for this many nodes around its first op: families emit them side by side.
const REACH: u32 = 16;

/// Every match of a pattern, as nodes in pattern order. Of matches that differ only in
/// which of two `alike` nodes stands at which of two like places, the one in graph order.
pub(crate) fn find(
    graph: &Graph,
    pattern: &Pattern,
    alike: &dyn Fn(NodeId, NodeId) -> bool,
) -> Vec<Vec<NodeId>> {
    let mut search = Search {
        graph,
        pattern,
        alike,
        twins: twins(pattern),
        found: Vec::new(),
    };
    for i in 0..graph.nodes().len() as u32 {
        search.extend(&mut vec![], NodeId(i));
    }
    search.found
}

struct Search<'a> {
    graph: &'a Graph,
    pattern: &'a Pattern,
    alike: &'a dyn Fn(NodeId, NodeId) -> bool,
    /// Of each op, the earlier ones that it may change places with.
    twins: Vec<Vec<usize>>,
    found: Vec<Vec<NodeId>>,
}

/// Ops of one kind that read the same and that no other op tells apart: projections of
/// one x.
fn twins(pattern: &Pattern) -> Vec<Vec<usize>> {
    // What an op reads, seen from each of those that share its x.
    let reads = |i: usize| match pattern.ops[i].inputs {
        [] if i == 0 => &[Src::Same(0, 0)],
        inputs => inputs,
    };
    let told_apart = |i: usize| {
        let by = |src: &Src| match *src {
            Src::Op(j) => j == i,
            Src::Same(j, k) => j == i && (i, k) != (0, 0),
            Src::Any => false,
        };
        pattern.ops.iter().any(|o| o.inputs.iter().any(by))
    };
    let like = |i: usize, j: usize| {
        pattern.ops[i].kind == pattern.ops[j].kind
            && reads(i) == reads(j)
            && !reads(i).is_empty()
            && !reads(i).contains(&Src::Any)
            && pattern.outputs.contains(&i) == pattern.outputs.contains(&j)
            && !told_apart(i)
            && !told_apart(j)
    };
    (0..pattern.ops.len())
        .map(|i| (0..i).filter(|j| like(i, *j)).collect())
        .collect()
}

impl Search<'_> {
    fn extend(&mut self, chosen: &mut Vec<NodeId>, candidate: NodeId) {
        let at = chosen.len();
        let again =
            |twin: &usize| candidate < chosen[*twin] && (self.alike)(candidate, chosen[*twin]);
        if chosen.contains(&candidate)
            || self.twins[at].iter().any(again)
            || !accepts(self.graph, self.pattern, chosen, candidate)
        {
            return;
        }
        chosen.push(candidate);
        if chosen.len() == self.pattern.ops.len() {
            if legal(self.graph, self.pattern, chosen) {
                self.found.push(chosen.clone());
            }
        } else {
            for next in candidates(self.graph, self.pattern, chosen, at + 1) {
                self.extend(chosen, next);
            }
        }
        chosen.pop();
    }
}

fn candidates(graph: &Graph, pattern: &Pattern, chosen: &[NodeId], op: usize) -> Vec<NodeId> {
    for src in pattern.ops[op].inputs {
        match *src {
            Src::Op(j) => return graph.consumers(graph.node(chosen[j]).outputs[0]).to_vec(),
            Src::Same(j, k) => {
                return match graph.node(chosen[j]).inputs.get(k) {
                    Some(v) => near(graph.consumers(*v), chosen),
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

/// Those near any of the chosen: like nodes are tried in graph order alone, in which the
/// last may be far from the first.
fn near(nodes: &[NodeId], chosen: &[NodeId]) -> Vec<NodeId> {
    let close = |n: &&NodeId| chosen.iter().any(|c| n.0.abs_diff(c.0) <= REACH);
    nodes.iter().filter(close).copied().collect()
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

#[cfg(test)]
mod tests {
    use super::find;
    use graph::{Activation, Graph, GraphBuilder, NodeId, Op};
    use registry::Pattern;
    use registry::patterns::{GATE_UP, QKV_GATE};

    /// Five projections of one x, of which the first two meet in a gated product.
    fn projections() -> Graph {
        let mut g = GraphBuilder::new("projections");
        let mut build = || -> Result<(), graph::GraphError> {
            let table = g.matrix("embed", 8, 4)?;
            let x = g.op("embed", Op::Embed, &[table])?;
            let mut made = Vec::new();
            for i in 0..5 {
                let (name, out) = (format!("y{i}"), vec![4]);
                let w = g.matrix(&name, 4, 4)?;
                made.push(g.op(&name, Op::Linear { out }, &[x, w])?);
            }
            let gated = Op::GatedMul(Activation::Silu);
            made.push(g.op("gated", gated, &[made[0], made[1]])?);
            for (i, id) in made.into_iter().enumerate().skip(2) {
                g.output(&format!("out{i}"), id);
            }
            Ok(())
        };
        build().unwrap();
        g.finish().unwrap()
    }

    fn matches(pattern: &Pattern, alike: bool) -> Vec<Vec<NodeId>> {
        find(&projections(), pattern, &|_, _| alike)
    }

    #[test]
    fn like_projections_are_matched_in_graph_order_alone() {
        let all = matches(&QKV_GATE, false);
        assert_eq!(all.len(), 5 * 4 * 3 * 2, "every order");
        let ordered = matches(&QKV_GATE, true);
        assert_eq!(ordered.len(), 5, "every four of five");
        assert!(ordered.iter().all(|m| m.is_sorted() && all.contains(m)));
        // Gate and up are not the same, however like their matrices are.
        assert_eq!(matches(&GATE_UP, true), matches(&GATE_UP, false));
        assert_eq!(matches(&GATE_UP, true).len(), 1);
    }
}
