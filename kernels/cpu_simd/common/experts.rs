//! Products with matrices `[N, K]` that are stacked to `[parts·N, K]` and packed in
//! panels: the experts that a row chose, or the matrix of each head. What every
//! such kernel shares: where operands lie, which activations meet which part, how
//! outputs are divided among threads, and what happens to finished products.
//!
//! A *use* is a pair (row, slot): slot j of a row is its j-th chosen expert, or its
//! head j. Uses are gathered by part, so that a part's weights are read once for all
//! of them. Each output is computed once, by one thread, in an order that depends on
//! neither the number of threads nor the other rows.
//!
//! One job ends in a store, in act(gate)·up of two stacks, or in the weighted sum
//! over a row's slots. Sums add parts in ascending order (slots in a plan for single
//! rows), which is why threads then share columns instead of parts.

use super::experts_sizes::{Layout, Parts, Sizes, list_words};
use super::gated;
use super::int::IntSimd;
use super::layout::{PANEL, pad_k, panel_size};
use super::matmul::PackAs;
use super::plumbing::{Meta, Result, Rows, Step, real_rows};
use super::q_codes::STEP;
use super::q_scheme::Kind;
use super::q8::{self, Q8Step};
use super::simd::{LANES, Simd};
use graph::{Activation, Op, OpKind};
use hal::cpu::{CpuSlice, TaskCtx};
use registry::RowsFrom;
use std::ops::Range;

/// What a part costs beside its uses, in uses: reading and unpacking its weights.
const PART_COST: usize = 8;

struct Stack {
    weights: CpuSlice<u8>,
    /// The scheme, if it is one of blocks.
    kind: Option<Kind>,
    /// Bytes of a panel.
    panel: usize,
    bias: Option<CpuSlice<f32>>,
}

enum End {
    Store,
    Gated(Activation),
    /// The weight of each use.
    Sum(Rows<f32>),
}

pub struct Experts {
    x: Rows<f32>,
    /// The experts of each row; without: slot j is part j.
    chosen: Option<Rows<u32>>,
    sizes: Sizes,
    stacks: Vec<Stack>,
    end: End,
    y: Rows<f32>,
    from: RowsFrom,
    /// Whether the plan is for single rows.
    single: bool,
    pack: PackAs,
    layout: Layout,
    scratch: CpuSlice<u8>,
    meta: Meta,
}

/// The uses of each group, in order. Groups are parts; in plans for single rows each
/// slot is one.
#[derive(Clone, Copy)]
pub struct Uses {
    groups: usize,
    single: bool,
    /// Of each group and of the end; where plans are for single rows, the parts.
    starts: *const u32,
    entries: *const u32,
}

impl Uses {
    /// Part and uses of a group.
    #[inline(always)]
    fn group<'a>(&self, i: usize) -> (usize, &'a [u32]) {
        // SAFETY: `Experts::uses` filled both lists for every group.
        unsafe {
            let first = *self.starts.add(i) as usize;
            if self.single {
                return (first, std::slice::from_raw_parts(self.entries.add(i), 1));
            }
            let count = *self.starts.add(i + 1) as usize - first;
            let entries = std::slice::from_raw_parts(self.entries.add(first), count);
            (i, entries)
        }
    }
}

/// Columns of a part that a thread computes for the uses of a group.
pub struct Item<'a> {
    pub entries: &'a [u32],
    part: usize,
    columns: Range<usize>,
}

/// One or two panels that are computed side by side: neighbours of one stack, or
/// the gate's and the up projection's.
#[derive(Clone, Copy)]
pub struct Tile {
    /// The only panel twice if there is but one.
    pub panels: [*const u8; 2],
    pub count: usize,
    /// The first panel's row of the stack that is the first column, and columns of
    /// each panel.
    row: usize,
    lanes: [(usize, usize); 2],
    column: usize,
}

/// A thread's items.
struct Items<'a> {
    job: &'a Experts,
    uses: Uses,
    next: usize,
    /// Cost before `next`, and the thread's share of the whole.
    base: usize,
    share: Range<usize>,
}

impl<'a> Iterator for Items<'a> {
    type Item = Item<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<Item<'a>> {
        let n = self.job.sizes.n;
        let units = n.div_ceil(PANEL);
        while self.next < self.uses.groups {
            let (part, entries) = self.uses.group(self.next);
            self.next += 1;
            if entries.is_empty() || part >= self.job.sizes.parts {
                continue;
            }
            let range = match self.job.end {
                End::Sum(_) => self.share.clone(),
                _ => {
                    let one = entries.len() + PART_COST;
                    let base = self.base;
                    self.base += one * units;
                    let at = |cost: usize| cost.saturating_sub(base).div_ceil(one).min(units);
                    at(self.share.start)..at(self.share.end)
                }
            };
            let columns = range.start * PANEL..n.min(range.end * PANEL);
            if !columns.is_empty() {
                return Some(Item {
                    entries,
                    part,
                    columns,
                });
            }
        }
        None
    }
}

