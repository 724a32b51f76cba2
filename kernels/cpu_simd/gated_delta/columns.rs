//! gated_delta / f32 / columns (cpu_simd)
//! op:        S ← g·S, S ← S + k·(β·(v − kᵀS)), o = qᵀS, row by row; q and k over
//!            their lengths, q by √dk, g = exp(decay·softplus(a + dt_bias)), β = σ(b)
//! shapes:    q, k [T, key_heads, dk]; v, o [T, value_heads, dv]; a, b [T,
//!            value_heads]; decay, dt_bias [value_heads]; state [value_heads, dk, dv]
//! dtypes:    f32; decay and β in f64
//! partition: the columns of S do not depend on each other: threads share (span,
//!            value head, run of 32 columns) and keep those columns in their scratch
//! source:    Yang et al. 2024, Gated Delta Networks; written here
//! parity:    2e-5

use crate::common::delta::{self, Delta, Sizes, unit};
use crate::common::plumbing::{Result, SimdKernel, Step, real_rows};
use crate::common::simd::{Body, LANES, Simd};
use hal::cpu::TaskCtx;
use registry::{Pattern, RowsFrom, StepView};

/// Columns of a unit.
const COLUMNS: usize = 2 * LANES;

struct Columns(Delta);

/// f32 of a thread's scratch: columns of the state, a query, a key.
fn slot_len(z: &Sizes) -> usize {
    z.dk * COLUMNS + 2 * z.dk.next_multiple_of(LANES)
}

impl Columns {
    /// # Safety
    /// `slot` is this thread's scratch; the columns are its own.
    #[inline(always)]
    unsafe fn run<S: Simd>(
        &self,
        s: S,
        view: &StepView<'_>,
        (span, head, first): (usize, usize, usize),
        slot: *mut f32,
    ) {
        let d = &self.0;
        let Sizes { dk, dv, .. } = d.sizes;
        let count = COLUMNS.min(dv - first);
        let columns = slot;
        let query = columns.wrapping_add(dk * COLUMNS);
        let key = query.wrapping_add(dk.next_multiple_of(LANES));
        let at = |slot: usize| d.state.at(slot).wrapping_add(head * dk * dv + first);
        // Columns beyond `count` are zeros and stay zeros.
        let width = [count.min(LANES), count.saturating_sub(LANES)];
        // SAFETY: indices stay inside the scratch, whose length is `slot_len`, and
        // inside the head of the state and of each row.
        unsafe {
            let load = |p: *const f32| {
                let second = match width[1] {
                    0 => s.zero(),
                    n => s.load_n(p.add(LANES), n),
                };
                [s.load_n(p, width[0]), second]
            };
            let store = |p: *mut f32, v: [S::V; 2]| {
                s.store_n(p, v[0], width[0]);
                if width[1] > 0 {
                    s.store_n(p.add(LANES), v[1], width[1]);
                }
            };
            for i in 0..dk {
                let v = match view.state_in(span) {
                    Some(slot) => load(at(slot).add(i * dv)),
                    None => [s.zero(); 2],
                };
                s.store(columns.add(i * COLUMNS), v[0]);
                s.store(columns.add(i * COLUMNS + LANES), v[1]);
            }
            for row in view.span_rows(span) {
                let from = d.key_at(head);
                unit(
                    s,
                    d.q.at(row).add(from),
                    dk,
                    1.0 / (dk as f32).sqrt(),
                    query,
                );
                unit(s, d.k.at(row).add(from), dk, 1.0, key);
                let (log_keep, beta) = d.gates(row, head);
                let (keep, beta) = (s.splat(log_keep.exp() as f32), s.splat(beta));
                let mut seen = [s.zero(); 2];
                for i in 0..dk {
                    let k = s.splat(*key.add(i));
                    for (h, seen) in seen.iter_mut().enumerate() {
                        let x = columns.add(i * COLUMNS + h * LANES);
                        let kept = s.mul(s.load(x), keep);
                        s.store(x, kept);
                        *seen = s.fma(k, kept, *seen);
                    }
                }
                let v = load(d.v.at(row).add(head * dv + first));
                let delta = [0, 1].map(|h| s.mul(s.sub(v[h], seen[h]), beta));
                let mut out = [s.zero(); 2];
                for i in 0..dk {
                    let (k, q) = (s.splat(*key.add(i)), s.splat(*query.add(i)));
                    for (h, out) in out.iter_mut().enumerate() {
                        let x = columns.add(i * COLUMNS + h * LANES);
                        let new = s.fma(k, delta[h], s.load(x));
                        s.store(x, new);
                        *out = s.fma(q, new, *out);
                    }
                }
                store(d.o.at(row).add(head * dv + first), out);
                if let Some(slot) = view.state_out(row) {
                    for i in 0..dk {
                        let x = columns.add(i * COLUMNS);
                        store(at(slot).add(i * dv), [s.load(x), s.load(x.add(LANES))]);
                    }
                }
            }
        }
    }
}

impl Body for Columns {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, ctx: &TaskCtx) {
        let d = &self.0;
        let view = d.meta.view();
        if real_rows(&view, RowsFrom::Batch, d.o.count) == 0 {
            return;
        }
        let slot = d.scratch(ctx.thread);
        let (heads, runs) = (d.sizes.heads, d.sizes.dv.div_ceil(COLUMNS));
        for unit in ctx.share(view.spans() * heads * runs) {
            let (pair, run) = (unit / runs, unit % runs);
            let (span, head) = (pair / heads, pair % heads);
            // SAFETY: the scratch is this thread's, and `share` deals each unit to
            // one thread.
            unsafe { Columns::run(self, s, &view, (span, head, run * COLUMNS), slot) };
        }
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let body = Columns(Delta::of(step, slot_len)?);
    step.body(body)
}

static F32: SimdKernel = SimdKernel::new(&Pattern::GATED_DELTA, &["f32"], "columns", 2e-5, record)
    .with_fits(delta::fits)
    .with_workspace(|p| {
        let len = Sizes::of(p).map_or(0, |z| slot_len(&z));
        (4 * len * p.device.threads) as u64
    });
registry::register!(F32);
