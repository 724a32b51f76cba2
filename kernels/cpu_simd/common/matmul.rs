//! What every matrix kernel of the tree shares: where its operands lie, how its
//! outputs are divided among threads, how activations are packed, and what
//! happens to a finished vector of outputs.
//!
//! One job computes `x·Wᵀ` for one or more matrices that read the same x, after
//! an RMS norm where there is one, and ends in a store, in a sum with a
//! residual, or in silu(gate)·up. A *group* is one or two panels that are
//! computed side by side: neighbours of one matrix, or a gate panel and its up
//! panel. Threads take contiguous runs of (block of rows, group), so that each
//! output is computed once, by one thread, in an order that depends on neither
//! the number of threads nor the other rows.

// Rows in bf16 and whole tiles are for x86 alone.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

use super::int::IntSimd;
use super::layout::{PANEL, elem_bytes, pad_k, panel_size};
use super::math::{Norm, inverse_rms};
use super::matmul_sink::Sink;
use super::plumbing::{Fits, Meta, Result, Rows, Step, real_rows};
use super::q_codes::STEP;
use super::q_scheme::{Kind, PanelParts};
use super::q8::{self, Q8Step};
use super::simd::{LANES, Simd};
use graph::{Activation, Op, OpKind};
use hal::cpu::{CpuSlice, TaskCtx};
use registry::{Problem, RowsFrom};
use std::ops::Range;

/// Scratch up to which every thread packs the rows for itself, which saves a
/// barrier.
const PRIVATE_ELEMENTS: usize = 16 * 1024;
/// Packed rows that stay in a core's L2 beside the weights.
const BLOCK_BYTES: usize = 768 * 1024;

/// How packed activations are kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PackAs {
    /// Rows of f32.
    F32,
    /// Rows of bf16, rounded to nearest even.
    Bf16,
    /// bf16 in tiles of 16 rows by 32, one after the other along K: A tiles of
    /// AMX.
    Bf16Tiles,
    /// Rows of int8 with their scales: [`Q8Step`].
    Q8,
    /// The same, of [`q8::TOGETHER`] rows one step after the other.
    Q8Together,
}

impl PackAs {
    /// Bytes of a packed row of k elements.
    pub const fn row_bytes(self, k: usize) -> usize {
        match self {
            PackAs::F32 => pad_k(k) * 4,
            PackAs::Bf16 | PackAs::Bf16Tiles => pad_k(k) * 2,
            PackAs::Q8 | PackAs::Q8Together => q8::row_bytes(k),
        }
    }
}

/// Which ops of a problem play which part.
struct Parts {
    norm: Option<usize>,
    linears: Vec<usize>,
    last: Option<usize>,
}

impl Parts {
    fn of(p: &Problem) -> Parts {
        let kind = |i: &usize| p.ops[*i].op.kind();
        let all = 0..p.ops.len();
        Parts {
            norm: all.clone().find(|i| kind(i) == OpKind::RmsNorm),
            linears: all.clone().filter(|i| kind(i) == OpKind::Linear).collect(),
            last: all
                .clone()
                .find(|i| matches!(kind(i), OpKind::Add | OpKind::GatedMul(Activation::Silu))),
        }
    }

    /// Op and input through which x comes in.
    fn x(&self) -> (usize, usize) {
        (self.norm.unwrap_or(self.linears[0]), 0)
    }
}

/// Whether the operands of a problem of this family fit together, plain weights.
pub fn fits(p: &Problem) -> Fits {
    shapes_fit(p, |scheme, _| match elem_bytes(scheme) {
        Some(_) => Ok(()),
        None => Err(format!("no codec for {scheme}")),
    })
}

/// The same for weights in blocks.
pub fn block_fits(p: &Problem) -> Fits {
    shapes_fit(p, |scheme, k| {
        let kind = Kind::of(scheme).ok_or_else(|| format!("no codec for {scheme}"))?;
        match PanelParts::find(kind, k) {
            Some(_) => Ok(()),
            None => Err(format!("rows of {k} are no whole blocks of {scheme}")),
        }
    })
}

