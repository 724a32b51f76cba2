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

use crate::common::plumbing::{Fits, Meta, Result, Rows, SimdKernel, State, Step, real_rows};
use crate::common::simd::{Body, LANES, Simd};
use graph::{DeltaSpec, Op};
use hal::cpu::{CpuSlice, TaskCtx};
use registry::{Pattern, Problem, RowsFrom, StepView};

/// Columns of a unit.
const COLUMNS: usize = 2 * LANES;
/// Added to the sum of squares of a query or key.
const EPS: f32 = 1e-6;

struct GatedDelta {
    qkv: [Rows<f32>; 3],
    a: Rows<f32>,
    b: Rows<f32>,
    decay: CpuSlice<f32>,
    dt_bias: CpuSlice<f32>,
    state: State,
    o: Rows<f32>,
    spec: DeltaSpec,
    key_heads: usize,
    heads: usize,
    dk: usize,
    dv: usize,
    scratch: CpuSlice<f32>,
    meta: Meta,
}

/// f32 of a thread's scratch: columns of the state, a query, a key.
fn slot_len(dk: usize) -> usize {
    (dk * COLUMNS + 2 * dk.next_multiple_of(LANES)).next_multiple_of(LANES)
}

fn softplus(x: f64) -> f64 {
    // Beyond this the exponential no longer changes an f32.
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

/// x over its length, times `scale`.
///
/// # Safety
/// `x` and `to` are `len` elements.
#[inline(always)]
unsafe fn unit<S: Simd>(s: S, x: *const f32, len: usize, scale: f32, to: *mut f32) {
    // SAFETY: as the caller promises.
    unsafe {
        let mut sum = s.zero();
        for i in (0..len).step_by(LANES) {
            let v = s.load_n(x.add(i), len - i);
            sum = s.fma(v, v, sum);
        }
        let factor = s.splat(scale / (s.sum(sum) + EPS).sqrt());
        for i in (0..len).step_by(LANES) {
            let v = s.load_n(x.add(i), len - i);
            s.store_n(to.add(i), s.mul(v, factor), len - i);
        }
    }
}

impl GatedDelta {
    /// # Safety
    /// `slot` is this thread's scratch; the columns are its own.
    #[inline(always)]
    unsafe fn columns<S: Simd>(
        &self,
        s: S,
        view: &StepView<'_>,
        (span, head, first): (usize, usize, usize),
        slot: *mut f32,
    ) {
        let (dk, dv) = (self.dk, self.dv);
        let count = COLUMNS.min(dv - first);
        let key_head = match self.spec.tiled {
            true => head % self.key_heads,
            false => head / (self.heads / self.key_heads),
        };
        // SAFETY: declared reads of vectors with an element for each head.
        let (decay, dt_bias) = unsafe { (self.decay.get()[head], self.dt_bias.get()[head]) };
        let rate = match self.spec.log_decay {
            true => -f64::from(decay).exp(),
            false => f64::from(decay),
        };
        let columns = slot;
        let query = columns.wrapping_add(dk * COLUMNS);
        let key = query.wrapping_add(dk.next_multiple_of(LANES));
        let at = |slot: usize| {
            let whole = self.state.at(slot);
            whole.wrapping_add(head * dk * dv + first)
        };
        // Columns beyond `count` are zeros and stay zeros.
        let halves = |n: usize| [n.min(LANES), n.saturating_sub(LANES)];
        let width = halves(count);
        // SAFETY: indices stay inside the scratch, whose length is `slot_len`, and
        // inside the head of the state and of each row.
        unsafe {
            let load = |p: *const f32| {
                [
                    s.load_n(p, width[0]),
                    if width[1] > 0 {
                        s.load_n(p.add(LANES), width[1])
                    } else {
                        s.zero()
                    },
                ]
            };
            let store = |p: *mut f32, v: [S::V; 2]| {
                s.store_n(p, v[0], width[0]);
                if width[1] > 0 {
                    s.store_n(p.add(LANES), v[1], width[1]);
                }
            };
            for d in 0..dk {
                let v = match view.state_in(span) {
                    Some(slot) => load(at(slot).add(d * dv)),
                    None => [s.zero(); 2],
                };
                s.store(columns.add(d * COLUMNS), v[0]);
                s.store(columns.add(d * COLUMNS + LANES), v[1]);
            }
            for row in view.span_rows(span) {
                let [q, k, v] = self.qkv.map(|x| x.at(row));
                unit(s, q.add(key_head * dk), dk, 1.0 / (dk as f32).sqrt(), query);
                unit(s, k.add(key_head * dk), dk, 1.0, key);
                let step = softplus(f64::from(*self.a.at(row).add(head) + dt_bias));
                let keep = s.splat((rate * step).exp() as f32);
                let beta = 1.0 / (1.0 + (-f64::from(*self.b.at(row).add(head))).exp());
                let mut seen = [s.zero(); 2];
                for d in 0..dk {
                    let k = s.splat(*key.add(d));
                    for (h, seen) in seen.iter_mut().enumerate() {
                        let x = columns.add(d * COLUMNS + h * LANES);
                        let kept = s.mul(s.load(x), keep);
                        s.store(x, kept);
                        *seen = s.fma(k, kept, *seen);
                    }
                }
                let v = load(v.add(head * dv + first));
                let beta = s.splat(beta as f32);
                let delta = [0, 1].map(|h| s.mul(s.sub(v[h], seen[h]), beta));
                let mut out = [s.zero(); 2];
                for d in 0..dk {
                    let (k, q) = (s.splat(*key.add(d)), s.splat(*query.add(d)));
                    for (h, out) in out.iter_mut().enumerate() {
                        let x = columns.add(d * COLUMNS + h * LANES);
                        let new = s.fma(k, delta[h], s.load(x));
                        s.store(x, new);
                        *out = s.fma(q, new, *out);
                    }
                }
                store(self.o.at(row).add(head * dv + first), out);
                if let Some(slot) = view.state_out(row) {
                    for d in 0..dk {
                        let x = columns.add(d * COLUMNS);
                        store(at(slot).add(d * dv), [s.load(x), s.load(x.add(LANES))]);
                    }
                }
            }
        }
    }
}

impl Body for GatedDelta {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, ctx: &TaskCtx) {
        let view = self.meta.view();
        if real_rows(&view, RowsFrom::Batch, self.o.count) == 0 {
            return;
        }
        let len = slot_len(self.dk);
        assert!((ctx.thread + 1) * len <= self.scratch.len());
        let slot = self.scratch.as_ptr().wrapping_add(ctx.thread * len);
        let runs = self.dv.div_ceil(COLUMNS);
        for unit in ctx.share(view.spans() * self.heads * runs) {
            let (pair, run) = (unit / runs, unit % runs);
            let (span, head) = (pair / self.heads, pair % self.heads);
            // SAFETY: the scratch is this thread's, and `share` deals each unit to
            // one thread.
            unsafe { self.columns(s, &view, (span, head, run * COLUMNS), slot) };
        }
    }
}

