//! What makes a graph legal, checked once when it is finished.

use crate::value::{NodeId, Value, ValueId, ValueKind};
use crate::{Graph, Node};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    #[error("node '{node}' ({op}): {reason}")]
    Shape {
        node: String,
        op: &'static str,
        reason: String,
    },
    #[error("tensor '{tensor}' is used with two shapes, {first} and {second}")]
    WeightShape {
        tensor: String,
        first: String,
        second: String,
    },
    #[error("node '{node}' uses value {value}, which does not exist")]
    Dangling { node: String, value: u32 },
    #[error(
        "node '{node}' uses '{value}' before it is computed: the graph has a cycle or is out of order"
    )]
    Order { node: String, value: String },
    #[error("'{value}' is computed by node '{node}' and never used: wire it or remove the node")]
    Unused { node: String, value: String },
    #[error("cache of layer {layer} is read or written through a stale version at node '{node}'")]
    StaleCache { layer: usize, node: String },
    #[error("the graph has no outputs")]
    NoOutputs,
}

pub(crate) fn check(g: &Graph) -> Result<(), GraphError> {
    if g.outputs.is_empty() {
        return Err(GraphError::NoOutputs);
    }
    for (i, node) in g.nodes.iter().enumerate() {
        for v in &node.inputs {
            let Some(value) = g.values.get(v.index()) else {
                return Err(GraphError::Dangling {
                    node: node.name.clone(),
                    value: v.0,
                });
            };
            if g.producer[v.index()].is_some_and(|p| p.index() >= i) {
                return Err(GraphError::Order {
                    node: node.name.clone(),
                    value: value.name.clone(),
                });
            }
        }
        let ins: Vec<&Value> = node.inputs.iter().map(|v| g.value(*v)).collect();
        let shape_error = |reason: String| GraphError::Shape {
            node: node.name.clone(),
            op: node.op.kind().name(),
            reason,
        };
        let outs = node.op.infer(&ins).map_err(shape_error)?;
        if outs.len() != node.outputs.len() {
            return Err(shape_error("wrong number of outputs".into()));
        }
        for ((shape, _), o) in outs.iter().zip(&node.outputs) {
            let value = g.value(*o);
            if value.shape != *shape {
                return Err(shape_error(format!(
                    "output is {}, declared {}",
                    shape, value.shape
                )));
            }
            if g.consumers(*o).is_empty()
                && !g.is_output(*o)
                && !matches!(value.kind, ValueKind::Cache(_))
            {
                return Err(GraphError::Unused {
                    node: node.name.clone(),
                    value: value.name.clone(),
                });
            }
        }
        check_cache(g, NodeId(i as u32))?;
    }
    Ok(())
}

/// A version of a cache that is written has no other user: kernels update caches
/// in place, and steps without an edge between them may change places.
fn check_cache(g: &Graph, id: NodeId) -> Result<(), GraphError> {
    let node = g.node(id);
    for v in &node.inputs {
        let ValueKind::Cache(spec) = &g.value(*v).kind else {
            continue;
        };
        let stale = g
            .consumers(*v)
            .iter()
            .any(|&c| c != id && updates(g.node(c), *v));
        if stale {
            return Err(GraphError::StaleCache {
                layer: spec.layer,
                node: node.name.clone(),
            });
        }
    }
    Ok(())
}

/// Whether a node writes this cache in place.
fn updates(node: &Node, cache: ValueId) -> bool {
    let slot = node.op.kind().updates();
    slot.is_some_and(|i| node.inputs.get(i) == Some(&cache))
}
