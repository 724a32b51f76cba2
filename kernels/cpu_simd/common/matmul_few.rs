//! int8 products of a few rows with panels of block schemes: a decode step of a
//! batch. Panels stream from memory once for up to eight rows and come apart in
//! registers, so that the products hide behind the reads.

use super::int::{IntBody, IntSimd};
use super::matmul::{Group, Job};
use super::matmul_f32::PREFETCH;
use super::matmul_sink::Sink;
use super::q_codes::{Codes, QUADS, STEP};
use super::q_scheme::{BlockScheme, with_scheme};
use super::q_sides::Sides;
use super::q8::{Q8Step, TOGETHER};
use hal::cpu::TaskCtx;

/// Most rows that are multiplied this way: beyond, panels are unpacked once for all.
pub const FEW: usize = 16;

pub struct Few {
    pub job: Job,
}

impl IntBody for Few {
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
            for first in range.clone().step_by(TOGETHER) {
                let rows = first..range.end.min(first + TOGETHER);
                // SAFETY: the scratch holds whole blocks of rows; the panels have
                // `steps` steps; outputs of the range are this thread's own.
                with_scheme!(kind, W => unsafe {
                    let x = x.add(first * steps);
                    // Rows that are not there are zero, and not stored.
                    if !S::WIDE {
                        for i in (0..rows.len()).step_by(2) {
                            let rows = first + i..rows.end;
                            self.block::<W, S, 2>(s, x.add(i), rows, steps, group, &sink);
                        }
                    } else if rows.len() > TOGETHER / 2 {
                        self.block::<W, S, TOGETHER>(s, x, rows, steps, group, &sink);
                    } else {
                        self.block::<W, S, { TOGETHER / 2 }>(s, x, rows, steps, group, &sink);
                    }
                });
            }
        }
    }
}

impl Few {
    /// At most M rows, the first of them at `x`, times the panels of a group.
    ///
    /// # Safety
    /// As [`few`]; outputs of the rows are this thread's own.
    #[inline(always)]
    unsafe fn block<W: BlockScheme, S: IntSimd, const M: usize>(
        &self,
        s: S,
        x: *const Q8Step,
        rows: std::ops::Range<usize>,
        steps: usize,
        group: &Group,
        sink: &Sink<S>,
    ) {
        let mut c = [[s.zero(); 2]; M];
        for i in 0..group.count {
            // SAFETY: as the caller promises.
            let sums = unsafe { few::<W, S, M>(s, x, self.job.panel(group, i), steps) };
            for (c, sum) in c.iter_mut().zip(sums) {
                c[i] = sum;
            }
        }
        for (row, c) in rows.zip(c) {
            // SAFETY: as the caller promises.
            unsafe { sink.put(s, row, c) };
        }
    }
}

/// M rows that lie together times the 16 rows of a panel. A row's products do not
/// depend on the others.
///
/// # Safety
/// `steps` steps, whole spans, of [`TOGETHER`] rows lie from `x` on, of which the
/// first M are read, and in the panel.
#[inline(always)]
unsafe fn few<W: BlockScheme, S: IntSimd, const M: usize>(
    s: S,
    x: *const Q8Step,
    panel: *const u8,
    steps: usize,
) -> [S::V; M] {
    let parts = if W::Sides::HALVES { 2 } else { 1 };
    let each = QUADS / parts;
    let sides = panel.wrapping_add(steps * W::Codes::BYTES);
    let mut sums = [s.zero(); M];
    // SAFETY: as the caller promises; prefetching faults nowhere.
    unsafe {
        for span in 0..steps / W::Sides::STEPS {
            let side = sides.add(span * W::Sides::BYTES);
            for line in (0..W::Sides::BYTES).step_by(64) {
                s.prefetch(side.wrapping_add(PREFETCH / 4 + line));
            }
            let (d, dmin) = W::Sides::factors(s, side);
            let dmin = s.sub(s.zero(), dmin);
            for j in 0..W::Sides::STEPS {
                let step = span * W::Sides::STEPS + j;
                let x = x.add(step * TOGETHER);
                let codes = panel.add(step * W::Codes::BYTES);
                for line in (0..W::Codes::BYTES).step_by(64) {
                    s.prefetch(codes.wrapping_add(PREFETCH + line));
                }
                let quads = W::Codes::quads(s, codes);
                for part in 0..parts {
                    let mut acc = [s.splat_i32(0); M];
                    if W::ZERO != 0 {
                        for (m, acc) in acc.iter_mut().enumerate() {
                            let x = x.add(m);
                            let bytes = match W::Sides::HALVES {
                                true => (*x).sums[part],
                                false => (*x).sum,
                            };
                            *acc = s.splat_i32(-W::ZERO * bytes);
                        }
                    }
                    let first = part * each;
                    for (i, codes) in quads[first..first + each].iter().enumerate() {
                        for (m, acc) in acc.iter_mut().enumerate() {
                            let four = s.repeat(x.add(m).cast::<u8>().add(4 * (first + i)));
                            *acc = s.dot(*acc, *codes, four, W::NARROW);
                        }
                    }
                    let i = j * parts + part;
                    let (mut scale, mut min) = (d, dmin);
                    if !W::Sides::FLAT {
                        scale = s.mul(d, W::Sides::scale(s, side, i));
                        if W::Sides::MINS {
                            min = s.mul(dmin, W::Sides::min(s, side, i));
                        }
                    }
                    for (m, sum) in sums.iter_mut().enumerate() {
                        let x = x.add(m);
                        let t = s.mul(s.to_f32(acc[m]), s.splat((*x).scale));
                        *sum = s.fma(t, scale, *sum);
                        if W::Sides::MINS {
                            let scaled = match W::Sides::HALVES {
                                true => (*x).scaled_halves[part],
                                false => (*x).scaled,
                            };
                            *sum = s.fma(min, s.splat(scaled), *sum);
                        }
                    }
                }
            }
        }
    }
    sums
}
