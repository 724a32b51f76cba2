//! Products of int8 activations with panels of block schemes, on any instruction
//! set. Byte products are summed in i32 over each sub-block of K, whose scales
//! then take the sum to f32.

use super::int::{IntBody, IntSimd};
use super::matmul::{self, Group, Job, PackAs};
use super::matmul_f32::PREFETCH;
use super::matmul_few::{FEW, Few};
use super::matmul_sink::Sink;
use super::plumbing::{Result, Step};
use super::q_codes::{Codes, QUADS, STEP};
use super::q_scheme::{BlockScheme, with_scheme};
use super::q_sides::Sides;
use super::q8::Q8Step;
use hal::cpu::TaskCtx;
use registry::Problem;
use std::ops::Range;

/// Bytes of a vector of 16 f32 or of a quad.
const VECTOR: usize = 64;

/// One row: panels stream from memory in order and are unpacked in registers.
struct Gemv {
    job: Job,
}

impl IntBody for Gemv {
    #[inline(always)]
    fn run<S: IntSimd>(&self, s: S, ctx: &TaskCtx) {
        let rows = self.job.rows();
        let x = self.job.packed_q8(s, ctx, rows);
        let steps = self.job.k() / STEP;
        for (range, group) in self.job.items(ctx, rows) {
            let sink = self.job.sink(s, group);
            let Some(kind) = self.job.kind(group) else {
                continue;
            };
            for row in range {
                let mut c = [s.zero(); 2];
                for (i, c) in c.iter_mut().enumerate().take(group.count) {
                    let panel = self.job.panel(group, i);
                    // SAFETY: `steps` steps lie in the packed row and the panel.
                    *c = with_scheme!(kind, W => unsafe {
                        panel_dot::<W, S>(s, x.add(row * steps), panel, steps)
                    });
                }
                // SAFETY: outputs are this thread's own.
                unsafe { sink.put(s, row, c) };
            }
        }
    }
}

/// A row times the 16 rows of a panel.
///
/// # Safety
/// `steps` steps, whole spans, lie at `x` and in the panel.
#[inline(always)]
pub unsafe fn panel_dot<W: BlockScheme, S: IntSimd>(
    s: S,
    x: *const Q8Step,
    panel: *const u8,
    steps: usize,
) -> S::V {
    let mut sum = s.zero();
    let mut mins = s.zero();
    let sides = panel.wrapping_add(steps * W::Codes::BYTES);
    // SAFETY: as the caller promises; prefetching faults nowhere.
    unsafe {
        for span in 0..steps / W::Sides::STEPS {
            let side = sides.add(span * W::Sides::BYTES);
            s.prefetch(side.wrapping_add(PREFETCH / 4));
            let (d, dmin) = W::Sides::factors(s, side);
            let (mut inner, mut inner_mins) = (s.zero(), s.zero());
            for j in 0..W::Sides::STEPS {
                let step = span * W::Sides::STEPS + j;
                let x = x.add(step);
                let codes = panel.add(step * W::Codes::BYTES);
                for line in (0..W::Codes::BYTES).step_by(64) {
                    s.prefetch(codes.wrapping_add(PREFETCH + line));
                }
                let quads = W::Codes::quads(s, codes);
                let parts = if W::Sides::HALVES { 2 } else { 1 };
                let each = QUADS / parts;
                for part in 0..parts {
                    let (bytes, scaled) = match W::Sides::HALVES {
                        true => ((*x).sums[part], (*x).scaled_halves[part]),
                        false => ((*x).sum, (*x).scaled),
                    };
                    let mut acc = s.splat_i32(-W::ZERO * bytes);
                    let first = part * each;
                    for (i, codes) in quads[first..first + each].iter().enumerate() {
                        let four = s.repeat(x.cast::<u8>().add(4 * (first + i)));
                        acc = s.dot(acc, *codes, four, W::NARROW);
                    }
                    let t = s.mul(s.to_f32(acc), s.splat((*x).scale));
                    let i = j * parts + part;
                    if W::Sides::FLAT {
                        sum = s.fma(t, d, sum);
                        if W::Sides::MINS {
                            mins = s.fma(dmin, s.splat(scaled), mins);
                        }
                    } else {
                        inner = s.fma(t, W::Sides::scale(s, side, i), inner);
                        if W::Sides::MINS {
                            let min = W::Sides::min(s, side, i);
                            inner_mins = s.fma(min, s.splat(scaled), inner_mins);
                        }
                    }
                }
            }
            if !W::Sides::FLAT {
                sum = s.fma(inner, d, sum);
                if W::Sides::MINS {
                    mins = s.fma(inner_mins, dmin, mins);
                }
            }
        }
    }
    s.sub(sum, mins)
}

/// Several rows: panels are unpacked to the thread's scratch once for a block of
/// rows, which pass them in tiles of a few rows by two panels.
struct Gemm {
    job: Job,
}

/// Bytes of a step of an unpacked panel: quads, scales and mins of two halves.
pub const UNPACKED_STEP: usize = QUADS * VECTOR + 4 * VECTOR;