fn shapes_fit(p: &Problem, codec: impl Fn(&str, usize) -> Fits) -> Fits {
    let parts = Parts::of(p);
    let (op, input) = parts.x();
    let (_, x) = p.input(op, input).ok_or("x must come from outside")?;
    for &l in &parts.linears {
        let (_, w) = p.input(l, 1).ok_or("a weight must come from outside")?;
        if w.shape.len() != 2 || w.shape[1] != x.row_len() || w.shape.contains(&0) {
            return Err(format!("weight {:?} for rows of {}", w.shape, x.row_len()));
        }
        codec(w.scheme.0, w.shape[1])?;
    }
    if let Some(n) = parts.norm {
        let (_, w) = p
            .input(n, 1)
            .ok_or("a norm weight must come from outside")?;
        if w.shape != [x.row_len()] {
            return Err("the norm must span whole rows".into());
        }
    }
    match parts.last.map(|l| &p.ops[l].op) {
        None | Some(Op::Add) | Some(Op::GatedMul(Activation::Silu)) => Ok(()),
        Some(op) => Err(format!("does not end in {}", op.kind())),
    }
}

/// Op and input through which a problem's activations come in.
pub fn source(p: &Problem) -> (usize, usize) {
    Parts::of(p).x()
}

/// K of a problem's matrices.
pub fn depth(p: &Problem) -> usize {
    let (op, input) = source(p);
    p.input(op, input).map_or(0, |(_, x)| x.row_len())
}

/// How the scratch is divided: a slot of packed activations for each thread, or
/// one for all of them.
struct Packing {
    private: bool,
    slot: usize,
    bytes: usize,
}

fn packing(p: &Problem, pack: PackAs, threads: usize) -> Packing {
    let k = depth(p);
    let private = p.rows.max * pad_k(k) <= PRIVATE_ELEMENTS;
    let rows = match pack {
        _ if p.rows.max == 1 => 1,
        PackAs::Q8 => p.rows.max,
        PackAs::Q8Together => p.rows.max.next_multiple_of(q8::TOGETHER),
        _ => p.rows.max.next_multiple_of(32),
    };
    let slot = (rows * pack.row_bytes(k)).next_multiple_of(64);
    Packing {
        private,
        slot,
        bytes: if private { slot * threads } else { slot },
    }
}

pub fn workspace(p: &Problem, pack: PackAs) -> u64 {
    packing(p, pack, p.device.threads).bytes as u64
}

struct Mat {
    weights: CpuSlice<u8>,
    /// The scheme, if it is one of blocks.
    kind: Option<Kind>,
    n: usize,
    /// Bytes of a panel.
    panel: usize,
    bias: Option<CpuSlice<f32>>,
    out: usize,
}

enum End {
    Store,
    Add(Rows<f32>),
    SiluMul,
}

/// One or two panels: matrix and panel of each.
#[derive(Clone, Copy)]
pub struct Group {
    at: [(usize, usize); 2],
    pub count: usize,
}

pub struct Job {
    x: Rows<f32>,
    norm: Option<Norm>,
    k: usize,
    /// K of the packed activations.
    pub kpad: usize,
    mats: Vec<Mat>,
    outs: Vec<Rows<f32>>,
    end: End,
    groups: Vec<Group>,
    from: RowsFrom,
    meta: Meta,
    pack: PackAs,
    packing: Packing,
    scratch: CpuSlice<u8>,
}

impl Job {
    pub fn of(step: &mut Step<'_>, pack: PackAs) -> Result<Job> {
        Job::with_slots(step, pack, 0)
    }

