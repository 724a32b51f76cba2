//! Graph + registry → [`Program`]: what runs, in which order, with which
//! kernels, weight layouts and memory.
//!
//! A program holds one [`Plan`] per shape bucket. Planning is pure: it opens no
//! device and touches no weights, so a plan can be printed, compared and tested
//! on any machine. The passes, in order: group caches into pages (`cache`), match
//! registered composites over the graph (`matcher`), pick kernels and order steps
//! (`select`), agree on one layout per stored matrix over all buckets (`layout`),
//! place activations in an arena by liveness (`arena`).

mod arena;
mod cache;
mod layout;
mod matcher;
mod plan;
mod report;
mod select;

pub use cache::{CacheGroup, CachePlan, LayerSlot, StatePlan};
pub use plan::{ActMap, Memory, Place, Plan, PlanStep, Program, WeightPlan};
pub use report::{PlanReport, StepReport};

use graph::{Graph, GraphError, ValueId, ValueKind};
use hal::DeviceInfo;
use registry::{Registry, RegistryError, RowRange, Scheme, StepLayout, Tuned, WeightShape};
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

/// How to plan.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    pub backend: String,
    /// Use composites. Off: every step is a primitive.
    pub fusion: bool,
    /// Storage scheme of the KV cache; the backend's first if `None`.
    pub kv: Option<String>,
    pub limits: Limits,
    pub tuned: Tuned,
    /// Activation formats to keep to, linear by linear: those of another plan,
    /// so that two programs compute the same numbers.
    pub acts: Option<ActMap>,
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

/// Plans a graph for one device.
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
    let kv_name = options.kv.as_deref().unwrap_or(backend.kv[0]);
    let kv = backend
        .kv
        .iter()
        .find(|k| **k == kv_name)
        .and_then(|k| Scheme::find(k))
        .ok_or_else(|| PlanError::KvScheme {
            wanted: kv_name.into(),
            backend: backend.name.into(),
            offered: backend.kv.join(", "),
        })?;
    let cache = cache::plan_caches(&graph, kv, limits)?;
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
            device: &device,
            rows,
            step,
        };
        drafts.push(ctx.select()?);
    }
    let chosen = layout::agree(&graph, schemes, &drafts)?;
    let mut plans = Vec::new();
    for draft in drafts {
        plans.push(arena::place(&graph, draft, &chosen)?);
    }
    let weights = weight_plans(&graph, schemes, &chosen)?;
    Ok(Program {
        graph,
        backend,
        device,
        weights,
        cache,
        plans,
        limits: limits.clone(),
    })
}

fn weight_plans(
    graph: &Graph,
    schemes: &HashMap<ValueId, Scheme>,
    layouts: &HashMap<ValueId, &'static str>,
) -> Result<Vec<WeightPlan>, PlanError> {
    let mut all = Vec::new();
    for (i, v) in graph.values().iter().enumerate() {
        let id = ValueId(i as u32);
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
        match &v.kind {
            ValueKind::Weight {
                tensor,
                matrix: true,
            } => {
                let Some(&layout) = layouts.get(&id) else {
                    continue;
                };
                let shape = WeightShape {
                    scheme: schemes[&id],
                    n: dims[0],
                    k: dims[1],
                };
                let bytes = layout::packed_bytes(layout, &shape).ok_or_else(too_large)?;
                all.push(WeightPlan {
                    value: id,
                    tensor: Some(tensor.clone()),
                    shape: dims,
                    scheme: shape.scheme,
                    layout,
                    bytes,
                    matrix: true,
                });
            }
            ValueKind::Weight { .. } | ValueKind::Constant(_) => {
                let tensor = match &v.kind {
                    ValueKind::Weight { tensor, .. } => Some(tensor.clone()),
                    _ => None,
                };
                let bytes = v.shape.fixed_len().and_then(|n| n.checked_mul(4));
                all.push(WeightPlan {
                    value: id,
                    tensor,
                    shape: dims,
                    scheme: Scheme::F32,
                    layout: registry::ROW_MAJOR,
                    bytes: bytes.ok_or_else(too_large)? as u64,
                    matrix: false,
                });
            }
            _ => {}
        }
    }
    Ok(all)
}
