//! Covering the graph with steps: which composites, which kernels, which order.

use crate::arena::rows_from;
use crate::{CachePlan, PlanError, PlanOptions, matcher};
use graph::{CacheKind, Dim, Graph, NodeId, ValueId, ValueKind};
use hal::DeviceInfo;
use registry::{
    Backend, Entry, Key, Operand, OperandRole, OperandSrc, Pattern, Problem, ProblemOp, ROW_MAJOR,
    Registry, Request, RowRange, Scheme, StepLayout, Tuned, Why,
};
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

pub(crate) struct Context<'a> {
    pub graph: &'a Graph,
    pub schemes: &'a HashMap<ValueId, Scheme>,
    pub cache: &'a CachePlan,
    pub registry: &'a Registry,
    pub options: &'a PlanOptions,
    pub targets: &'a [TargetOptions<'a>],
    /// The target of each node.
    pub at: &'a [usize],
    pub rows: RowRange,
    pub step: Arc<StepLayout>,
}

/// Where kernels are looked for.
pub(crate) struct TargetOptions<'a> {
    pub backend: &'static Backend,
    pub device: &'a Arc<DeviceInfo>,
    pub tuned: &'a Tuned,
}

/// A kernel that could run a step.
#[derive(Clone, Copy)]
pub(crate) struct Choice {
    pub kernel: &'static dyn registry::Kernel,
    pub file: &'static str,
    pub why: Why,
}

/// A step whose kernel is not settled until layouts are.
pub(crate) struct DraftStep {
    pub target: usize,
    pub nodes: Vec<NodeId>,
    pub problem: Problem,
    pub inputs: Vec<ValueId>,
    pub outputs: Vec<ValueId>,
    /// Best first.
    pub choices: Vec<Choice>,
}

pub(crate) struct Draft {
    pub rows: RowRange,
    pub step: Arc<StepLayout>,
    pub steps: Vec<DraftStep>,
}

