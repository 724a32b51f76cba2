//! Which of two targets each node runs on.

use graph::{Graph, Node, NodeId, OpKind, ValueId, ValueKind};

/// How a model is divided between the first target and a second one, which holds
/// what the first has no room for. By default it holds nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// So many first layers lie on the second target, with their caches.
    pub layers: usize,
    /// So does what is before the first layer and behind the last.
    pub ends: bool,
    /// So many first layers have the matrices of their experts there.
    pub experts: usize,
}

impl Split {
    /// The index of each node's target, 0 or 1.
    ///
    /// A layer's nodes lie with their layer; experts, where they lie apart, take
    /// along what stands between them. Outside the layers, what reads a weight lies
    /// with the ends. What reads none follows its input, so that an edge between
    /// targets carries the few rows whose logits are wanted rather than all; a table
    /// without an input follows its first reader.
    pub(crate) fn assign(&self, graph: &Graph) -> Vec<usize> {
        let ends = usize::from(self.ends);
        let mut at: Vec<Option<usize>> = vec![None; graph.nodes().len()];
        for (i, node) in graph.nodes().iter().enumerate() {
            let producers = node.inputs.iter().filter_map(|v| graph.producer(*v));
            at[i] = match node.layer {
                Some(layer) => Some(usize::from(layer < self.layers)),
                None if reads_weight(graph, node) => Some(ends),
                None => producers.map(|p| at[p.index()]).next().flatten(),
            };
        }
        for i in self.experts_of(graph) {
            at[i] = Some(1);
        }
        // In reverse, so that a chain of nodes without inputs follows its reader.
        for i in (0..at.len()).rev() {
            if at[i].is_none() {
                let outputs = graph.nodes()[i].outputs.iter();
                let mut readers = outputs.flat_map(|o| graph.consumers(*o));
                at[i] = readers.find_map(|c| at[c.index()]);
            }
        }
        at.into_iter().map(|t| t.unwrap_or(ends)).collect()
    }

    /// Indices of the nodes that lie on the second target as experts: products with
    /// experts' matrices, their sum, what is between them in a layer, and rotations
    /// that they alone read.
    fn experts_of(&self, graph: &Graph) -> Vec<usize> {
        let mine = |n: &Node| n.layer.is_some_and(|l| l < self.experts);
        let expert = |n: &Node| {
            let kind = n.op.kind();
            mine(n) && matches!(kind, OpKind::ExpertLinear | OpKind::ExpertSum)
        };
        let nodes = graph.nodes();
        let mut behind = vec![false; nodes.len()];
        for (i, n) in nodes.iter().enumerate() {
            let after = |p: NodeId| behind[p.index()] && nodes[p.index()].layer == n.layer;
            let mut makers = n.inputs.iter().filter_map(|v| graph.producer(*v));
            behind[i] = expert(n) || makers.any(after);
        }
        let mut before = vec![false; nodes.len()];
        for (i, n) in nodes.iter().enumerate().rev() {
            let ahead = |c: &NodeId| before[c.index()] && nodes[c.index()].layer == n.layer;
            let mut readers = n.outputs.iter().flat_map(|o| graph.consumers(*o));
            before[i] = expert(n) || readers.any(ahead);
        }
        let alone = |n: &Node| {
            let readers = |o: &ValueId| graph.consumers(*o).iter().all(|c| expert(graph.node(*c)));
            mine(n) && n.op.kind() == OpKind::Rotate && n.outputs.iter().all(readers)
        };
        (0..nodes.len())
            .filter(|i| (behind[*i] && before[*i]) || alone(&nodes[*i]))
            .collect()
    }
}

fn reads_weight(graph: &Graph, node: &Node) -> bool {
    let weight = |v: &ValueId| matches!(graph.value(*v).kind, ValueKind::Weight { .. });
    node.inputs.iter().any(weight)
}

/// The targets whose nodes read a value, ascending; the first if none does.
pub(crate) fn readers(graph: &Graph, at: &[usize], value: ValueId) -> Vec<usize> {
    let mut targets: Vec<usize> = (graph.consumers(value).iter())
        .map(|n: &NodeId| at[n.index()])
        .collect();
    targets.sort_unstable();
    targets.dedup();
    if targets.is_empty() {
        targets.push(0);
    }
    targets
}