/// Bytes of a thread's scratch for rows of k elements.
pub const fn scratch_bytes(k: usize) -> usize {
    2 * (k / STEP) * UNPACKED_STEP
}

/// What the tiles must know of a scheme.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Form {
    pub halves: bool,
    pub mins: bool,
    pub narrow: bool,
    pub zero: i32,
}

impl Form {
    pub fn of<W: BlockScheme>() -> Form {
        Form {
            halves: W::Sides::HALVES,
            mins: W::Sides::MINS,
            narrow: W::NARROW,
            zero: W::ZERO,
        }
    }
}

/// A panel's codes as quads `[steps][8]`, its scales and negated mins as f32
/// `[steps][1 or 2][16]`.
#[derive(Clone, Copy)]
pub struct Unpacked {
    quads: *const u8,
    scales: *const u8,
    mins: *const u8,
}

/// Unpacks a panel to `UNPACKED_STEP * steps` bytes.
///
/// # Safety
/// `steps` steps, whole spans, lie in the panel; `to` has room for them.
#[inline(always)]
pub unsafe fn unpack<W: BlockScheme, S: IntSimd>(
    s: S,
    panel: *const u8,
    steps: usize,
    to: *mut u8,
) -> Unpacked {
    let parts = if W::Sides::HALVES { 2 } else { 1 };
    let scales = to.wrapping_add(steps * QUADS * VECTOR);
    let mins = scales.wrapping_add(steps * parts * VECTOR);
    let sides = panel.wrapping_add(steps * W::Codes::BYTES);
    // SAFETY: as the caller promises; prefetching faults nowhere.
    unsafe {
        for span in 0..steps / W::Sides::STEPS {
            let side = sides.add(span * W::Sides::BYTES);
            let (d, dmin) = W::Sides::factors(s, side);
            let (d, dmin) = (d, s.sub(s.zero(), dmin));
            for j in 0..W::Sides::STEPS {
                let step = span * W::Sides::STEPS + j;
                let codes = panel.add(step * W::Codes::BYTES);
                for line in (0..W::Codes::BYTES).step_by(64) {
                    s.prefetch(codes.wrapping_add(PREFETCH + line));
                }
                let quads = W::Codes::quads(s, codes);
                for (q, quad) in quads.into_iter().enumerate() {
                    s.store_bytes(to.add((step * QUADS + q) * VECTOR), quad);
                }
                for part in 0..parts {
                    let (i, at) = (j * parts + part, (step * parts + part) * VECTOR);
                    let mut scale = d;
                    if !W::Sides::FLAT {
                        scale = s.mul(d, W::Sides::scale(s, side, i));
                    }
                    s.store(scales.add(at).cast(), scale);
                    if W::Sides::MINS {
                        let mut min = dmin;
                        if !W::Sides::FLAT {
                            min = s.mul(dmin, W::Sides::min(s, side, i));
                        }
                        s.store(mins.add(at).cast(), min);
                    }
                }
            }
        }
    }
    Unpacked {
        quads: to,
        scales,
        mins,
    }
}

/// M rows times two unpacked panels of one form. A row's products do not depend on
/// the others.
///
/// # Safety
/// `steps` steps lie at each row and in both panels.
#[inline(always)]
pub unsafe fn tile<S: IntSimd, const M: usize>(
    s: S,
    x: [*const Q8Step; M],
    w: [Unpacked; 2],
    steps: usize,
    form: Form,
) -> [[S::V; 2]; M] {
    let mut sums = [[s.zero(); 2]; M];
    let parts = if form.halves { 2 } else { 1 };
    let each = QUADS / parts;
    // SAFETY: as the caller promises.
    unsafe {
        for step in 0..steps {
            for part in 0..parts {
                let mut acc = [[s.splat_i32(0); 2]; M];
                if !form.mins {
                    for (acc, x) in acc.iter_mut().zip(x) {
                        let x = x.add(step);
                        let bytes = if form.halves {
                            (*x).sums[part]
                        } else {
                            (*x).sum
                        };
                        *acc = [s.splat_i32(-form.zero * bytes); 2];
                    }
                }
                for q in part * each..(part + 1) * each {
                    let at = (step * QUADS + q) * VECTOR;
                    let quads = [
                        s.load_bytes(w[0].quads.add(at)),
                        s.load_bytes(w[1].quads.add(at)),
                    ];
                    for (acc, x) in acc.iter_mut().zip(x) {
                        let four = s.repeat(x.add(step).cast::<u8>().add(4 * q));
                        acc[0] = s.dot(acc[0], quads[0], four, form.narrow);
                        acc[1] = s.dot(acc[1], quads[1], four, form.narrow);
                    }
                }
                let at = (step * parts + part) * VECTOR;
                for p in 0..2 {
                    let scale = s.load(w[p].scales.add(at).cast());
                    for (m, x) in x.into_iter().enumerate() {
                        let by = s.mul(scale, s.splat((*x.add(step)).scale));
                        sums[m][p] = s.fma(s.to_f32(acc[m][p]), by, sums[m][p]);
                    }
                    if form.mins {
                        let min = s.load(w[p].mins.add(at).cast());
                        for (m, x) in x.into_iter().enumerate() {
                            let x = x.add(step);
                            let scaled = match form.halves {
                                true => (*x).scaled_halves[part],
                                false => (*x).scaled,
                            };
                            sums[m][p] = s.fma(min, s.splat(scaled), sums[m][p]);
                        }
                    }
                }
            }
        }
    }
    sums
}

