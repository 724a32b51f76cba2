//! Cache groups over one pool of equal-sized pages.
//!
//! Layers whose caches live equally long share a block table: they form a group,
//! and a page holds one block of tokens for every layer of the group. So that all
//! groups can draw pages from one pool, each kind's layers are cut into groups of
//! the same number of layers, the size of the rarest kind (as long as that keeps
//! the number of groups small), and every page is as large as the largest needs.
//!
//! A page does not lie in one piece: layer `i` of every group has a buffer of its
//! own, which holds its part of all pages. A kernel then binds one layer's keys and
//! values, which is what devices bound (4 GiB for a binding or an allocation), and
//! not those of the model.
//!
//! Each target has a pool of its own, whose pages its groups draw: a group lies on
//! one target.
//!
//! Recurrent states are not paged: all of a sequence's states form one slot of a
//! pool of their own, because a state is one piece that a step reads and replaces.
//! A slot has the same number on every target and there holds the states of the
//! layers that lie there.

use crate::split::readers;
use crate::{Limits, PlanError};
use graph::{CacheEntry, CacheKind, CacheSpec, Graph, ValueId, ValueKind};
use registry::{CacheView, GroupLayout, Scheme, StateView};
use std::collections::{BTreeMap, HashMap};

/// More tables than this cost more than the padding they avoid.
const MAX_GROUPS_PER_KIND: usize = 8;

/// Where one layer's keys and values lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerSlot {
    pub layer: usize,
    pub part: usize,
    /// Index of its buffer: see [`PagePool::parts`].
    pub buffer: usize,
    /// Where they lie in that buffer.
    pub view: CacheView,
}

#[derive(Clone, Debug)]
pub struct CacheGroup {
    pub target: usize,
    pub kind: CacheKind,
    pub slots: Vec<LayerSlot>,
}

impl CacheGroup {
    /// Size of this group's block tables.
    pub(crate) fn step_layout(&self, limits: &Limits) -> GroupLayout {
        GroupLayout {
            block: limits.block,
            blocks: limits.context.div_ceil(limits.block),
        }
    }

    /// Most pages that one sequence holds at a time.
    pub fn pages_per_sequence(&self, limits: &Limits) -> usize {
        let tokens = match self.kind {
            CacheKind::Full | CacheKind::Recurrent => limits.context,
            // The window, a chunk being written, and one block cut at each end.
            CacheKind::Window { window } => limits.context.min(
                window
                    .saturating_add(limits.rows)
                    .saturating_add(limits.block),
            ),
        };
        tokens.div_ceil(limits.block)
    }
}

/// The pool of recurrent states.
#[derive(Clone, Debug, Default)]
pub struct StatePlan {
    /// Bytes of all states of a sequence on each target.
    pub slot_bytes: Vec<u64>,
    pub slots: usize,
    /// Where the state of each cache value lies in a slot, every version.
    pub views: HashMap<ValueId, StateView>,
}

impl StatePlan {
    /// Bytes of the pools of all targets.
    pub fn pool_bytes(&self) -> u64 {
        let all = (0..self.slot_bytes.len()).map(|t| self.pool_bytes_on(t));
        all.fold(0, u64::saturating_add)
    }

    pub fn pool_bytes_on(&self, target: usize) -> u64 {
        let slot = self.slot_bytes.get(target).copied().unwrap_or(0);
        slot.saturating_mul(self.slots as u64)
    }
}

/// The pages of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PagePool {
    /// Bytes of a page in each of the pool's buffers.
    pub parts: Vec<u64>,
    pub pages: usize,
}

impl PagePool {
    /// Bytes of each buffer.
    pub fn buffers(&self) -> impl Iterator<Item = u64> {
        let pages = self.pages as u64;
        self.parts
            .iter()
            .map(move |part| part.saturating_mul(pages))
    }
}

#[derive(Clone, Debug)]
pub struct CachePlan {
    pub groups: Vec<CacheGroup>,
    pub scheme: Scheme,
    /// Tokens of a block.
    pub block: usize,
    /// By target.
    pub pools: Vec<PagePool>,
    /// Where each cache value of the graph lies, every version.
    pub slots: HashMap<ValueId, LayerSlot>,
    pub states: StatePlan,
}

