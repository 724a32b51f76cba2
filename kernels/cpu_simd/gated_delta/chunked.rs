//! gated_delta / f32 / chunked (cpu_simd)
//! op:        as `columns`, 32 rows at a time. With Γᵢ = Πⱼ≤ᵢ gⱼ inside a chunk, S₀ the
//!            state before it and δᵢ what row i writes (Sᵢ = gᵢ·Sᵢ₋₁ + kᵢ·δᵢ):
//!              δᵢ = βᵢ·(vᵢ − Γᵢ·kᵢᵀS₀ − Σⱼ<ᵢ Γᵢ/Γⱼ·(kᵢ·kⱼ)·δⱼ)
//!              oᵢ = Γᵢ·qᵢᵀS₀ + Σⱼ≤ᵢ Γᵢ/Γⱼ·(qᵢ·kⱼ)·δⱼ
//!              S  = Γ·S₀ + Σⱼ Γ/Γⱼ·kⱼ·δⱼ
//!            so that all but the middle sum are matrix products
//! shapes:    as `columns`
//! dtypes:    f32; ln Γ in f64, ratios Γᵢ/Γⱼ ≤ 1 from differences of it
//! partition: threads share (span, value head); a chunk ends early where a state is
//!            kept
//! source:    the chunked form of Yang et al. 2024, Gated Delta Networks, derived
//!            anew for S [dk, dv]; written here
//! parity:    5e-5

use crate::common::delta::{self, Delta, Sizes, unit};
use crate::common::math::exp;
use crate::common::plumbing::{Fits, Result, SimdKernel, Step, real_rows};
use crate::common::simd::{Body, LANES, Simd};
use hal::cpu::TaskCtx;
use registry::{Pattern, Problem, RowsFrom, StepView};

/// Rows of a chunk.
const CHUNK: usize = 32;
/// Rows of a register tile; divides CHUNK.
const TILE: usize = 8;
/// Columns of a register tile.
const RUN: usize = 2 * LANES;

struct Chunked(Delta);

/// e^log ≤ 1. What is smaller than any sum can show counts as zero: its products
/// would be subnormal numbers, which cost a hundred times as much.
#[inline(always)]
fn factor(log: f64) -> f32 {
    match log < LEAST {
        true => 0.0,
        false => log.exp() as f32,
    }
}

/// ln of the smallest factor that counts.
const LEAST: f64 = -60.0;

/// Where a chunk is worked on. Rows of q, k and of key products are padded to whole
/// vectors with zeros, as are columns.
#[derive(Clone, Copy)]
struct Slot {
    /// [columns / RUN][dk][RUN]: a tile's columns lie together.
    state: *mut f32,
    /// [CHUNK][dk]
    q: *mut f32,
    /// [CHUNK][dk]
    k: *mut f32,
    /// [CHUNK][columns]
    delta: *mut f32,
    /// [CHUNK][columns]
    out: *mut f32,
    /// [CHUNK][CHUNK], row i, column j.
    kk: *mut f32,
    /// [CHUNK][CHUNK]
    qk: *mut f32,
    dk: usize,
    columns: usize,
}

fn padded(z: &Sizes) -> (usize, usize) {
    // Whole pairs of vectors: the width of a tile.
    (z.dk.next_multiple_of(LANES), z.dv.next_multiple_of(RUN))
}

fn slot_len(z: &Sizes) -> usize {
    let (dk, columns) = padded(z);
    // The state in whole tiles of rows.
    dk * columns + 2 * CHUNK * (dk + columns) + 2 * CHUNK * CHUNK
}

impl Slot {
    fn new(at: *mut f32, z: &Sizes) -> Slot {
        let (dk, columns) = padded(z);
        let state = at;
        let q = state.wrapping_add(dk * columns);
        let k = q.wrapping_add(CHUNK * dk);
        let delta = k.wrapping_add(CHUNK * dk);
        let out = delta.wrapping_add(CHUNK * columns);
        let kk = out.wrapping_add(CHUNK * columns);
        Slot {
            state,
            q,
            k,
            delta,
            out,
            kk,
            qk: kk.wrapping_add(CHUNK * CHUNK),
            dk,
            columns,
        }
    }