    /// As [`Job::of`], with scratch of `own` bytes for each thread beside the
    /// packed activations.
    pub fn with_slots(step: &mut Step<'_>, pack: PackAs, own: usize) -> Result<Job> {
        let p = step.problem;
        let parts = Parts::of(p);
        let (op, input) = parts.x();
        let x = step.activation(op, input)?;
        let k = x.len;
        let norm = match parts.norm.map(|n| (n, &p.ops[n].op)) {
            Some((n, &Op::RmsNorm { eps, weight_offset })) => Some(Norm {
                weight: step.vector(n, 1)?,
                eps,
                offset: weight_offset,
            }),
            _ => None,
        };
        let end = match parts.last.map(|l| (l, &p.ops[l].op)) {
            Some((l, Op::Add)) => End::Add(step.activation(l, 0)?),
            Some((_, Op::GatedMul(_))) => End::SiluMul,
            _ => End::Store,
        };
        let mut mats = Vec::new();
        for (i, &l) in parts.linears.iter().enumerate() {
            let (w, _) = step.operand(l, 1)?;
            let panel = panel_size(w.layout, w.scheme.0, k)
                .ok_or_else(|| step.refuse(format!("no codec for {}", w.scheme)))?;
            let n = w.shape[0];
            let bias = match p.input(l, 2) {
                Some(_) => Some(step.vector(l, 2)?),
                None => None,
            };
            mats.push(Mat {
                weights: step.matrix(l, 1, (panel * n.div_ceil(PANEL)) as u64)?,
                kind: Kind::of(w.scheme.0),
                n,
                panel,
                bias,
                out: if matches!(end, End::Store) { i } else { 0 },
            });
        }
        let outs = (0..p.outputs.len())
            .map(|i| step.output(i))
            .collect::<Result<Vec<_>>>()?;
        let packing = packing(p, pack, step.threads());
        let bytes = packing.bytes + own * step.threads();
        let groups = groups(&mats, &end, step.threads());
        Ok(Job {
            x,
            norm,
            k,
            kpad: pad_k(k),
            mats,
            outs,
            end,
            groups,
            from: step.rows_of(0),
            meta: step.meta()?,
            pack,
            packing,
            scratch: step.workspace(bytes)?,
        })
    }

    /// K of the matrices.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Rows of this step.
    pub fn rows(&self) -> usize {
        real_rows(&self.meta.view(), self.from, self.x.count)
    }

    /// Packs the activations, normalised where the job says so, and returns
    /// where they lie. Every thread must call it.
    #[inline(always)]
    pub fn packed<S: Simd>(&self, s: S, ctx: &TaskCtx, rows: usize) -> *const u8 {
        let (to, mine) = self.slot(ctx, rows);
        for row in mine {
            // SAFETY: the slot holds `rows` packed rows and is written by this
            // thread alone or, when shared, row by row by one thread each.
            unsafe { self.pack_row(s, row, to) };
        }
        self.all_packed(ctx);
        to
    }

    /// As [`Job::packed`], to int8.
    #[inline(always)]
    pub fn packed_q8<S: IntSimd>(&self, s: S, ctx: &TaskCtx, rows: usize) -> *const Q8Step {
        let (to, mine) = self.slot(ctx, rows);
        let to = to.cast::<Q8Step>();
        let steps = self.k / STEP;
        let together = self.pack == PackAs::Q8Together;
        for row in mine {
            let (first, stride) = match together {
                true => (q8::first_together(row, steps), q8::TOGETHER),
                false => (row * steps, 1),
            };
            // SAFETY: as in `packed`; a row is whole steps.
            unsafe { self.quantise_row(s, row, to.add(first), stride) };
        }
        if together && (self.packing.private || ctx.thread == 0) {
            // Kernels multiply whole blocks of rows: those that are not there are zero.
            for row in rows..rows.next_multiple_of(q8::TOGETHER) {
                let first = q8::first_together(row, steps);
                for step in 0..steps {
                    // SAFETY: the slot has whole blocks of rows.
                    unsafe { to.add(first + step * q8::TOGETHER).write_bytes(0, 1) };
                }
            }
        }
        self.all_packed(ctx);
        to
    }

