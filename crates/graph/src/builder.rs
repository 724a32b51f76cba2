//! Building a graph: every call checks its operands and yields values.

use crate::validate::{GraphError, check};
use crate::value::{CacheSpec, NodeId, Shape, Value, ValueId, ValueKind};
use crate::{Graph, Node, Op};
use std::collections::HashMap;
use std::sync::Arc;

/// Wires a graph op by op. Shape errors are reported at the op that has them.
#[derive(Debug)]
pub struct GraphBuilder {
    name: String,
    /// Of the nodes to come.
    layer: Option<usize>,
    nodes: Vec<Node>,
    values: Vec<Value>,
    weights: HashMap<String, ValueId>,
    outputs: Vec<ValueId>,
}

impl GraphBuilder {
    pub fn new(name: impl Into<String>) -> Self {
        GraphBuilder {
            name: name.into(),
            layer: None,
            nodes: Vec::new(),
            values: Vec::new(),
            weights: HashMap::new(),
            outputs: Vec::new(),
        }
    }

    fn value(&mut self, name: String, shape: Shape, kind: ValueKind) -> ValueId {
        self.values.push(Value { name, shape, kind });
        ValueId(self.values.len() as u32 - 1)
    }

    /// A matrix `[N, K]` of the model file, in the file's storage scheme. The
    /// same tensor named twice (tied embeddings) is one value.
    pub fn matrix(&mut self, tensor: &str, n: usize, k: usize) -> Result<ValueId, GraphError> {
        self.weight(tensor, Shape::fixed(&[n, k]), true)
    }

    /// A vector `[N]` of the model file (norm weight, bias), loaded as f32.
    pub fn vector(&mut self, tensor: &str, n: usize) -> Result<ValueId, GraphError> {
        self.weight(tensor, Shape::fixed(&[n]), false)
    }

    fn weight(&mut self, tensor: &str, shape: Shape, matrix: bool) -> Result<ValueId, GraphError> {
        if let Some(&id) = self.weights.get(tensor) {
            let old = &self.values[id.index()].shape;
            if *old != shape {
                return Err(GraphError::WeightShape {
                    tensor: tensor.into(),
                    first: old.to_string(),
                    second: shape.to_string(),
                });
            }
            return Ok(id);
        }
        let kind = ValueKind::Weight {
            tensor: tensor.into(),
            matrix,
        };
        let id = self.value(tensor.into(), shape, kind);
        self.weights.insert(tensor.into(), id);
        Ok(id)
    }

    pub fn constant(&mut self, name: &str, data: Vec<f32>) -> ValueId {
        let shape = Shape::fixed(&[data.len()]);
        self.value(name.into(), shape, ValueKind::Constant(Arc::from(data)))
    }

    pub fn cache(&mut self, spec: CacheSpec) -> ValueId {
        let name = match spec.part {
            0 => format!("cache.{}", spec.layer),
            part => format!("cache.{}.{part}", spec.layer),
        };
        self.value(name, Shape::fixed(&[]), ValueKind::Cache(spec))
    }

    /// Says which layer the nodes that follow belong to; none at first.
    pub fn layer(&mut self, layer: Option<usize>) {
        self.layer = layer;
    }

    /// Applies `op`; its first output.
    pub fn op(&mut self, name: &str, op: Op, inputs: &[ValueId]) -> Result<ValueId, GraphError> {
        Ok(self.op_all(name, op, inputs)?[0])
    }

    /// Applies `op`; all of its outputs.
    pub fn op_all(
        &mut self,
        name: &str,
        op: Op,
        inputs: &[ValueId],
    ) -> Result<Vec<ValueId>, GraphError> {
        let outs = {
            let ins: Vec<&Value> = inputs
                .iter()
                .map(|i| {
                    self.values.get(i.index()).ok_or(GraphError::Dangling {
                        node: name.into(),
                        value: i.0,
                    })
                })
                .collect::<Result<_, _>>()?;
            op.infer(&ins).map_err(|reason| GraphError::Shape {
                node: name.into(),
                op: op.kind().name(),
                reason,
            })?
        };
        let mut outputs = Vec::with_capacity(outs.len());
        for (shape, kind) in outs {
            outputs.push(self.value(name.into(), shape, kind));
        }
        self.nodes.push(Node {
            op,
            name: name.into(),
            layer: self.layer,
            inputs: inputs.to_vec(),
            outputs: outputs.clone(),
        });
        Ok(outputs)
    }

    pub fn output(&mut self, name: &str, id: ValueId) {
        if let Some(v) = self.values.get_mut(id.index()) {
            v.name = name.into();
        }
        self.outputs.push(id);
    }

    pub fn finish(self) -> Result<Graph, GraphError> {
        let mut producer = vec![None; self.values.len()];
        let mut consumers = vec![Vec::new(); self.values.len()];
        for (i, node) in self.nodes.iter().enumerate() {
            let id = NodeId(i as u32);
            for o in &node.outputs {
                producer[o.index()] = Some(id);
            }
            for v in &node.inputs {
                if consumers[v.index()].last() != Some(&id) {
                    consumers[v.index()].push(id);
                }
            }
        }
        let graph = Graph {
            name: self.name,
            nodes: self.nodes,
            values: self.values,
            outputs: self.outputs,
            producer,
            consumers,
        };
        check(&graph)?;
        Ok(graph)
    }
}