    /// The state's element (d, c).
    #[inline(always)]
    fn state_at(&self, d: usize, c: usize) -> *mut f32 {
        self.state
            .wrapping_add((c / RUN * self.dk + d) * RUN + c % RUN)
    }

    /// The runs of a row of `dv` columns: where they lie in the state's row d, the
    /// first column and how many there are.
    fn runs(&self, d: usize, dv: usize) -> impl Iterator<Item = (*mut f32, usize, usize)> {
        let at = *self;
        let firsts = (0..dv).step_by(RUN);
        firsts.map(move |c| (at.state_at(d, c), c, RUN.min(dv - c)))
    }

    /// delta[i][c] = Σ_d k[i][d]·state[d][c] and out[i][c] = Σ_d q[i][d]·state[d][c]
    /// for all rows of the chunk.
    ///
    /// # Safety
    /// The arrays are this thread's.
    #[inline(always)]
    unsafe fn times_state<S: Simd>(&self, s: S) {
        for c in (0..self.columns).step_by(RUN) {
            let state = self.state_at(0, c);
            for (x, to) in [(self.k, self.delta), (self.q, self.out)] {
                for i in (0..CHUNK).step_by(TILE) {
                    let mut acc = [[s.zero(); 2]; TILE];
                    // SAFETY: rows below CHUNK, columns in whole runs.
                    unsafe {
                        for d in 0..self.dk {
                            let w = state.add(d * RUN);
                            let w = [s.load(w), s.load(w.add(LANES))];
                            for (r, acc) in acc.iter_mut().enumerate() {
                                let x = s.splat(*x.add((i + r) * self.dk + d));
                                acc[0] = s.fma(x, w[0], acc[0]);
                                acc[1] = s.fma(x, w[1], acc[1]);
                            }
                        }
                        for (r, acc) in acc.into_iter().enumerate() {
                            let to = to.add((i + r) * self.columns + c);
                            s.store(to, acc[0]);
                            s.store(to.add(LANES), acc[1]);
                        }
                    }
                }
            }
        }
    }

    /// to[i][j] = x[i]·k[j] for j of the chunk.
    ///
    /// # Safety
    /// The arrays are this thread's.
    #[inline(always)]
    unsafe fn times_keys<S: Simd>(&self, s: S, x: *const f32, to: *mut f32) {
        for i in 0..CHUNK {
            for j in (0..CHUNK).step_by(LANES) {
                let mut acc = [s.zero(); LANES];
                // SAFETY: rows below CHUNK of whole vectors.
                unsafe {
                    for d in (0..self.dk).step_by(LANES) {
                        let x = s.load(x.add(i * self.dk + d));
                        for (r, acc) in acc.iter_mut().enumerate() {
                            let k = s.load(self.k.add((j + r) * self.dk + d));
                            *acc = s.fma(x, k, *acc);
                        }
                    }
                    s.store(to.add(i * CHUNK + j), s.sums(acc));
                }
            }
        }
    }

    /// state = keep·state + Σⱼ k[j]ᵀ·delta[j].
    ///
    /// # Safety
    /// The arrays are this thread's.
    #[inline(always)]
    unsafe fn update<S: Simd>(&self, s: S, keep: f32, rows: usize) {
        let keep = s.splat(keep);
        for c in (0..self.columns).step_by(RUN) {
            for d in (0..self.dk).step_by(TILE) {
                // SAFETY: dk is whole vectors, and so whole tiles.
                unsafe {
                    let at = |r: usize| self.state_at(d + r, c);
                    let mut acc = [[s.zero(); 2]; TILE];
                    for (r, acc) in acc.iter_mut().enumerate() {
                        acc[0] = s.mul(s.load(at(r)), keep);
                        acc[1] = s.mul(s.load(at(r).add(LANES)), keep);
                    }
                    for j in 0..rows {
                        let delta = self.delta.add(j * self.columns + c);
                        let delta = [s.load(delta), s.load(delta.add(LANES))];
                        for (r, acc) in acc.iter_mut().enumerate() {
                            let k = s.splat(*self.k.add(j * self.dk + d + r));
                            acc[0] = s.fma(k, delta[0], acc[0]);
                            acc[1] = s.fma(k, delta[1], acc[1]);
                        }
                    }
                    for (r, acc) in acc.into_iter().enumerate() {
                        s.store(at(r), acc[0]);
                        s.store(at(r).add(LANES), acc[1]);
                    }
                }
            }
        }
    }

