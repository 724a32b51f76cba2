//! Sizes of products with stacked matrices: what a problem asks for, whether it fits,
//! and how its scratch is divided.

use super::layout::elem_bytes;
use super::matmul::PackAs;
use super::plumbing::Fits;
use super::q_scheme::{Kind, PanelParts};
use graph::{Op, OpKind};
use registry::Problem;

/// Elements of x up to which every thread packs the rows for itself, which saves a
/// barrier.
const PRIVATE_ELEMENTS: usize = 8 * 1024;
/// Which ops of a problem play which part.
pub struct Parts {
    pub stacks: Vec<usize>,
    pub last: Option<usize>,
}

impl Parts {
    pub fn of(p: &Problem) -> Parts {
        let stack = |i: &usize| {
            matches!(
                p.ops[*i].op.kind(),
                OpKind::ExpertLinear | OpKind::HeadLinear
            )
        };
        let all = 0..p.ops.len();
        Parts {
            stacks: all.clone().filter(stack).collect(),
            last: all.clone().find(|i| !stack(i)),
        }
    }
}

/// Sizes of a job.
#[derive(Clone, Copy)]
pub struct Sizes {
    /// Experts or heads.
    pub parts: usize,
    /// Uses of a row.
    pub slots: usize,
    pub n: usize,
    pub k: usize,
    /// Whether all slots of a row take the same x.
    pub shared: bool,
}

impl Sizes {
    pub fn of(p: &Problem) -> Option<Sizes> {
        let first = *Parts::of(p).stacks.first()?;
        let (_, w) = p.input(first, 1)?;
        let &[rows, k] = w.shape.as_slice() else {
            return None;
        };
        let &[_, slots, n] = p.ops[first].shape.as_slice() else {
            return None;
        };
        let (_, x) = p.input(first, 0)?;
        let shared = x.row_len() == k;
        let whole = n > 0 && k > 0 && rows.is_multiple_of(n);
        let fits = whole && (shared || x.row_len() == slots * k);
        fits.then_some(Sizes {
            parts: rows / n,
            slots,
            n,
            k,
            shared,
        })
    }

    /// Rows of packed activations for `rows` rows.
    pub fn packed(&self, rows: usize) -> usize {
        if self.shared { rows } else { rows * self.slots }
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
    let z = Sizes::of(p).ok_or("a stack of matrices [N, K] for x of K was expected")?;
    let parts = Parts::of(p);
    for &l in &parts.stacks {
        let (_, w) = p.input(l, 1).ok_or("a weight must come from outside")?;
        if w.shape != [z.parts * z.n, z.k] || p.ops[l].shape != p.ops[parts.stacks[0]].shape {
            return Err("both stacks must have one shape".into());
        }
        codec(w.scheme.0, z.k)?;
    }
    match parts.last.map(|l| &p.ops[l].op) {
        None | Some(Op::GatedMul(_)) | Some(Op::ExpertSum) => Ok(()),
        Some(op) => Err(format!("does not end in {}", op.kind())),
    }
}

/// K of a problem's matrices.
pub fn depth(p: &Problem) -> usize {
    Sizes::of(p).map_or(0, |z| z.k)
}

/// How the scratch is divided, in bytes: packed activations, for each thread or for
/// all of them; then for each thread what its kernel asks for, and its lists of
/// uses.
#[derive(Clone, Copy)]
pub struct Layout {
    pub private: bool,
    pub slot: usize,
    pub own_from: usize,
    pub own: usize,
    pub lists_from: usize,
    pub lists: usize,
    pub bytes: usize,
}

impl Layout {
    pub fn of(p: &Problem, pack: PackAs, own: usize, threads: usize) -> Layout {
        let (rows, k, parts, slots, packed) = match Sizes::of(p) {
            Some(z) => (p.rows.max, z.k, z.parts, z.slots, z.packed(p.rows.max)),
            None => (0, 0, 0, 0, 0),
        };
        let line = |bytes: usize| bytes.next_multiple_of(64);
        let private = packed * k <= PRIVATE_ELEMENTS;
        let slot = line(packed * pack.row_bytes(k));
        let own_from = if private { slot * threads } else { slot };
        let own = line(own);
        let lists_from = own_from + own * threads;
        let lists = line(4 * list_words(parts, rows, slots));
        Layout {
            private,
            slot,
            own_from,
            own,
            lists_from,
            lists,
            bytes: lists_from + lists * threads,
        }
    }
}

/// Words of a thread's lists: starts of groups, which are parts or the slots of a
/// single row, and uses.
pub const fn list_words(parts: usize, rows: usize, slots: usize) -> usize {
    let groups = if parts > slots { parts } else { slots };
    groups + 1 + rows * slots
}

/// Bytes of a problem's scratch, `own` of them for each thread's kernel.
pub fn workspace(p: &Problem, pack: PackAs, own: usize) -> u64 {
    Layout::of(p, pack, own, p.device.threads).bytes as u64
}