impl Experts {
    /// The job of a step, with scratch of `own` bytes for each thread.
    pub fn of(step: &mut Step<'_>, pack: PackAs, own: usize) -> Result<Experts> {
        let p = step.problem;
        let parts = Parts::of(p);
        let Some(sizes) = Sizes::of(p) else {
            return Err(step.refuse("a stack of matrices [N, K] was expected"));
        };
        let first = parts.stacks[0];
        let experts = p.ops[first].op.kind() == OpKind::ExpertLinear;
        let end = match parts.last.map(|l| (l, &p.ops[l].op)) {
            Some((_, Op::GatedMul(act))) => End::Gated(*act),
            Some((l, Op::ExpertSum)) => End::Sum(step.activation(l, 1)?),
            _ => End::Store,
        };
        let mut stacks = Vec::new();
        for &l in &parts.stacks {
            let (w, _) = step.operand(l, 1)?;
            let panel = panel_size(w.layout, w.scheme.0, sizes.k)
                .ok_or_else(|| step.refuse(format!("no codec for {}", w.scheme)))?;
            let panels = w.shape[0].div_ceil(PANEL);
            stacks.push(Stack {
                weights: step.matrix(l, 1, (panel * panels) as u64)?,
                kind: Kind::of(w.scheme.0),
                panel,
                bias: match experts && step.has(l, 3) {
                    true => Some(step.vector(l, 3)?),
                    false => None,
                },
            });
        }
        let layout = Layout::of(p, pack, own, step.threads());
        Ok(Experts {
            x: step.activation(first, 0)?,
            chosen: match experts {
                true => Some(step.ids(first, 2)?),
                false => None,
            },
            sizes,
            stacks,
            end,
            y: step.output(0)?,
            from: step.rows_of(0),
            single: p.rows.max == 1,
            pack,
            layout,
            scratch: step.workspace(layout.bytes)?,
            meta: step.meta()?,
        })
    }

    /// K of the matrices.
    pub fn k(&self) -> usize {
        self.sizes.k
    }

    /// The block scheme of the panels. Patterns that pair stacks are registered for
    /// pairs of one scheme.
    pub fn kind(&self) -> Option<Kind> {
        self.stacks[0].kind
    }

    /// Rows of this step.
    pub fn rows(&self) -> usize {
        real_rows(&self.meta.view(), self.from, self.y.count)
    }

    /// The packed row of a use.
    #[inline(always)]
    pub fn packed_row(&self, entry: u32) -> usize {
        match self.sizes.shared {
            true => entry as usize / self.sizes.slots,
            false => entry as usize,
        }
    }

    /// Where this thread packs, and which rows.
    #[inline(always)]
    fn slot(&self, ctx: &TaskCtx, rows: usize) -> (*mut u8, Range<usize>) {
        let Layout { private, slot, .. } = self.layout;
        let packed = self.sizes.packed(rows);
        let (at, mine) = match private {
            true => (ctx.thread * slot, 0..packed),
            false => (0, ctx.share(packed)),
        };
        assert!(at + slot <= self.scratch.len());
        (self.scratch.as_ptr().wrapping_add(at), mine)
    }

    /// Address of the x that packed row `row` is made of.
    #[inline(always)]
    fn source(&self, row: usize) -> *const f32 {
        let Sizes {
            slots, k, shared, ..
        } = self.sizes;
        match shared {
            true => self.x.at(row),
            false => self.x.at(row / slots).wrapping_add(row % slots * k),
        }
    }

    /// Packs the activations to int8 and returns where they lie. Every thread must
    /// call it.
    #[inline(always)]
    pub fn packed_q8<S: IntSimd>(&self, s: S, ctx: &TaskCtx, rows: usize) -> *const Q8Step {
        let (to, mine) = self.slot(ctx, rows);
        let to = to.cast::<Q8Step>();
        let steps = self.sizes.k / STEP;
        for row in mine {
            let x = self.source(row);
            for i in 0..steps {
                // SAFETY: k elements, whole steps, lie at x; the slot holds a packed
                // row for each, written by this thread alone or, when shared, row by
                // row by one thread each.
                unsafe {
                    let x = x.add(i * STEP);
                    let pair = [s.load(x), s.load(x.add(LANES))];
                    q8::quantise(s, pair, to.add(row * steps + i));
                }
            }
        }
        self.all_packed(ctx);
        to
    }