/// A block of rows times two unpacked panels, into the sink.
///
/// # Safety
/// As [`tile`] for every row of the range; outputs are this thread's own.
#[inline(always)]
unsafe fn pass<S: IntSimd>(
    s: S,
    x: *const Q8Step,
    rows: Range<usize>,
    w: [Unpacked; 2],
    steps: usize,
    form: Form,
    sink: &Sink<S>,
) {
    let Range {
        start: mut row,
        end,
    } = rows;
    // SAFETY: as the caller promises.
    unsafe {
        if S::WIDE {
            while end - row >= 6 {
                put::<S, 6>(s, x, row, w, steps, form, sink);
                row += 6;
            }
            if end - row >= 3 {
                put::<S, 3>(s, x, row, w, steps, form, sink);
                row += 3;
            }
        }
        while end - row >= 2 {
            put::<S, 2>(s, x, row, w, steps, form, sink);
            row += 2;
        }
        if end > row {
            put::<S, 1>(s, x, row, w, steps, form, sink);
        }
    }
}

/// # Safety
/// As [`pass`].
#[inline(always)]
unsafe fn put<S: IntSimd, const M: usize>(
    s: S,
    x: *const Q8Step,
    row: usize,
    w: [Unpacked; 2],
    steps: usize,
    form: Form,
    sink: &Sink<S>,
) {
    // SAFETY: as the caller promises.
    unsafe {
        let x = std::array::from_fn(|m| x.wrapping_add((row + m) * steps));
        let sums = tile::<S, M>(s, x, w, steps, form);
        for (m, c) in sums.into_iter().enumerate() {
            sink.put(s, row + m, c);
        }
    }
}

impl Gemm {
    /// Unpacks a group's panels; a single one stands for both.
    ///
    /// # Safety
    /// `own` has room for two panels.
    #[inline(always)]
    unsafe fn unpacked<S: IntSimd>(
        &self,
        s: S,
        group: &Group,
        steps: usize,
        own: *mut u8,
    ) -> Option<(Form, [Unpacked; 2])> {
        let kind = self.job.kind(group)?;
        let mut w = None;
        let mut form = None;
        for i in 0..group.count {
            let panel = self.job.panel(group, i);
            let to = own.wrapping_add(i * steps * UNPACKED_STEP);
            // SAFETY: as the caller promises; the panel has `steps` steps.
            let one = with_scheme!(kind, W => unsafe {
                form = Some(Form::of::<W>());
                unpack::<W, S>(s, panel, steps, to)
            });
            w = Some([w.map_or(one, |[first, _]: [Unpacked; 2]| first), one]);
        }
        Some((form?, w?))
    }
}

impl IntBody for Gemm {
    #[inline(always)]
    fn run<S: IntSimd>(&self, s: S, ctx: &TaskCtx) {
        let rows = self.job.rows();
        let x = self.job.packed_q8(s, ctx, rows);
        let steps = self.job.k() / STEP;
        let own = self.job.own_slot(ctx, scratch_bytes(self.job.k()));
        for (range, group) in self.job.items(ctx, rows) {
            // SAFETY: the panels have `steps` steps; the scratch holds two of them
            // unpacked; packed rows and outputs of the range are this thread's.
            unsafe {
                let Some((form, w)) = self.unpacked(s, group, steps, own) else {
                    continue;
                };
                let sink = self.job.sink(s, group);
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
                                pass(s, x, range, w, steps, form, &sink);
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
    }
}

/// Bytes of a problem's scratch.
pub fn workspace(p: &Problem) -> u64 {
    if p.rows.max <= FEW {
        return matmul::workspace(p, few_packed(p));
    }
    let packed = matmul::workspace(p, PackAs::Q8);
    packed + (scratch_bytes(matmul::depth(p)) * p.device.threads) as u64
}

/// How the activations of at most [`FEW`] rows are kept.
fn few_packed(p: &Problem) -> PackAs {
    match p.rows.max {
        1 => PackAs::Q8,
        _ => PackAs::Q8Together,
    }
}

pub fn record(step: &mut Step<'_>) -> Result<()> {
    let problem = step.problem;
    if problem.rows.max > FEW {
        let own = scratch_bytes(matmul::depth(problem));
        let job = Job::with_slots(step, PackAs::Q8, own)?;
        return step.int_body(Gemm { job });
    }
    let job = Job::of(step, few_packed(problem))?;
    match problem.rows.max {
        1 => step.int_body(Gemv { job }),
        _ => step.int_body(Few { job }),
    }
}