    /// to[i] += Σⱼ weights[j]·delta[j] over the first `rows` rows, for one row of
    /// `to`.
    ///
    /// # Safety
    /// `to` is a row of columns, `weights` holds `rows` numbers.
    #[inline(always)]
    unsafe fn add_deltas<S: Simd>(&self, s: S, weights: *const f32, rows: usize, to: *mut f32) {
        for c in (0..self.columns).step_by(RUN) {
            // SAFETY: as the caller promises.
            unsafe {
                let mut acc = [s.load(to.add(c)), s.load(to.add(c + LANES))];
                for j in 0..rows {
                    let w = s.splat(*weights.add(j));
                    let delta = self.delta.add(j * self.columns + c);
                    acc[0] = s.fma(w, s.load(delta), acc[0]);
                    acc[1] = s.fma(w, s.load(delta.add(LANES)), acc[1]);
                }
                s.store(to.add(c), acc[0]);
                s.store(to.add(c + LANES), acc[1]);
            }
        }
    }
}

impl Chunked {
    /// One head of a span.
    ///
    /// # Safety
    /// `at` is this thread's; the head of the span is its own.
    #[inline(always)]
    unsafe fn head<S: Simd>(
        &self,
        s: S,
        view: &StepView<'_>,
        (span, head): (usize, usize),
        at: Slot,
    ) {
        let d = &self.0;
        let Sizes { dk, dv, .. } = d.sizes;
        let place = |slot: usize| d.state.at(slot).wrapping_add(head * dk * dv);
        // SAFETY: indices stay inside the scratch, whose length is `slot_len`, and
        // inside the head of the state and of each row.
        unsafe {
            for i in (0..slot_len(&d.sizes)).step_by(LANES) {
                s.store(at.state.add(i), s.zero());
            }
            if let Some(slot) = view.state_in(span) {
                for i in 0..dk {
                    for (to, c, n) in at.runs(i, dv) {
                        let from = place(slot).add(i * dv + c).cast_const();
                        std::ptr::copy_nonoverlapping(from, to, n);
                    }
                }
            }
            let rows = view.span_rows(span);
            let mut first = rows.start;
            while first < rows.end {
                let most = rows.end.min(first + CHUNK);
                let kept = (first..most).find(|r| view.state_out(*r).is_some());
                let end = kept.map_or(most, |r| r + 1);
                self.chunk(s, (first, end - first), head, at);
                if let Some(slot) = view.state_out(end - 1) {
                    for i in 0..dk {
                        for (from, c, n) in at.runs(i, dv) {
                            let to = place(slot).add(i * dv + c);
                            std::ptr::copy_nonoverlapping(from.cast_const(), to, n);
                        }
                    }
                }
                first = end;
            }
        }
    }

