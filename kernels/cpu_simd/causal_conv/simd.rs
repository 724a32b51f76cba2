//! causal_conv / f32 / simd (cpu_simd)
//! op:        y[t, c] = act(Σᵢ w[c, i]·x[t − kernel + 1 + i, c] + bias[c]), what lies
//!            before a span from its state; state' = the last kernel − 1 inputs
//! shapes:    x, y [T, C]; w [C·kernel]; bias [C]?; state [kernel − 1, C] a slot
//! dtypes:    f32
//! partition: threads share runs of channels of a block of rows: each row reads its
//!            inputs anew, so blocks do not wait for each other
//! source:    written here
//! parity:    1e-5

use crate::common::math::silu;
use crate::common::parts::parts;
use crate::common::plumbing::{Meta, Result, Rows, SimdKernel, State, Step, real_rows};
use crate::common::simd::{Body, LANES, Simd};
use graph::{ConvSpec, Op};
use hal::cpu::{CpuSlice, TaskCtx};
use registry::{Pattern, Problem, RowsFrom, StepView};
use std::ops::Range;

struct CausalConv {
    x: Rows<f32>,
    w: CpuSlice<f32>,
    bias: Option<CpuSlice<f32>>,
    state: State,
    y: Rows<f32>,
    spec: ConvSpec,
    /// Taps of a unit for each thread.
    scratch: CpuSlice<f32>,
    meta: Meta,
}

/// Rows and channels of a unit in steps of many rows: taps are put in order once
/// for all rows of it.
const ROWS: usize = 32;
const CHANNELS: usize = 512;
/// Channels of a unit in steps of few rows.
const FEW: usize = 64;

/// f32 of a thread's scratch: the taps of a unit, `[kernel][channels]`.
const fn slot_len(spec: &ConvSpec) -> usize {
    spec.kernel * CHANNELS
}

impl CausalConv {
    /// Where the inputs `back` rows before a row lie; null: zeros.
    #[inline(always)]
    fn input(&self, view: &StepView<'_>, row: usize, back: usize) -> *const f32 {
        let span = view.row_span(row);
        let within = row - view.span_rows(span).start;
        if back <= within {
            return self.x.at(row - back);
        }
        let past = self.spec.kernel - 1;
        match view.state_in(span) {
            // Input −1 is the last of the state.
            Some(slot) => (self.state.at(slot))
                .wrapping_add((past - (back - within)) * self.x.len)
                .cast_const(),
            None => std::ptr::null(),
        }
    }

    /// # Safety
    /// The rows are real; the part's channels of them are this thread's own, as is
    /// `taps`, which holds `slot_len` elements.
    #[inline(always)]
    unsafe fn unit<S: Simd>(
        &self,
        s: S,
        view: &StepView<'_>,
        rows: Range<usize>,
        (first, count): (usize, usize),
        taps: *mut f32,
    ) {
        let kernel = self.spec.kernel;
        let end = first + count;
        // SAFETY: declared reads; channels first..end, of which there are taps;
        // whole vectors of taps fit the scratch.
        unsafe {
            let w = &self.w.get()[first * kernel..end * kernel];
            for (c, w) in w.chunks_exact(kernel).enumerate() {
                for (i, tap) in w.iter().enumerate() {
                    *taps.add(i * CHANNELS + c) = *tap;
                }
            }
            for row in rows {
                let y = self.y.at(row);
                for at in (first..end).step_by(LANES) {
                    s.store_n(y.add(at), s.zero(), end - at);
                }
                for i in 0..kernel {
                    let from = self.input(view, row, kernel - 1 - i);
                    if from.is_null() {
                        continue;
                    }
                    let taps = taps.add(i * CHANNELS);
                    for at in (first..end).step_by(LANES) {
                        let n = end - at;
                        let sum = s.load_n(y.add(at), n);
                        let (x, tap) = (s.load_n(from.add(at), n), s.load(taps.add(at - first)));
                        s.store_n(y.add(at), s.fma(x, tap, sum), n);
                    }
                }
                self.finish(s, view, row, first..end);
            }
        }
    }

    /// Bias, activation and the state that the row keeps.
    ///
    /// # Safety
    /// As [`CausalConv::unit`].
    #[inline(always)]
    unsafe fn finish<S: Simd>(
        &self,
        s: S,
        view: &StepView<'_>,
        row: usize,
        channels: Range<usize>,
    ) {
        let Range { start: first, end } = channels;
        let y = self.y.at(row);
        // SAFETY: as the caller promises.
        unsafe {
            for at in (first..end).step_by(LANES) {
                let n = end - at;
                let mut sum = s.load_n(y.add(at), n);
                if let Some(bias) = self.bias {
                    sum = s.add(sum, s.load_n(bias.as_ptr().add(at), n));
                }
                if self.spec.silu {
                    sum = silu(s, sum);
                }
                s.store_n(y.add(at), sum, n);
            }
            let Some(out) = view.state_out(row).map(|slot| self.state.at(slot)) else {
                return;
            };
            let kernel = self.spec.kernel;
            for i in 0..kernel - 1 {
                let from = self.input(view, row, kernel - 2 - i);
                let out = out.add(i * self.x.len);
                for at in (first..end).step_by(LANES) {
                    let x = match from.is_null() {
                        true => s.zero(),
                        false => s.load_n(from.add(at), end - at),
                    };
                    s.store_n(out.add(at), x, end - at);
                }
            }
        }
    }
}

impl Body for CausalConv {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, ctx: &TaskCtx) {
        let view = self.meta.view();
        let rows = real_rows(&view, RowsFrom::Batch, self.y.count);
        let (block, run) = match rows < ROWS {
            true => (1, FEW),
            false => (ROWS, CHANNELS),
        };
        let (len, slot) = (self.y.len, slot_len(&self.spec));
        assert!((ctx.thread + 1) * slot <= self.scratch.len());
        let taps = self.scratch.as_ptr().wrapping_add(ctx.thread * slot);
        for part in parts(ctx, rows.div_ceil(block), len, run) {
            let first = part.row * block;
            let rows = first..rows.min(first + block);
            // SAFETY: `parts` deals each run of channels of a block of real rows to
            // one thread. The slot that a row writes is nobody's state_in.
            unsafe { self.unit(s, &view, rows, (part.first, part.len), taps) };
        }
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::CausalConv(spec) = step.problem.ops[0].op else {
        return Err(step.refuse("not a causal_conv"));
    };
    let len = slot_len(&spec) * step.threads();
    let body = CausalConv {
        x: step.activation(0, 0)?,
        w: step.vector(0, 1)?,
        state: step.state(0, 2)?,
        bias: match step.has(0, 3) {
            true => Some(step.vector(0, 3)?),
            false => None,
        },
        y: step.output(0)?,
        spec,
        scratch: step.workspace(len)?,
        meta: step.meta()?,
    };
    step.body(body)
}

fn workspace(p: &Problem) -> u64 {
    match &p.ops[0].op {
        Op::CausalConv(spec) => (4 * slot_len(spec) * p.device.threads) as u64,
        _ => 0,
    }
}

static F32: SimdKernel = SimdKernel::new(&Pattern::CAUSAL_CONV, &["f32"], "simd", 1e-5, record)
    .with_workspace(workspace);
registry::register!(F32);