    /// As [`Experts::packed_q8`], to rows of f32 or bf16 of K rounded up to 32.
    #[inline(always)]
    pub fn packed<S: Simd>(&self, s: S, ctx: &TaskCtx, rows: usize) -> *const u8 {
        let (to, mine) = self.slot(ctx, rows);
        let (k, kpad) = (self.sizes.k, pad_k(self.sizes.k));
        for row in mine {
            let x = self.source(row);
            for i in (0..kpad).step_by(LANES) {
                // SAFETY: k elements lie at x; 16 from i on fit the packed row,
                // whose length is a multiple of 32, and rows are shared as above.
                unsafe {
                    let v = match k.saturating_sub(i) {
                        0 => s.zero(),
                        n => s.load_n(x.add(i), n),
                    };
                    match self.pack {
                        PackAs::Bf16 => s.store_bf16(to.cast::<u16>().add(row * kpad + i), v),
                        _ => s.store(to.cast::<f32>().add(row * kpad + i), v),
                    }
                }
            }
        }
        self.all_packed(ctx);
        to
    }

    /// Waits for what other threads pack.
    #[inline(always)]
    fn all_packed(&self, ctx: &TaskCtx) {
        if !self.layout.private {
            ctx.barrier.wait();
        }
    }

    /// This thread's own scratch, of the size given to [`Experts::of`].
    #[inline(always)]
    pub fn own_slot(&self, ctx: &TaskCtx) -> *mut u8 {
        let at = self.layout.own_from + ctx.thread * self.layout.own;
        assert!(at + self.layout.own <= self.scratch.len());
        self.scratch.as_ptr().wrapping_add(at)
    }

    /// Gathers the uses of `rows` rows by part, in this thread's scratch.
    #[inline(always)]
    pub fn uses(&self, ctx: &TaskCtx, rows: usize) -> Uses {
        let Sizes { parts, slots, .. } = self.sizes;
        let at = self.layout.lists_from + ctx.thread * self.layout.lists;
        let words = list_words(parts, rows, slots);
        assert!(4 * words <= self.layout.lists && at + 4 * words <= self.scratch.len());
        let lists = self.scratch.as_ptr().wrapping_add(at).cast::<u32>();
        // SAFETY: the list is this thread's, a multiple of 64 bytes into the
        // scratch; experts are a declared read.
        let lists = unsafe { std::slice::from_raw_parts_mut(lists, words) };
        let part_of = |row: usize, j: usize| match self.chosen {
            // SAFETY: as above.
            Some(chosen) => unsafe { *chosen.at(row).add(j) as usize },
            None => j,
        };
        if self.single {
            // A slot is a group, and there may be more of them than parts.
            let (starts, entries) = lists.split_at_mut(rows * slots);
            for (j, (start, entry)) in starts.iter_mut().zip(entries).enumerate() {
                *start = part_of(j / slots, j % slots) as u32;
                *entry = j as u32;
            }
            let groups = starts.len();
            return Uses {
                groups,
                single: true,
                starts: lists.as_ptr(),
                entries: lists[groups..].as_ptr(),
            };
        }
        let (starts, entries) = lists.split_at_mut(parts + 1);
        starts.fill(0);
        for row in 0..rows {
            for j in 0..slots {
                // What is no expert meets nothing.
                if let Some(count) = starts[..parts].get_mut(part_of(row, j)) {
                    *count += 1;
                }
            }
        }
        let mut end = 0;
        for start in starts.iter_mut() {
            end += *start;
            *start = end;
        }
        // Backwards, so that each part's start ends where it begins.
        for row in (0..rows).rev() {
            for j in (0..slots).rev() {
                if let Some(start) = starts[..parts].get_mut(part_of(row, j)) {
                    *start -= 1;
                    entries[*start as usize] = (row * slots + j) as u32;
                }
            }
        }
        Uses {
            groups: parts,
            single: false,
            starts: starts.as_ptr(),
            entries: entries.as_ptr(),
        }
    }