    /// `n` rows from `first` on.
    ///
    /// # Safety
    /// As [`Chunked::head`]; n ≤ CHUNK.
    #[inline(always)]
    unsafe fn chunk<S: Simd>(&self, s: S, (first, n): (usize, usize), head: usize, at: Slot) {
        let d = &self.0;
        let Sizes { dk, dv, .. } = d.sizes;
        let from = d.key_at(head);
        // ln Γ, and β, of each row.
        let mut log = [0f64; CHUNK];
        let mut beta = [0f32; CHUNK];
        // SAFETY: as the caller promises. Rows from n on hold what an earlier chunk
        // left: finite numbers that no sum below takes.
        unsafe {
            let mut sum = 0.0;
            for i in 0..n {
                let row = first + i;
                let scale = 1.0 / (dk as f32).sqrt();
                unit(s, d.q.at(row).add(from), dk, scale, at.q.add(i * at.dk));
                unit(s, d.k.at(row).add(from), dk, 1.0, at.k.add(i * at.dk));
                let (log_keep, b) = d.gates(row, head);
                sum += log_keep;
                (log[i], beta[i]) = (sum, b);
            }
            at.times_state(s);
            at.times_keys(s, at.k, at.kk);
            at.times_keys(s, at.q, at.qk);
            for i in 0..n {
                let row = first + i;
                let mut ratio = [0f32; CHUNK];
                for (j, ratio) in ratio[..=i].iter_mut().enumerate() {
                    *ratio = (log[i] - log[j]) as f32;
                    if *ratio < LEAST as f32 {
                        *ratio = f32::NEG_INFINITY;
                    }
                }
                for j in (0..=i).step_by(LANES) {
                    let x = ratio.as_mut_ptr().add(j);
                    s.store(x, exp(s, s.load(x)));
                }
                let gamma = factor(log[i]);
                // δᵢ: what is left of β·v when the past is taken away.
                let (kk, qk) = (at.kk.add(i * CHUNK), at.qk.add(i * CHUNK));
                for (j, ratio) in ratio[..i].iter().enumerate() {
                    *kk.add(j) *= -beta[i] * ratio;
                }
                for (j, ratio) in ratio[..=i].iter().enumerate() {
                    *qk.add(j) *= ratio;
                }
                let (delta, out) = (at.delta.add(i * at.columns), at.out.add(i * at.columns));
                let (b, g) = (s.splat(beta[i]), s.splat(gamma));
                for c in (0..at.columns).step_by(LANES) {
                    let v = match dv.saturating_sub(c) {
                        0 => s.zero(),
                        left => s.load_n(d.v.at(row).add(head * dv + c), left),
                    };
                    let past = s.mul(s.load(delta.add(c)), g);
                    s.store(delta.add(c), s.mul(s.sub(v, past), b));
                    s.store(out.add(c), s.mul(s.load(out.add(c)), g));
                }
                at.add_deltas(s, kk, i, delta);
                at.add_deltas(s, qk, i + 1, out);
                let o = d.o.at(row).add(head * dv);
                for c in (0..dv).step_by(LANES) {
                    s.store_n(o.add(c), s.load(out.add(c)), dv - c);
                }
            }
            for (i, log_i) in log[..n].iter().enumerate() {
                let rest = s.splat(factor(log[n - 1] - log_i));
                for c in (0..at.columns).step_by(LANES) {
                    let delta = at.delta.add(i * at.columns + c);
                    s.store(delta, s.mul(s.load(delta), rest));
                }
            }
            at.update(s, factor(log[n - 1]), n);
        }
    }
}

impl Body for Chunked {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, ctx: &TaskCtx) {
        let d = &self.0;
        let view = d.meta.view();
        if real_rows(&view, RowsFrom::Batch, d.o.count) == 0 {
            return;
        }
        let at = Slot::new(d.scratch(ctx.thread), &d.sizes);
        let heads = d.sizes.heads;
        for unit in ctx.share(view.spans() * heads) {
            // SAFETY: the scratch is this thread's, and `share` deals each unit to
            // one thread.
            unsafe { self.head(s, &view, (unit / heads, unit % heads), at) };
        }
    }
}

/// Short steps gain nothing, and their bits must not depend on which rows keep
/// their state.
fn fits(p: &Problem) -> Fits {
    delta::fits(p)?;
    match p.rows.min > 2 * CHUNK {
        true => Ok(()),
        false => Err("for steps of more than 64 rows".into()),
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let body = Chunked(Delta::of(step, slot_len)?);
    step.body(body)
}

static F32: SimdKernel = SimdKernel::new(&Pattern::GATED_DELTA, &["f32"], "chunked", 5e-5, record)
    .with_fits(fits)
    .with_rank(20)
    .with_workspace(|p| {
        let len = Sizes::of(p).map_or(0, |z| slot_len(&z));
        (4 * len * p.device.threads) as u64
    });
registry::register!(F32);