impl CachePlan {
    /// Bytes of the page pools of all targets.
    pub fn pool_bytes(&self) -> u64 {
        let all = (0..self.pools.len()).map(|t| self.pool_bytes_on(t));
        all.fold(0, u64::saturating_add)
    }

    pub fn pool_bytes_on(&self, target: usize) -> u64 {
        let buffers = self
            .pools
            .get(target)
            .into_iter()
            .flat_map(PagePool::buffers);
        buffers.fold(0, u64::saturating_add)
    }

    /// Pages of all targets.
    pub fn pages(&self) -> usize {
        self.pools.iter().map(|p| p.pages).sum()
    }
}

/// `at` says where each node of the graph runs, of so many targets.
pub(crate) fn plan_caches(
    graph: &Graph,
    scheme: Scheme,
    limits: &Limits,
    at: &[usize],
    targets: usize,
) -> Result<CachePlan, PlanError> {
    let mut groups = Vec::new();
    let mut pools = Vec::new();
    for target in 0..targets {
        let here = (graph.caches())
            .filter(|(id, _)| readers(graph, at, *id).first() == Some(&target))
            .map(|(_, spec)| spec);
        let (mut more, pool) = plan_pool(here, scheme, limits, (target, groups.len()))?;
        groups.append(&mut more);
        pools.push(pool);
    }
    let slots = groups.iter().flat_map(|g| &g.slots);
    let by_layer: HashMap<(usize, usize), LayerSlot> =
        slots.map(|s| ((s.layer, s.part), *s)).collect();
    let slots = graph
        .values()
        .iter()
        .enumerate()
        .filter_map(|(i, v)| match &v.kind {
            ValueKind::Cache(c) => {
                let slot = by_layer.get(&(c.layer, c.part))?;
                Some((ValueId(i as u32), *slot))
            }
            _ => None,
        })
        .collect();
    Ok(CachePlan {
        groups,
        scheme,
        block: limits.block,
        pools,
        slots,
        states: plan_states(graph, limits, at, targets)?,
    })
}

/// The groups of a target, counted from `first`, and the pages that they need.
fn plan_pool<'g>(
    caches: impl Iterator<Item = &'g CacheSpec>,
    scheme: Scheme,
    limits: &Limits,
    (target, first): (usize, usize),
) -> Result<(Vec<CacheGroup>, PagePool), PlanError> {
    let mut kinds: BTreeMap<CacheKind, Vec<&CacheSpec>> = BTreeMap::new();
    for spec in caches.filter(|spec| spec.kind != CacheKind::Recurrent) {
        kinds.entry(spec.kind).or_default().push(spec);
    }
    let rarest = kinds.values().map(Vec::len).min().unwrap_or(1);
    let largest = kinds.values().map(Vec::len).max().unwrap_or(1);
    let size = rarest.max(largest.div_ceil(MAX_GROUPS_PER_KIND));

    let too_large = |detail: String| PlanError::TooLarge {
        what: "KV cache",
        detail,
    };
    let plane = |c: &CacheSpec| -> Option<usize> {
        let (heads, len, _) = entry_shape(&c.entry);
        CacheView::plane(scheme, heads, len, limits.block)
    };
    let elements = |c: &CacheSpec| plane(c)?.checked_mul(entry_shape(&c.entry).2);
    let block_too_large = || too_large(format!("a block of {} tokens", limits.block));
    let mut drafts: Vec<(CacheKind, Vec<&CacheSpec>)> = Vec::new();
    // Elements of a page in each buffer.
    let mut strides: Vec<usize> = Vec::new();
    for (kind, specs) in kinds {
        for chunk in specs.chunks(size) {
            strides.resize(strides.len().max(chunk.len()), 0);
            for (stride, c) in strides.iter_mut().zip(chunk) {
                *stride = (*stride).max(elements(c).ok_or_else(block_too_large)?);
            }
            drafts.push((kind, chunk.to_vec()));
        }
    }
    let bytes = strides.iter().map(|n| scheme.row_bytes(*n));
    let parts: Option<Vec<u64>> = bytes.collect();
    let parts = parts.ok_or_else(block_too_large)?;

    let mut groups = Vec::new();
    for (group, (kind, specs)) in drafts.into_iter().enumerate() {
        let mut slots = Vec::new();
        for (buffer, c) in specs.into_iter().enumerate() {
            let (kv_heads, head_dim, _) = entry_shape(&c.entry);
            let head_stride = limits.block * head_dim;
            let view = CacheView {
                group: first + group,
                kind,
                kv_heads,
                head_dim,
                block: limits.block,
                pages: 0,
                page_stride: strides[buffer],
                offset: 0,
                kv_stride: plane(c).expect("it was counted above"),
                head_stride,
                token_stride: head_dim,
            };
            slots.push(LayerSlot {
                layer: c.layer,
                part: c.part,
                buffer,
                view,
            });
        }
        groups.push(CacheGroup {
            target,
            kind,
            slots,
        });
    }
    let per_sequence: usize = groups.iter().map(|g| g.pages_per_sequence(limits)).sum();
    let pages = per_sequence
        .checked_mul(limits.sequences)
        .filter(|p| *p < u32::MAX as usize)
        .ok_or_else(|| too_large(format!("{} sequences", limits.sequences)))?;
    for slot in groups.iter_mut().flat_map(|g| &mut g.slots) {
        slot.view.pages = pages;
    }
    Ok((groups, PagePool { parts, pages }))
}

