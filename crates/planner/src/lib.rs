//! Graph + registry → [`Program`]: what runs, in which order, with which
//! kernels, weight layouts and memory.
//!
//! A program holds one [`Plan`] per shape bucket. Planning is pure: it opens no
//! device and touches no weights, so a plan can be printed, compared and tested
//! on any machine. The passes, in order: group caches into pages (`cache`), match
//! registered composites over the graph (`matcher`), pick kernels and order steps
//! (`select`), agree on one layout per stored matrix over all buckets (`layout`),
//! place activations in an arena by liveness (`arena`).
//!
//! A model may be divided between two targets ([`Split`]): nodes are then assigned
//! before anything is matched, and each pass works target by target. A plan is cut
//! into segments of steps on one target, with copies along the edges between them.

mod arena;
mod cache;
mod layout;
mod matcher;
mod plan;
mod report;
mod select;
mod split;

pub use cache::{CacheGroup, CachePlan, LayerSlot, PagePool, StatePlan};
pub use plan::{
    ActMap, EdgeCopy, Memory, Output, Place, Plan, PlanStep, Program, Segment, Target, WeightPlan,
};
pub use report::{CopyReport, PlanReport, SegmentReport, StepReport, TargetReport};
pub use split::Split;

use graph::{Graph, GraphError, ValueId, ValueKind};
use hal::DeviceInfo;
use registry::{Registry, RegistryError, RowRange, Scheme, StepLayout, Tuned, WeightShape};
use select::TargetOptions;
use std::collections::HashMap;
use std::sync::Arc;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error("at '{node}': {source}")]
    Kernel {
        node: String,
        source: Box<RegistryError>,
    },
    #[error(transparent)]
    Registry(Box<RegistryError>),
    #[error("tensor '{tensor}' is stored as {scheme}, which no kernel tree describes")]
    UnknownScheme { tensor: String, scheme: String },
    #[error("KV scheme '{wanted}' is not offered by {backend}; use one of {offered}")]
    KvScheme {
        wanted: String,
        backend: String,
        offered: String,
    },
    #[error("no layout of '{tensor}' suits all of its kernels: {detail}")]
    Layout { tensor: String, detail: String },
    #[error("{what} is too large to plan: {detail}")]
    TooLarge { what: &'static str, detail: String },
    #[error("limits: {0}")]
    Limits(String),
}

impl From<RegistryError> for PlanError {
    fn from(e: RegistryError) -> Self {
        PlanError::Registry(Box::new(e))
    }
}

/// How much one step and one cache may hold.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Longest sequence in tokens.
    pub context: usize,
    /// Most tokens of one step; longer prompts are cut into chunks of it.
    pub rows: usize,
    /// Most sequences that are alive at once.
    pub sequences: usize,
    /// Whether a step may be asked for the logits of every row; otherwise of one
    /// row per span.
    pub all_logits: bool,
    /// Tokens of a cache block.
    pub block: usize,
    /// Most draft tokens of a sequence that may be taken back after a step: so
    /// many recurrent states are kept beside the last one.
    pub drafts: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            context: 4096,
            rows: 512,
            sequences: 1,
            all_logits: false,
            block: 32,
            drafts: 0,
        }
    }
}

/// A second device, and what of the model lies there.
#[derive(Clone, Debug)]
pub struct Second {
    pub backend: String,
    pub device: Arc<DeviceInfo>,
    pub tuned: Tuned,
    pub split: Split,
}

/// How to plan.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    pub backend: String,
    /// Use composites. Off: every step is a primitive.
    pub fusion: bool,
    /// Storage scheme of the KV cache; the backend's first if `None` (that a second
    /// one has too).
    pub kv: Option<String>,
    pub limits: Limits,
    pub tuned: Tuned,
    /// Activation formats to keep to, op by op: those of another plan,
    /// so that two programs compute the same numbers.
    pub acts: Option<ActMap>,
    pub second: Option<Second>,
}

impl PlanOptions {
    pub fn new(backend: impl Into<String>) -> Self {
        PlanOptions {
            backend: backend.into(),
            fusion: true,
            kv: None,
            limits: Limits::default(),
            tuned: Tuned::default(),
            acts: None,
            second: None,
        }
    }
}

/// Row buckets of the plans, cut off at `rows`.
pub fn buckets(rows: usize) -> Vec<RowRange> {
    let mut all = Vec::new();
    for (min, max) in [(1, 1), (2, 16), (17, 64), (65, usize::MAX)] {
        if min <= rows {
            all.push(RowRange {
                min,
                max: max.min(rows),
            });
        }
    }
    all
}