/// Heads and their size of q and of v.
fn sizes(p: &Problem) -> Option<[usize; 4]> {
    let head_dims = |i: usize| match p.input(0, i)?.1.shape.as_slice() {
        &[_, heads, dim] => Some((heads, dim)),
        _ => None,
    };
    let ((key_heads, dk), (heads, dv)) = (head_dims(0)?, head_dims(2)?);
    Some([key_heads, dk, heads, dv])
}

fn fits(p: &Problem) -> Fits {
    match sizes(p) {
        Some([_, dk, _, _]) if dk <= 4096 => Ok(()),
        Some([_, dk, _, _]) => Err(format!("keys of up to 4096, not {dk}")),
        None => Err("q and v must be [T, heads, head_dim]".into()),
    }
}

fn workspace(p: &Problem) -> u64 {
    let dk = sizes(p).map_or(0, |[_, dk, _, _]| dk);
    (slot_len(dk) * p.device.threads * 4) as u64
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::GatedDelta(spec) = step.problem.ops[0].op else {
        return Err(step.refuse("not a gated_delta"));
    };
    let Some([key_heads, dk, heads, dv]) = sizes(step.problem) else {
        return Err(step.refuse("q and v must be [T, heads, head_dim]"));
    };
    let len = slot_len(dk) * step.threads();
    let body = GatedDelta {
        qkv: [
            step.activation(0, 0)?,
            step.activation(0, 1)?,
            step.activation(0, 2)?,
        ],
        a: step.activation(0, 3)?,
        b: step.activation(0, 4)?,
        decay: step.vector(0, 5)?,
        dt_bias: step.vector(0, 6)?,
        state: step.state(0, 7)?,
        o: step.output(0)?,
        spec,
        key_heads,
        heads,
        dk,
        dv,
        scratch: step.workspace(len)?,
        meta: step.meta()?,
    };
    step.body(body)
}

static F32: SimdKernel = SimdKernel::new(&Pattern::GATED_DELTA, &["f32"], "columns", 2e-5, record)
    .with_fits(fits)
    .with_workspace(workspace);
registry::register!(F32);
