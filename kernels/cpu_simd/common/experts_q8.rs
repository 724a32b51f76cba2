//! Products of int8 activations with stacked panels of block schemes, on any
//! instruction set: [`super::matmul_q8`]'s, with rows gathered by part.

use super::experts::{Experts, Tile};
use super::experts_sizes;
use super::int::{IntBody, IntSimd};
use super::matmul::PackAs;
use super::matmul_q8::{Form, UNPACKED_STEP, Unpacked, panel_dot, scratch_bytes, tile, unpack};
use super::plumbing::{Result, Step};
use super::q_codes::STEP;
use super::q_scheme::{Kind, with_scheme};
use super::q8::Q8Step;
use hal::cpu::TaskCtx;
use registry::Problem;

/// A single row: panels stream from memory in order and are unpacked in registers.
struct Gemv {
    job: Experts,
}

impl IntBody for Gemv {
    #[inline(always)]
    fn run<S: IntSimd>(&self, s: S, ctx: &TaskCtx) {
        let rows = self.job.rows();
        let x = self.job.packed_q8(s, ctx, rows);
        let uses = self.job.uses(ctx, rows);
        let steps = self.job.k() / STEP;
        let Some(kind) = self.job.kind() else {
            return;
        };
        for item in self.job.items(ctx, rows, uses) {
            for t in self.job.tiles(&item) {
                for &entry in item.entries {
                    let x = x.wrapping_add(self.job.packed_row(entry) * steps);
                    let mut c = [s.zero(); 2];
                    for (c, panel) in c.iter_mut().zip(t.panels).take(t.count) {
                        // SAFETY: `steps` steps lie in the packed row and the panel.
                        *c = with_scheme!(kind, W => unsafe {
                            panel_dot::<W, S>(s, x, panel, steps)
                        });
                    }
                    // SAFETY: a use of this item.
                    unsafe { self.job.put(s, entry, &t, c) };
                }
            }
        }
    }
}

/// Several rows: panels are unpacked to the thread's scratch once for all uses of
/// their part, which pass them in tiles of a few uses by two panels.
struct Gemm {
    job: Experts,
}

/// What all passes of a tile share.
#[derive(Clone, Copy)]
struct Pass<'a> {
    x: *const Q8Step,
    w: [Unpacked; 2],
    steps: usize,
    tile: &'a Tile,
}

impl Gemm {
    /// All uses of an item times two unpacked panels.
    ///
    /// # Safety
    /// As [`tile`] for every use.
    #[inline(always)]
    unsafe fn pass<S: IntSimd>(&self, s: S, p: Pass<'_>, mut entries: &[u32], form: Form) {
        // SAFETY: as the caller promises.
        unsafe {
            if S::WIDE {
                while let Some((some, rest)) = entries.split_first_chunk() {
                    self.put::<S, 6>(s, p, some, form);
                    entries = rest;
                }
                if let Some((some, rest)) = entries.split_first_chunk() {
                    self.put::<S, 3>(s, p, some, form);
                    entries = rest;
                }
            }
            while let Some((some, rest)) = entries.split_first_chunk() {
                self.put::<S, 2>(s, p, some, form);
                entries = rest;
            }
            if let [entry] = entries {
                self.put::<S, 1>(s, p, &[*entry], form);
            }
        }
    }

    /// # Safety
    /// As [`Gemm::pass`].
    #[inline(always)]
    unsafe fn put<S: IntSimd, const M: usize>(
        &self,
        s: S,
        p: Pass<'_>,
        entries: &[u32; M],
        form: Form,
    ) {
        let row = |entry: u32| p.x.wrapping_add(self.job.packed_row(entry) * p.steps);
        // SAFETY: as the caller promises.
        unsafe {
            let sums = tile::<S, M>(s, entries.map(row), p.w, p.steps, form);
            for (entry, c) in entries.iter().zip(sums) {
                self.job.put(s, *entry, p.tile, c);
            }
        }
    }
}

impl Gemm {
    /// Unpacks the panels of a tile; a single one stands for both.
    ///
    /// # Safety
    /// The panels have `steps` steps; `own` has room for two of them unpacked.
    #[inline(always)]
    unsafe fn unpacked<S: IntSimd>(
        &self,
        s: S,
        kind: Kind,
        (t, steps): (&Tile, usize),
        own: *mut u8,
    ) -> [Unpacked; 2] {
        let second = own.wrapping_add(steps * UNPACKED_STEP);
        // SAFETY: as the caller promises.
        with_scheme!(kind, W => unsafe {
            let first = unpack::<W, S>(s, t.panels[0], steps, own);
            match t.count {
                1 => [first; 2],
                _ => [first, unpack::<W, S>(s, t.panels[1], steps, second)],
            }
        })
    }

    /// Some uses of an item by vectors.
    ///
    /// # Safety
    /// As [`tile`] for every use.
    #[inline(always)]
    unsafe fn vectors<S: IntSimd>(&self, s: S, p: Pass<'_>, entries: &[u32], form: Form) {
        // A copy of the tiles for each form that there is.
        macro_rules! pass {
            ($($halves:literal $mins:literal $narrow:literal),+) => {
                match (form.halves, form.mins, form.narrow) {
                    $(($halves, $mins, $narrow) => {
                        let form = Form {
                            halves: $halves,
                            mins: $mins,
                            narrow: $narrow,
                            zero: form.zero,
                        };
                        // SAFETY: as the caller promises.
                        unsafe { self.pass(s, p, entries, form) };
                    })+
                    _ => unreachable!("a form of no scheme"),
                }
            };
        }
        pass!(
            false false true,
            false false false,
            false true true,
            true false true,
            true true true
        );
    }
}

impl IntBody for Gemm {
    #[inline(always)]
    fn run<S: IntSimd>(&self, s: S, ctx: &TaskCtx) {
        let rows = self.job.rows();
        let x = self.job.packed_q8(s, ctx, rows);
        let uses = self.job.uses(ctx, rows);
        let steps = self.job.k() / STEP;
        let own = self.job.own_slot(ctx);
        let Some(kind) = self.job.kind() else {
            return;
        };
        let form = with_scheme!(kind, W => Form::of::<W>());
        for item in self.job.items(ctx, rows, uses) {
            for t in self.job.tiles(&item) {
                // SAFETY: panels have `steps` steps, and the scratch holds two of them
                // unpacked; all uses were packed.
                unsafe {
                    let w = self.unpacked(s, kind, (&t, steps), own);
                    let tile = &t;
                    let p = Pass { x, w, steps, tile };
                    self.vectors(s, p, item.entries, form);
                }
            }
        }
    }
}

/// Bytes of each thread's own scratch.
fn own_bytes(p: &Problem) -> usize {
    match p.rows.max {
        1 => 0,
        _ => scratch_bytes(experts_sizes::depth(p)),
    }
}

/// Bytes of a problem's scratch.
pub fn workspace(p: &Problem) -> u64 {
    experts_sizes::workspace(p, PackAs::Q8, own_bytes(p))
}

pub fn record(step: &mut Step<'_>) -> Result<()> {
    let job = Experts::of(step, PackAs::Q8, own_bytes(step.problem))?;
    if step.problem.rows.max == 1 {
        return step.int_body(Gemv { job });
    }
    step.int_body(Gemm { job })
}
