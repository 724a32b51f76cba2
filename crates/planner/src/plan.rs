//! The result of planning: plain data.

use crate::{CachePlan, Limits, Split};
use graph::{Graph, NodeId, ValueId};
use hal::DeviceInfo;
use registry::{Act, Backend, Kernel, Key, Problem, RowRange, RowsFrom, Scheme, StepLayout, Why};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Activation format of each op that has one: (least rows of the bucket, node) → format.
pub type ActMap = HashMap<(usize, NodeId), Act>;

/// Where an operand of a step lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the activation arena of its target.
    Arena { offset: u64, bytes: u64 },
    /// A weight or constant, in the memory the loader gave it.
    Resident(ValueId),
    /// One of the buffers of the caches' pages: see [`LayerSlot::buffer`](crate::LayerSlot).
    Pages { buffer: usize },
    /// The pool of recurrent states.
    States,
}

pub struct PlanStep {
    /// Index into [`Program::targets`].
    pub target: usize,
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

/// A run of steps on one target: what one recording holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub target: usize,
    /// Of [`Plan::steps`].
    pub steps: Range<usize>,
}

/// An activation that one segment leaves for a later one on another target. It goes
/// through host memory: out behind the one, in before the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeCopy {
    pub value: ValueId,
    /// Indices into [`Plan::segments`].
    pub from: usize,
    pub to: usize,
    /// How many rows of it a step has.
    pub rows: RowsFrom,
    pub row_bytes: u64,
    pub src: Place,
    pub dst: Place,
}

/// An output of the graph: the segment that computes it, and where it then lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    pub value: ValueId,
    pub segment: usize,
    pub place: Place,
}

/// One bucket's steps in execution order.
pub struct Plan {
    pub rows: RowRange,
    pub step: Arc<StepLayout>,
    pub steps: Vec<PlanStep>,
    /// All steps, in runs on one target.
    pub segments: Vec<Segment>,
    /// What goes from segment to segment, in the order in which it is first read.
    pub copies: Vec<EdgeCopy>,
    /// Bytes of each target's activation arena.
    pub arenas: Vec<u64>,
    /// The graph's outputs, in the graph's order.
    pub outputs: Vec<Output>,
}

/// One resident tensor: how the loader must store it. What two targets read is
/// resident on both.
#[derive(Clone, Debug)]
pub struct WeightPlan {
    pub target: usize,
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

/// Bytes a program needs on a device, or on all of its devices.
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

/// A device that holds a part of a model, and the tree whose kernels run there.
#[derive(Clone)]
pub struct Target {
    pub backend: &'static Backend,
    pub device: Arc<DeviceInfo>,
}

/// Everything needed to load and run a model.
pub struct Program {
    pub graph: Arc<Graph>,
    /// Of the first target.
    pub backend: &'static Backend,
    pub device: Arc<DeviceInfo>,
    /// The second target and what lies there, if the model is divided.
    pub second: Option<(Target, Split)>,
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

    /// Where it runs: one target, or two.
    pub fn targets(&self) -> Vec<Target> {
        let first = Target {
            backend: self.backend,
            device: self.device.clone(),
        };
        let second = self.second.iter().map(|(target, _)| target.clone());
        std::iter::once(first).chain(second).collect()
    }

    /// Bytes on all targets together.
    pub fn memory(&self) -> Memory {
        let all = (0..self.targets().len()).map(|t| self.memory_on(t));
        all.fold(Memory::default(), |a, b| Memory {
            weights: a.weights.saturating_add(b.weights),
            cache: a.cache.saturating_add(b.cache),
            activations: a.activations.saturating_add(b.activations),
        })
    }

    /// Bytes on one target.
    pub fn memory_on(&self, target: usize) -> Memory {
        let arena = self.plans.iter().map(|p| p.arenas[target]).max();
        let steps: u64 = self.plans.iter().map(|p| p.step.bytes()).sum();
        let weights = self.weights.iter().filter(|w| w.target == target);
        Memory {
            weights: weights.fold(0u64, |n, w| n.saturating_add(w.bytes.next_multiple_of(256))),
            cache: (self.cache.pool_bytes_on(target))
                .saturating_add(self.cache.states.pool_bytes_on(target)),
            activations: arena.unwrap_or(0) + steps,
        }
    }

    /// The activation format of every op that has one, to plan another program with.
    pub fn acts(&self) -> ActMap {
        let mut map = ActMap::new();
        for plan in &self.plans {
            for step in &plan.steps {
                for node in &step.nodes {
                    if self.graph.node(*node).op.kind().has_act() {
                        map.insert((plan.rows.min, *node), step.kernel.spec().act);
                    }
                }
            }
        }
        map
    }
}