/// Plans a graph for one device, or for two if the options name a second.
///
/// `schemes` gives the storage scheme of every matrix as the file has it; other
/// weights are f32 by the time kernels see them.
pub fn plan(
    graph: Arc<Graph>,
    schemes: &HashMap<ValueId, Scheme>,
    registry: &Registry,
    device: Arc<DeviceInfo>,
    options: &PlanOptions,
) -> Result<Program, PlanError> {
    let limits = &options.limits;
    for (what, n, max) in [
        ("context", limits.context, 1 << 28),
        ("rows", limits.rows, 1 << 16),
        ("sequences", limits.sequences, 1 << 16),
        ("block", limits.block, 1 << 12),
        ("drafts", limits.drafts + 1, 1 << 12),
    ] {
        if n == 0 || n > max {
            return Err(PlanError::Limits(format!("{what} {n} must be 1 to {max}")));
        }
    }
    let backend = registry.backend(&options.backend)?;
    let mut targets = vec![TargetOptions {
        backend,
        device: &device,
        tuned: &options.tuned,
    }];
    let mut split = options.second.as_ref().map(|s| s.split);
    let at = split.unwrap_or_default().assign(&graph);
    match &options.second {
        Some(second) if at.contains(&1) => targets.push(TargetOptions {
            backend: registry.backend(&second.backend)?,
            device: &second.device,
            tuned: &second.tuned,
        }),
        _ => split = None,
    }
    let kv = kv_scheme(&targets, options.kv.as_deref())?;
    let cache = cache::plan_caches(&graph, kv, limits, &at, targets.len())?;
    for (id, v) in graph.weights() {
        if let ValueKind::Weight { tensor, matrix } = &v.kind
            && *matrix
            && schemes.get(&id).is_none_or(|s| s.desc().is_none())
        {
            return Err(PlanError::UnknownScheme {
                tensor: tensor.clone(),
                scheme: schemes.get(&id).map_or("?".into(), |s| s.to_string()),
            });
        }
    }

    let mut drafts = Vec::new();
    for rows in buckets(limits.rows) {
        let spans = rows.max.min(limits.sequences);
        let step = Arc::new(StepLayout {
            max_rows: rows.max,
            max_spans: spans,
            max_logit_rows: if limits.all_logits { rows.max } else { spans },
            groups: cache.groups.iter().map(|g| g.step_layout(limits)).collect(),
        });
        let ctx = select::Context {
            graph: &graph,
            schemes,
            cache: &cache,
            registry,
            options,
            targets: &targets,
            at: &at,
            rows,
            step,
        };
        drafts.push(ctx.select()?);
    }
    let chosen = layout::agree(&graph, schemes, &drafts)?;
    let mut plans = Vec::new();
    for draft in drafts {
        plans.push(arena::place(&graph, &cache, draft, targets.len(), &chosen)?);
    }
    let weights = weight_plans(&graph, schemes, &at, &chosen)?;
    let second = targets.get(1).zip(split).map(|(target, split)| {
        let target = Target {
            backend: target.backend,
            device: target.device.clone(),
        };
        (target, split)
    });
    Ok(Program {
        graph,
        backend,
        second,
        weights,
        cache,
        plans,
        limits: limits.clone(),
        device,
    })
}

/// The scheme that is wanted, which every target must offer, or the first that all
/// of them do.
fn kv_scheme(targets: &[TargetOptions<'_>], wanted: Option<&str>) -> Result<Scheme, PlanError> {
    let first = targets[0].backend.kv;
    let without = |name: &str| targets.iter().find(|t| !t.backend.kv.contains(&name));
    let shared = first.iter().find(|name| without(name).is_none());
    let name = wanted.or(shared.copied()).unwrap_or(first[0]);
    let lacking = without(name);
    match Scheme::find(name).filter(|_| lacking.is_none()) {
        Some(scheme) => Ok(scheme),
        None => {
            let backend = lacking.unwrap_or(&targets[0]).backend;
            Err(PlanError::KvScheme {
                wanted: name.into(),
                backend: backend.name.into(),
                offered: backend.kv.join(", "),
            })
        }
    }
}

fn weight_plans(
    graph: &Graph,
    schemes: &HashMap<ValueId, Scheme>,
    at: &[usize],
    layouts: &layout::Layouts,
) -> Result<Vec<WeightPlan>, PlanError> {
    let mut all = Vec::new();
    for (i, v) in graph.values().iter().enumerate() {
        let id = ValueId(i as u32);
        if !matches!(v.kind, ValueKind::Weight { .. } | ValueKind::Constant(_)) {
            continue;
        }
        for target in split::readers(graph, at, id) {
            all.extend(weight_plan(graph, schemes, layouts, (target, id))?);
        }
    }
    Ok(all)
}

/// How a weight or constant is stored on a target; `None` for a matrix that no step
/// reads.
fn weight_plan(
    graph: &Graph,
    schemes: &HashMap<ValueId, Scheme>,
    layouts: &layout::Layouts,
    (target, id): (usize, ValueId),
) -> Result<Option<WeightPlan>, PlanError> {
    let v = graph.value(id);
    let dims: Vec<usize> = v
        .shape
        .dims()
        .iter()
        .map(|d| match d {
            graph::Dim::Fixed(n) => *n,
            _ => 0,
        })
        .collect();
    let too_large = || PlanError::TooLarge {
        what: "weight",
        detail: format!("{} {}", v.name, v.shape),
    };
    let (tensor, matrix) = match &v.kind {
        ValueKind::Weight { tensor, matrix } => (Some(tensor.clone()), *matrix),
        _ => (None, false),
    };
    let (scheme, layout, bytes) = match matrix {
        true => {
            let Some(&layout) = layouts.get(&(target, id)) else {
                return Ok(None);
            };
            let shape = WeightShape {
                scheme: schemes[&id],
                n: dims[0],
                k: dims[1],
            };
            let bytes = layout::packed_bytes(layout, &shape);
            (shape.scheme, layout, bytes)
        }
        false => {
            let bytes = v.shape.fixed_len().and_then(|n| n.checked_mul(4));
            (Scheme::F32, registry::ROW_MAJOR, bytes.map(|n| n as u64))
        }
    };
    Ok(Some(WeightPlan {
        target,
        value: id,
        tensor,
        shape: dims,
        scheme,
        layout,
        bytes: bytes.ok_or_else(too_large)?,
        matrix,
    }))
}