    /// Where this thread packs, and which rows.
    #[inline(always)]
    fn slot(&self, ctx: &TaskCtx, rows: usize) -> (*mut u8, Range<usize>) {
        let Packing { private, slot, .. } = self.packing;
        let (at, mine) = match private {
            true => (ctx.thread * slot, 0..rows),
            false => (0, ctx.share(rows)),
        };
        assert!(at + slot <= self.scratch.len());
        (self.scratch.as_ptr().wrapping_add(at), mine)
    }

    /// Waits for what other threads pack.
    #[inline(always)]
    fn all_packed(&self, ctx: &TaskCtx) {
        if !self.packing.private {
            ctx.barrier.wait();
        }
    }

    /// This thread's own scratch, of the size given to [`Job::with_slots`].
    #[inline(always)]
    pub fn own_slot(&self, ctx: &TaskCtx, bytes: usize) -> *mut u8 {
        let at = self.packing.bytes + ctx.thread * bytes;
        assert!(at + bytes <= self.scratch.len());
        self.scratch.as_ptr().wrapping_add(at)
    }

    #[inline(always)]
    unsafe fn quantise_row<S: IntSimd>(&self, s: S, row: usize, to: *mut Q8Step, stride: usize) {
        let x = self.x.at(row).cast_const();
        // SAFETY: k elements, whole steps, lie in the row and in the norm's
        // weight; the caller vouches for the packed row.
        unsafe {
            let inverse = match &self.norm {
                Some(norm) => inverse_rms(s, x, self.k, norm.eps),
                None => 1.0,
            };
            for i in 0..self.k / STEP {
                let at = i * STEP;
                let pair = match &self.norm {
                    Some(norm) => [
                        norm.apply(s, x, at, LANES, inverse),
                        norm.apply(s, x, at + LANES, LANES, inverse),
                    ],
                    None => [s.load(x.add(at)), s.load(x.add(at + LANES))],
                };
                q8::quantise(s, pair, to.add(i * stride));
            }
        }
    }

    #[inline(always)]
    unsafe fn pack_row<S: Simd>(&self, s: S, row: usize, to: *mut u8) {
        let x = self.x.at(row).cast_const();
        let inverse = match &self.norm {
            // SAFETY: k elements of the row.
            Some(norm) => unsafe { inverse_rms(s, x, self.k, norm.eps) },
            None => 1.0,
        };
        let mut i = 0;
        while i < self.kpad {
            let n = self.k.saturating_sub(i);
            // SAFETY: n elements from i on are in the row; 16 from i on fit the
            // packed row, whose length is a multiple of 32.
            unsafe {
                let v = match &self.norm {
                    _ if n == 0 => s.zero(),
                    Some(norm) => norm.apply(s, x, i, n, inverse),
                    None => s.load_n(x.add(i), n),
                };
                match self.pack {
                    PackAs::F32 => s.store(to.cast::<f32>().add(row * self.kpad + i), v),
                    PackAs::Bf16 => s.store_bf16(to.cast::<u16>().add(row * self.kpad + i), v),
                    PackAs::Bf16Tiles => {
                        let tile = row / 16 * (self.kpad / 32) + i / 32;
                        let at = tile * 512 + row % 16 * 32 + i % 32;
                        s.store_bf16(to.cast::<u16>().add(at), v);
                    }
                    // Those have steps of two vectors.
                    PackAs::Q8 | PackAs::Q8Together => {}
                }
            }
            i += LANES;
        }
    }

    /// This thread's (block of rows, group).
    #[inline(always)]
    pub fn items(
        &self,
        ctx: &TaskCtx,
        rows: usize,
    ) -> impl Iterator<Item = (Range<usize>, &Group)> {
        let row_bytes = self.pack.row_bytes(self.k);
        let mut block = (BLOCK_BYTES / row_bytes).max(32) / 32 * 32;
        while block > 32 && rows.div_ceil(block) * self.groups.len() < 4 * ctx.threads {
            block = (block / 2).next_multiple_of(32);
        }
        let blocks = rows.div_ceil(block);
        ctx.share(blocks * self.groups.len()).map(move |i| {
            let first = i / self.groups.len() * block;
            let group = &self.groups[i % self.groups.len()];
            (first..rows.min(first + block), group)
        })
    }

