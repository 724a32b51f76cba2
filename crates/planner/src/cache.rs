//! Cache groups over one pool of equal-sized pages.
//!
//! Layers whose caches live equally long share a block table: they form a group,
//! and a page holds one block of tokens for every layer of the group. So that all
//! groups can draw pages from one pool, each kind's layers are cut into groups of
//! the same number of layers, the size of the rarest kind (as long as that keeps
//! the number of groups small), and every page is as large as the largest needs.

use crate::{Limits, PlanError};
use graph::{CacheKind, CacheSpec, Graph, ValueId};
use registry::{CacheView, GroupLayout, Scheme};
use std::collections::{BTreeMap, HashMap};

/// More tables than this cost more than the padding they avoid.
const MAX_GROUPS_PER_KIND: usize = 8;

/// Where one layer's keys and values lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerSlot {
    pub layer: usize,
    pub view: CacheView,
}

#[derive(Clone, Debug)]
pub struct CacheGroup {
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
            CacheKind::Full => limits.context,
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

#[derive(Clone, Debug)]
pub struct CachePlan {
    pub groups: Vec<CacheGroup>,
    pub scheme: Scheme,
    /// Tokens of a block.
    pub block: usize,
    pub page_bytes: u64,
    pub pages: usize,
    /// The view of each cache value of the graph, every version.
    pub views: HashMap<ValueId, CacheView>,
}

impl CachePlan {
    pub fn pool_bytes(&self) -> u64 {
        self.page_bytes.saturating_mul(self.pages as u64)
    }
}

pub(crate) fn plan_caches(
    graph: &Graph,
    scheme: Scheme,
    limits: &Limits,
) -> Result<CachePlan, PlanError> {
    let mut kinds: BTreeMap<CacheKind, Vec<&CacheSpec>> = BTreeMap::new();
    for (_, spec) in graph.caches() {
        kinds.entry(spec.kind).or_default().push(spec);
    }
    let rarest = kinds.values().map(Vec::len).min().unwrap_or(1);
    let largest = kinds.values().map(Vec::len).max().unwrap_or(1);
    let size = rarest.max(largest.div_ceil(MAX_GROUPS_PER_KIND));

    let too_large = |detail: String| PlanError::TooLarge {
        what: "KV cache",
        detail,
    };
    let elements = |c: &CacheSpec| -> Option<usize> {
        limits
            .block
            .checked_mul(c.head_dim)?
            .checked_mul(c.kv_heads)?
            .checked_mul(2)
    };
    let mut page_elements = 0usize;
    let mut drafts: Vec<(CacheKind, Vec<&CacheSpec>)> = Vec::new();
    for (kind, specs) in kinds {
        for chunk in specs.chunks(size) {
            let total = chunk
                .iter()
                .try_fold(0usize, |n, c| n.checked_add(elements(c)?))
                .ok_or_else(|| too_large(format!("a block of {} tokens", limits.block)))?;
            page_elements = page_elements.max(total);
            drafts.push((kind, chunk.to_vec()));
        }
    }

    let row = |n: usize| scheme.row_bytes(n);
    let page_bytes = row(page_elements).ok_or_else(|| too_large("a page".into()))?;
    let mut groups = Vec::new();
    let mut by_layer: HashMap<usize, CacheView> = HashMap::new();
    for (group, (kind, specs)) in drafts.into_iter().enumerate() {
        let mut offset = 0;
        let mut slots = Vec::new();
        for c in specs {
            let head_stride = limits.block * c.head_dim;
            let view = CacheView {
                group,
                kind,
                kv_heads: c.kv_heads,
                head_dim: c.head_dim,
                block: limits.block,
                pages: 0,
                page_stride: page_elements,
                offset,
                kv_stride: head_stride * c.kv_heads,
                head_stride,
                token_stride: c.head_dim,
            };
            offset += 2 * view.kv_stride;
            slots.push(LayerSlot {
                layer: c.layer,
                view,
            });
        }
        groups.push(CacheGroup { kind, slots });
    }
    let per_sequence: usize = groups.iter().map(|g| g.pages_per_sequence(limits)).sum();
    let pages = per_sequence
        .checked_mul(limits.sequences)
        .filter(|p| *p < u32::MAX as usize)
        .ok_or_else(|| too_large(format!("{} sequences", limits.sequences)))?;
    for slot in groups.iter_mut().flat_map(|g| &mut g.slots) {
        slot.view.pages = pages;
        by_layer.insert(slot.layer, slot.view);
    }
    let views = graph
        .values()
        .iter()
        .enumerate()
        .filter_map(|(i, v)| match &v.kind {
            graph::ValueKind::Cache(c) => Some((ValueId(i as u32), by_layer[&c.layer])),
            _ => None,
        })
        .collect();
    Ok(CachePlan {
        groups,
        scheme,
        block: limits.block,
        page_bytes,
        pages,
        views,
    })
}
