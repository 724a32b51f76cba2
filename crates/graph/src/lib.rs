//! The model IR: typed ops over values with symbolic row dimensions.
//!
//! A graph describes one forward pass over a *ragged batch*: `rows` tokens that
//! belong to any number of sequence spans. Nothing in it depends on a device, a
//! weight scheme or a batch size; those are decided by the planner.
//!
//! Caches are threaded through the graph as SSA values: [`Op::KvAppend`] takes a
//! cache and yields its next version, which [`Op::Attention`] reads, so the
//! order of writes and reads is an edge like any other.

mod builder;
mod dump;
mod infer;
mod op;
mod validate;
mod value;

pub use builder::GraphBuilder;
pub use op::{
    Activation, AttentionSpec, ConvSpec, DeltaSpec, Op, OpKind, RopeSpec, RouteGroups, RouteScore,
    RouteSpec,
};
pub use validate::GraphError;
pub use value::{
    CacheEntry, CacheKind, CacheSpec, Dim, ElemType, NodeId, Shape, Value, ValueId, ValueKind,
};

/// One op applied to values. Inputs and outputs are in the order that
/// [`Op`]'s documentation gives.
#[derive(Clone, Debug)]
pub struct Node {
    pub op: Op,
    /// A dotted path such as `layers.3.attn.q_proj`, for dumps and errors.
    pub name: String,
    /// The decoder layer that it is part of, counted from 0; `None` before the first
    /// and behind the last.
    pub layer: Option<usize>,
    pub inputs: Vec<ValueId>,
    pub outputs: Vec<ValueId>,
}

/// A validated forward pass. Built with [`GraphBuilder`]; immutable afterwards.
#[derive(Clone, Debug)]
pub struct Graph {
    pub(crate) name: String,
    pub(crate) nodes: Vec<Node>,
    pub(crate) values: Vec<Value>,
    pub(crate) outputs: Vec<ValueId>,
    pub(crate) producer: Vec<Option<NodeId>>,
    pub(crate) consumers: Vec<Vec<NodeId>>,
}

impl Graph {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Nodes in execution order: every input is produced earlier.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    pub fn values(&self) -> &[Value] {
        &self.values
    }

    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// Values the caller reads back, in declaration order (`logits`, `argmax`, `top_k`).
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// The node that computes a value; `None` for weights, constants and caches
    /// as they enter the pass.
    pub fn producer(&self, id: ValueId) -> Option<NodeId> {
        self.producer[id.index()]
    }

    pub fn consumers(&self, id: ValueId) -> &[NodeId] {
        &self.consumers[id.index()]
    }

    pub fn is_output(&self, id: ValueId) -> bool {
        self.outputs.contains(&id)
    }

    /// Every stored weight, in graph order, each once.
    pub fn weights(&self) -> impl Iterator<Item = (ValueId, &Value)> {
        self.values
            .iter()
            .enumerate()
            .filter(|(_, v)| matches!(v.kind, ValueKind::Weight { .. }))
            .map(|(i, v)| (ValueId(i as u32), v))
    }

    /// The cache of every layer that keeps one, in layer order.
    pub fn caches(&self) -> impl Iterator<Item = (ValueId, &CacheSpec)> {
        self.values
            .iter()
            .enumerate()
            .filter_map(|(i, v)| match &v.kind {
                ValueKind::Cache(spec) if self.producer[i].is_none() => {
                    Some((ValueId(i as u32), spec))
                }
                _ => None,
            })
    }
}
