//! The result of planning: plain data.

use crate::{CachePlan, Limits};
use graph::{Graph, NodeId, ValueId};
use hal::DeviceInfo;
use registry::{Act, Backend, Kernel, Key, Problem, RowRange, Scheme, StepLayout, Why};
use std::collections::HashMap;
use std::sync::Arc;

/// Activation format of each linear: (least rows of the bucket, node) → format.
pub type ActMap = HashMap<(usize, NodeId), Act>;

/// Where an operand of a step lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the activation arena.
    Arena { offset: u64, bytes: u64 },
    /// A weight or constant, in the memory the loader gave it.
    Resident(ValueId),
    /// The page pool of the caches.
    Pool,
    /// The pool of recurrent states.
    States,
}

pub struct PlanStep {
    pub key: Key,
    pub kernel: &'static dyn Kernel,
    pub file: &'static str,
    pub why: Why,
    /// Graph nodes it covers, in pattern order.
    pub nodes: Vec<NodeId>,
    pub problem: Problem,
    /// In the order of the problem's inputs and outputs.
    pub inputs: Vec<Place>,
    pub outputs: Vec<Place>,
}

/// One bucket's steps in execution order.
pub struct Plan {
    pub rows: RowRange,
    pub step: Arc<StepLayout>,
    pub steps: Vec<PlanStep>,
    pub arena_bytes: u64,
    /// The graph's outputs in the arena, in the graph's order.
    pub outputs: Vec<(ValueId, Place)>,
}

/// One resident tensor: how the loader must store it.
#[derive(Clone, Debug)]
pub struct WeightPlan {
    pub value: ValueId,
    /// `None` for a constant of the graph.
    pub tensor: Option<String>,
    pub shape: Vec<usize>,
    pub scheme: Scheme,
    pub layout: &'static str,
    /// Stored bytes in that layout.
    pub bytes: u64,
    /// False for vectors and constants, which are f32.
    pub matrix: bool,
}

/// Bytes a program needs on its device.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Memory {
    pub weights: u64,
    pub cache: u64,
    pub activations: u64,
}

impl Memory {
    pub fn total(&self) -> u64 {
        self.weights
            .saturating_add(self.cache)
            .saturating_add(self.activations)
    }
}

/// Everything needed to load and run a model on one device.
pub struct Program {
    pub graph: Arc<Graph>,
    pub backend: &'static Backend,
    pub device: Arc<DeviceInfo>,
    pub weights: Vec<WeightPlan>,
    pub cache: CachePlan,
    /// Ascending row buckets without gaps.
    pub plans: Vec<Plan>,
    pub limits: Limits,
}

impl Program {
    /// The plan for a step of `rows` tokens.
    pub fn plan_for(&self, rows: usize) -> Option<&Plan> {
        self.index_for(rows).map(|i| &self.plans[i])
    }

    /// Its index in [`Program::plans`].
    pub fn index_for(&self, rows: usize) -> Option<usize> {
        let plans = &mut self.plans.iter();
        plans.position(|p| (p.rows.min..=p.rows.max).contains(&rows))
    }

    pub fn memory(&self) -> Memory {
        let arena = self.plans.iter().map(|p| p.arena_bytes).max();
        let steps: u64 = self.plans.iter().map(|p| p.step.bytes()).sum();
        Memory {
            weights: self
                .weights
                .iter()
                .fold(0u64, |n, w| n.saturating_add(w.bytes.next_multiple_of(256))),
            cache: (self.cache.pool_bytes()).saturating_add(self.cache.states.pool_bytes()),
            activations: arena.unwrap_or(0) + steps,
        }
    }

    /// The activation format of every product with a matrix, to plan another program with.
    pub fn acts(&self) -> ActMap {
        let mut map = ActMap::new();
        for plan in &self.plans {
            for step in &plan.steps {
                for node in &step.nodes {
                    if self.graph.node(*node).op.kind().multiplies() {
                        map.insert((plan.rows.min, *node), step.kernel.spec().act);
                    }
                }
            }
        }
        map
    }
}