    /// This thread's (rows, groups), at most `most` rows at a time: all rows where
    /// there are groups enough for every thread.
    #[inline(always)]
    pub fn runs(
        &self,
        ctx: &TaskCtx,
        rows: usize,
        most: usize,
    ) -> impl Iterator<Item = (Range<usize>, &[Group])> {
        let groups = self.groups.len();
        let mut block = rows.next_multiple_of(32).clamp(32, most);
        while block > 32 && rows.div_ceil(block) * groups < 4 * ctx.threads {
            block = (block / 2).next_multiple_of(32);
        }
        let mine = ctx.share(rows.div_ceil(block) * groups);
        (0..rows.div_ceil(block)).filter_map(move |i| {
            let from = mine.start.max(i * groups);
            let to = mine.end.min((i + 1) * groups);
            let here = self
                .groups
                .get(from.checked_sub(i * groups)?..to.saturating_sub(i * groups))?;
            let first = i * block;
            (!here.is_empty()).then_some((first..rows.min(first + block), here))
        })
    }

    /// Address of panel `i` of a group; of the first if it has only one.
    #[inline(always)]
    pub fn panel(&self, group: &Group, i: usize) -> *const u8 {
        let (mat, panel) = group.at[i];
        let mat = &self.mats[mat];
        mat.weights.as_ptr().wrapping_add(panel * mat.panel)
    }

    /// The block scheme of a group's panels. Patterns that pair matrices are
    /// registered for pairs of one scheme.
    #[inline(always)]
    pub fn kind(&self, group: &Group) -> Option<Kind> {
        let [first, second] = group.at.map(|(mat, _)| self.mats[mat].kind);
        debug_assert_eq!(first, second);
        first
    }

    /// What is to be done with a group's products, looked up once for all rows.
    #[inline(always)]
    pub fn sink<S: Simd>(&self, s: S, group: &Group) -> Sink<S> {
        let mut sink = Sink {
            count: group.count,
            silu: matches!(self.end, End::SiluMul),
            n: [0; 2],
            bias: [None; 2],
            out: [std::ptr::null_mut(); 2],
            out_stride: 0,
            residual: None,
            residual_stride: 0,
        };
        for i in 0..2 {
            let (mat, panel) = group.at[i];
            let (mat, first) = (&self.mats[mat], panel * PANEL);
            let n = (mat.n - first).min(LANES);
            let out = &self.outs[mat.out];
            sink.n[i] = n;
            // SAFETY: n elements from the panel's first column are in the bias.
            sink.bias[i] = mat
                .bias
                .map(|b| unsafe { s.load_n(b.as_ptr().add(first), n) });
            sink.out[i] = out.at(0).wrapping_add(first);
            sink.out_stride = out.stride;
            if let End::Add(residual) = &self.end {
                let from = sink.residual.get_or_insert([std::ptr::null(); 2]);
                from[i] = residual.at(0).wrapping_add(first);
                sink.residual_stride = residual.stride;
            }
        }
        sink
    }
}

/// Two panels at a time, unless single ones are needed to keep threads busy. A
/// panel's sums do not depend on its partner.
fn groups(mats: &[Mat], end: &End, threads: usize) -> Vec<Group> {
    let panels = |m: &Mat| m.n.div_ceil(PANEL);
    if let End::SiluMul = end {
        return (0..panels(&mats[0]))
            .map(|p| Group {
                at: [(0, p), (1, p)],
                count: 2,
            })
            .collect();
    }
    let total: usize = mats.iter().map(panels).sum();
    let width = if total < 8 * threads { 1 } else { 2 };
    let mut all = Vec::new();
    for (i, m) in mats.iter().enumerate() {
        for p in (0..panels(m)).step_by(width) {
            let pair = width == 2 && p + 1 < panels(m);
            all.push(Group {
                at: [(i, p), (i, if pair { p + 1 } else { p })],
                count: 1 + usize::from(pair),
            });
        }
    }
    all
}