impl Context<'_> {
    pub fn select(&self) -> Result<Draft, PlanError> {
        let mut groups: Vec<Vec<NodeId>> = Vec::new();
        let mut taken: BTreeSet<NodeId> = BTreeSet::new();
        let mut steps: Vec<DraftStep> = Vec::new();
        if self.options.fusion {
            for candidate in self.composites()? {
                if candidate.nodes.iter().any(|n| taken.contains(n)) {
                    continue;
                }
                // Two matches may each be convex and still wait for each other, but
                // only if they interleave: edges lead to later nodes.
                let span = |g: &[NodeId]| (g.iter().min().copied(), g.iter().max().copied());
                let (first, last) = span(&candidate.nodes);
                let interleaved = groups.iter().any(|g| {
                    let (from, to) = span(g);
                    from <= last && first <= to
                });
                groups.push(candidate.nodes.clone());
                if interleaved && order(self.graph, self.at, &groups).is_none() {
                    groups.pop();
                    continue;
                }
                taken.extend(&candidate.nodes);
                steps.push(candidate);
            }
        }
        for i in 0..self.graph.nodes().len() as u32 {
            let id = NodeId(i);
            if !taken.contains(&id) {
                steps.push(self.primitive(id)?);
            }
        }
        let all: Vec<Vec<NodeId>> = steps.iter().map(|s| s.nodes.clone()).collect();
        let order = order(self.graph, self.at, &all).ok_or_else(|| PlanError::TooLarge {
            what: "step order",
            detail: "the chosen composites wait for each other; this is a planner defect".into(),
        })?;
        let mut slots: Vec<Option<DraftStep>> = steps.into_iter().map(Some).collect();
        let steps = order.into_iter().filter_map(|i| slots[i].take()).collect();
        Ok(Draft {
            rows: self.rows,
            step: self.step.clone(),
            steps,
        })
    }

    fn primitive(&self, id: NodeId) -> Result<DraftStep, PlanError> {
        let kind = self.graph.node(id).op.kind();
        let (problem, inputs, outputs) = self.problem(&[id], &[0])?;
        let request = self.request(&problem, &[id]);
        let name = || self.graph.node(id).name.clone();
        let lift = |source| PlanError::Kernel {
            node: name(),
            source: Box::new(source),
        };
        let (found, tried) = self.registry.candidates(&request).map_err(lift)?;
        if found.is_empty() {
            return Err(lift(self.registry.missing(&request, tried)));
        }
        debug_assert_eq!(kind, problem.ops[0].op.kind());
        let choices = found.iter().map(|r| choice(r.entry, r.why)).collect();
        Ok(DraftStep {
            target: self.at[id.index()],
            nodes: vec![id],
            problem,
            inputs,
            outputs,
            choices,
        })
    }

    /// Every usable match, best first: tuned picks, then rank, then bytes saved,
    /// then key. None goes over the edge between two targets.
    fn composites(&self) -> Result<Vec<DraftStep>, PlanError> {
        let mut all = Vec::new();
        for target in 0..self.targets.len() {
            self.composites_on(target, &mut all)?;
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(all.into_iter().map(|(_, d)| d).collect())
    }

    fn composites_on(
        &self,
        target: usize,
        all: &mut Vec<(Score, DraftStep)>,
    ) -> Result<(), PlanError> {
        let entries = self
            .registry
            .composites(self.targets[target].backend.name)?;
        let mut patterns: Vec<&'static Pattern> = Vec::new();
        for e in &entries {
            let p = e.kernel.spec().pattern;
            if !patterns.contains(&p) {
                patterns.push(p);
            }
        }
        for pattern in patterns {
            for nodes in matcher::find(self.graph, pattern, &|a, b| self.alike(a, b)) {
                if nodes.iter().any(|n| self.at[n.index()] != target) {
                    continue;
                }
                let (problem, inputs, outputs) = self.problem(&nodes, pattern.outputs)?;
                let request = self.request(&problem, &nodes);
                if self.acts_differ(&nodes) || self.vetoed(target, &problem) {
                    continue;
                }
                let (found, _) = self.registry.candidates(&request)?;
                let choices: Vec<Choice> = found
                    .iter()
                    .filter(|r| r.entry.kernel.spec().pattern == pattern)
                    .filter(|r| r.why == Why::Tuned || r.entry.kernel.spec().rank >= 0)
                    .map(|r| choice(r.entry, r.why))
                    .collect();
                let Some(best) = choices.first() else {
                    continue;
                };
                let saved = self.chain_bytes(&nodes)? - problem.bytes(self.rows.max) as i64;
                let score = (
                    best.why != Why::Tuned,
                    Reverse(best.kernel.spec().rank),
                    Reverse(saved),
                    Reverse(nodes.len()),
                    best.kernel.spec().key(),
                    nodes[0],
                );
                all.push((
                    score,
                    DraftStep {
                        target,
                        nodes,
                        problem,
                        inputs,
                        outputs,
                        choices,
                    },
                ));
            }
        }
        Ok(())
    }

    /// Whether kernels cannot tell two nodes apart but by their sizes.
    fn alike(&self, a: NodeId, b: NodeId) -> bool {
        let (a, b) = (self.graph.node(a), self.graph.node(b));
        let scheme = |v: &ValueId| self.schemes.get(v);
        a.op == b.op
            && a.inputs.len() == b.inputs.len()
            && (a.inputs.iter().map(scheme)).eq(b.inputs.iter().map(scheme))
    }

    fn chain_bytes(&self, nodes: &[NodeId]) -> Result<i64, PlanError> {
        let mut sum = 0;
        for n in nodes {
            sum += self.problem(&[*n], &[0])?.0.bytes(self.rows.max) as i64;
        }
        Ok(sum)
    }

    /// A pick of variant `none` says that the composite was measured to lose.
    fn vetoed(&self, target: usize, problem: &Problem) -> bool {
        let layer = registry::Layer(problem.ops.iter().map(|o| o.op.kind()).collect());
        let matrix = problem
            .inputs
            .iter()
            .find(|o| o.role == OperandRole::Matrix);
        let matrix = matrix.map(|o| (o.shape[0], o.shape[1]));
        let (layer, quant) = (layer.to_string(), problem.quant());
        let pick = self.targets[target]
            .tuned
            .variant(&layer, &quant, problem.rows.min, matrix);
        pick == Some("none")
    }

    fn act_of(&self, node: NodeId) -> Option<registry::Act> {
        let acts = self.options.acts.as_ref()?;
        acts.get(&(self.rows.min, node)).copied()
    }

    fn acts_differ(&self, nodes: &[NodeId]) -> bool {
        let mut acts = nodes.iter().filter_map(|n| self.act_of(*n));
        let first = acts.next();
        acts.any(|a| Some(a) != first)
    }

    fn request<'b>(&'b self, problem: &'b Problem, nodes: &[NodeId]) -> Request<'b> {
        let target = &self.targets[self.at[nodes[0].index()]];
        Request {
            backend: target.backend.name,
            problem,
            tuned: target.tuned,
            act: nodes.iter().find_map(|n| self.act_of(*n)),
            variant: None,
        }
    }

    /// The problem of computing `nodes` in one kernel, with its operands' values.
    fn problem(
        &self,
        nodes: &[NodeId],
        stored: &[usize],
    ) -> Result<(Problem, Vec<ValueId>, Vec<ValueId>), PlanError> {
        let mut inputs: Vec<ValueId> = Vec::new();
        let mut ops = Vec::new();
        let outputs_of = |i: usize| &self.graph.node(nodes[i]).outputs;
        for n in nodes {
            let node = self.graph.node(*n);
            let mut srcs = Vec::new();
            for v in &node.inputs {
                let inside = nodes
                    .iter()
                    .position(|m| self.graph.node(*m).outputs.first() == Some(v));
                srcs.push(match inside {
                    Some(op) => OperandSrc::Op(op),
                    None => {
                        let known = inputs.iter().position(|i| i == v);
                        OperandSrc::Input(known.unwrap_or_else(|| {
                            inputs.push(*v);
                            inputs.len() - 1
                        }))
                    }
                });
            }
            ops.push(ProblemOp {
                op: node.op.clone(),
                inputs: srcs,
                shape: self.dims(node.outputs[0]),
                output: (stored.iter().position(|s| nodes[*s] == *n))
                    .map(|at| stored[..at].iter().map(|s| outputs_of(*s).len()).sum()),
            });
        }
        let outputs: Vec<ValueId> = stored
            .iter()
            .flat_map(|i| outputs_of(*i))
            .copied()
            .collect();
        let operands = |ids: &[ValueId]| ids.iter().map(|v| self.operand(*v)).collect();
        let problem = Problem {
            ops,
            inputs: operands(&inputs),
            outputs: operands(&outputs),
            rows: self.rows,
            step: self.step.clone(),
            device: self.targets[self.at[nodes[0].index()]].device.clone(),
        };
        Ok((problem, inputs, outputs))
    }

    fn dims(&self, id: ValueId) -> Vec<usize> {
        let bind = |d: &Dim| match d {
            Dim::Fixed(n) => *n,
            Dim::Rows => self.step.max_rows,
            Dim::LogitRows => self.step.max_logit_rows,
        };
        self.graph.value(id).shape.dims().iter().map(bind).collect()
    }

    fn operand(&self, id: ValueId) -> Operand {
        let value = self.graph.value(id);
        let mut state = None;
        let (role, scheme, cache) = match &value.kind {
            ValueKind::Activation(graph::ElemType::F32) => {
                (OperandRole::Activation, Scheme::F32, None)
            }
            ValueKind::Activation(graph::ElemType::U32) => {
                (OperandRole::Activation, Scheme::U32, None)
            }
            ValueKind::Weight { matrix: true, .. } => {
                (OperandRole::Matrix, self.schemes[&id], None)
            }
            ValueKind::Weight { .. } | ValueKind::Constant(_) => {
                (OperandRole::Vector, Scheme::F32, None)
            }
            ValueKind::Cache(spec) if spec.kind == CacheKind::Recurrent => {
                state = self.cache.states.views.get(&id).copied();
                (OperandRole::State, Scheme::F32, None)
            }
            ValueKind::Cache(_) => (
                OperandRole::Cache,
                self.cache.scheme,
                Some(self.cache.slots[&id].view),
            ),
        };
        let rows = rows_from(value.shape.leading());
        Operand {
            role,
            rows,
            shape: self.dims(id),
            scheme,
            layout: ROW_MAJOR,
            cache,
            state,
        }
    }
}