    /// What this thread computes. Where the job ends in a sum, its columns of all
    /// rows are set to zero first.
    #[inline(always)]
    pub fn items(
        &self,
        ctx: &TaskCtx,
        rows: usize,
        uses: Uses,
    ) -> impl Iterator<Item = Item<'_>> + use<'_> {
        let units = self.sizes.n.div_ceil(PANEL);
        let share = match self.end {
            End::Sum(_) => {
                // Whole pairs of panels.
                let pairs = ctx.share(units.div_ceil(2));
                let share = 2 * pairs.start..units.min(2 * pairs.end);
                let (first, end) = (share.start * PANEL, self.sizes.n.min(share.end * PANEL));
                for row in (0..rows).filter(|_| first < end) {
                    // SAFETY: columns of a row of y that are this thread's.
                    unsafe { self.y.at(row).add(first).write_bytes(0, end - first) };
                }
                share
            }
            _ => {
                let count = |i: usize| match uses.group(i) {
                    (part, entries) if part < self.sizes.parts && !entries.is_empty() => {
                        entries.len() + PART_COST
                    }
                    _ => 0,
                };
                let total = (0..uses.groups).map(count).sum::<usize>() * units;
                ctx.share(total)
            }
        };
        Items {
            job: self,
            uses,
            next: 0,
            base: 0,
            share,
        }
    }

    /// The panels of an item.
    #[inline(always)]
    pub fn tiles<'a>(&'a self, item: &Item<'_>) -> impl Iterator<Item = Tile> + use<'a> {
        let n = self.sizes.n;
        let (first, end) = (
            item.part * n + item.columns.start,
            item.part * n + item.columns.end,
        );
        let (from, to) = (first / PANEL, end.div_ceil(PANEL));
        let paired = self.stacks.len() > 1;
        let column = item.columns.start;
        let lanes = move |panel: usize| {
            let at = panel * PANEL;
            (first.max(at) - at, end.min(at + PANEL) - at)
        };
        (from..to)
            .step_by(if paired { 1 } else { 2 })
            .map(move |panel| {
                let address = |stack: &Stack, panel: usize| {
                    stack
                        .weights
                        .as_ptr()
                        .wrapping_add(panel * stack.panel)
                        .cast_const()
                };
                let a = address(&self.stacks[0], panel);
                let (b, count, second) = match paired {
                    true => (address(&self.stacks[1], panel), 2, panel),
                    false if panel + 1 < to => (address(&self.stacks[0], panel + 1), 2, panel + 1),
                    false => (a, 1, panel),
                };
                let (low, high) = lanes(panel);
                Tile {
                    panels: [a, b],
                    count,
                    row: panel * PANEL + low,
                    lanes: [(low, high), lanes(second)],
                    column: column + (panel * PANEL + low - first),
                }
            })
    }

    /// Takes a tile's products of one use to their output.
    ///
    /// # Safety
    /// The use is one of the item's that the tile is of.
    #[inline(always)]
    pub unsafe fn put<S: Simd>(&self, s: S, entry: u32, tile: &Tile, mut c: [S::V; 2]) {
        let Sizes { slots, n, .. } = self.sizes;
        let (row, j) = (entry as usize / slots, entry as usize % slots);
        // The lanes that are columns, first ones first.
        for (c, (low, high)) in c.iter_mut().zip(tile.lanes) {
            if low > 0 {
                let all = s.to_array(*c);
                let mut part = [0f32; LANES];
                part[..high - low].copy_from_slice(&all[low..high]);
                // SAFETY: sixteen elements of an array.
                *c = unsafe { s.load(part.as_ptr()) };
            }
        }
        let counts = tile.lanes.map(|(low, high)| high - low);
        let gated = matches!(self.end, End::Gated(_));
        // SAFETY: `counts` columns from the tile's first are in the part's biases,
        // in the row of y and, where slots have outputs of their own, in the slot.
        unsafe {
            let mut at = 0;
            for (i, c) in c.iter_mut().enumerate().take(tile.count) {
                let stack = if gated { i } else { 0 };
                if let Some(bias) = self.stacks[stack].bias {
                    let from = bias.as_ptr().add(tile.row + at);
                    *c = s.add(*c, s.load_n(from, counts[i]));
                }
                at += if gated { 0 } else { counts[i] };
            }
            let y = self.y.at(row).add(tile.column);
            match self.end {
                End::Gated(act) => {
                    let v = gated::apply(s, act, c[0], c[1]);
                    s.store_n(y.add(j * n), v, counts[0]);
                }
                End::Store => {
                    s.store_n(y.add(j * n), c[0], counts[0]);
                    if tile.count > 1 {
                        s.store_n(y.add(j * n + counts[0]), c[1], counts[1]);
                    }
                }
                End::Sum(weights) => {
                    let weight = s.splat(*weights.at(row).add(j));
                    let sum = s.fma(weight, c[0], s.load_n(y, counts[0]));
                    s.store_n(y, sum, counts[0]);
                    if tile.count > 1 {
                        let y = y.add(counts[0]);
                        let sum = s.fma(weight, c[1], s.load_n(y, counts[1]));
                        s.store_n(y, sum, counts[1]);
                    }
                }
            }
        }
    }
}