/// Heads, elements of one, and whether it is both keys and values (2) or one
/// vector (1).
fn entry_shape(entry: &CacheEntry) -> (usize, usize, usize) {
    match *entry {
        CacheEntry::KeyValue { kv_heads, head_dim } => (kv_heads, head_dim, 2),
        CacheEntry::Latent { len } => (1, len, 1),
        CacheEntry::State { .. } => (0, 0, 0),
    }
}

/// States start on cache lines of their own.
const STATE_ALIGN: usize = 64;

fn plan_states(
    graph: &Graph,
    limits: &Limits,
    at: &[usize],
    targets: usize,
) -> Result<StatePlan, PlanError> {
    let too_large = || PlanError::TooLarge {
        what: "recurrent state",
        detail: format!("{} sequences", limits.sequences),
    };
    let mut strides = vec![0usize; targets];
    let mut places: HashMap<(usize, usize), (usize, usize, usize)> = HashMap::new();
    for (id, spec) in graph.caches() {
        if let CacheEntry::State { len } = spec.entry {
            let target = readers(graph, at, id)[0];
            let stride = &mut strides[target];
            places.insert((spec.layer, spec.part), (target, *stride, len));
            let end = stride.checked_add(len).filter(|end| *end < 1 << 40);
            *stride = end.ok_or_else(too_large)?.next_multiple_of(STATE_ALIGN);
        }
    }
    if places.is_empty() {
        return Ok(StatePlan::default());
    }
    // A sequence holds the state behind its last token and one behind each draft;
    // a step may have to read one more before it gives it back.
    let slots = (limits.drafts.checked_add(2))
        .and_then(|n| n.checked_mul(limits.sequences))
        .filter(|n| *n < u32::MAX as usize)
        .ok_or_else(too_large)?;
    let view = |c: &CacheSpec| {
        let (target, offset, len) = *places.get(&(c.layer, c.part))?;
        Some(StateView {
            slots,
            slot_stride: strides[target],
            offset,
            len,
        })
    };
    let values = graph.values().iter().enumerate();
    let views = values.filter_map(|(i, v)| match &v.kind {
        ValueKind::Cache(c) => Some((ValueId(i as u32), view(c)?)),
        _ => None,
    });
    Ok(StatePlan {
        slot_bytes: strides.iter().map(|s| *s as u64 * 4).collect(),
        slots,
        views: views.collect(),
    })
}