fn choice(entry: &Entry, why: Why) -> Choice {
    Choice {
        kernel: entry.kernel,
        file: entry.file,
        why,
    }
}

/// How a match compares with others: the least is the best.
type Score = (
    bool,
    Reverse<i32>,
    Reverse<i64>,
    Reverse<usize>,
    Key,
    NodeId,
);

/// Orders groups of nodes so that producers come first; nodes in no group stand
/// for themselves. Goes on with one target as long as anything is ready there, so
/// that few edges are crossed; in graph order otherwise. Indices of the groups, or
/// `None` if they wait for each other.
fn order(graph: &Graph, at: &[usize], groups: &[Vec<NodeId>]) -> Option<Vec<usize>> {
    let n = graph.nodes().len();
    let mut unit: Vec<usize> = (0..n).map(|i| groups.len() + i).collect();
    for (g, nodes) in groups.iter().enumerate() {
        for node in nodes {
            unit[node.index()] = g;
        }
    }
    // A cache version that is written has no other user (checked by the graph), so
    // edges are all there is to order.
    let total = groups.len() + n;
    let mut first = vec![usize::MAX; total];
    let mut after: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); total];
    let mut waits = vec![0usize; total];
    for (i, node) in graph.nodes().iter().enumerate() {
        let me = unit[i];
        first[me] = first[me].min(i);
        for v in &node.inputs {
            if let Some(p) = graph.producer(*v) {
                let from = unit[p.index()];
                if from != me && after[from].insert(me) {
                    waits[me] += 1;
                }
            }
        }
    }
    let mut ready: BTreeSet<(usize, usize)> = (0..total)
        .filter(|u| first[*u] != usize::MAX && waits[*u] == 0)
        .map(|u| (first[u], u))
        .collect();
    let used = first.iter().filter(|f| **f != usize::MAX).count();
    let mut done = 0;
    let mut out = Vec::new();
    let mut target = None;
    loop {
        let here = |(node, _): &&(usize, usize)| target.is_none_or(|t| at[*node] == t);
        let Some(next) = ready.iter().find(here).or_else(|| ready.first()).copied() else {
            break;
        };
        ready.remove(&next);
        let (node, u) = next;
        target = Some(at[node]);
        done += 1;
        if u < groups.len() {
            out.push(u);
        }
        for next in &after[u] {
            waits[*next] -= 1;
            if waits[*next] == 0 {
                ready.insert((first[*next], *next));
            }
        }
    }
    (done == used).then_some(out)
}
