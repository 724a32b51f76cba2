//! causal_conv / f32 / simd (cpu_simd)
//! op:        y[t, c] = act(Σᵢ w[c, i]·x[t − kernel + 1 + i, c] + bias[c]), what lies
//!            before a span from its state; state' = the last kernel − 1 inputs
//! shapes:    x, y [T, C]; w [C·kernel]; bias [C]?; state [kernel − 1, C] a slot
//! dtypes:    f32
//! partition: threads share runs of 64 channels of a row: each row reads its inputs
//!            anew, so rows do not wait for each other
//! source:    written here
//! parity:    1e-5

use crate::common::math::silu;
use crate::common::parts::{Part, parts};
use crate::common::plumbing::{Meta, Result, Rows, SimdKernel, State, Step, real_rows};
use crate::common::simd::{Body, LANES, Simd};
use graph::{ConvSpec, Op};
use hal::cpu::{CpuSlice, TaskCtx};
use registry::{Pattern, RowsFrom, StepView};

struct CausalConv {
    x: Rows<f32>,
    w: CpuSlice<f32>,
    bias: Option<CpuSlice<f32>>,
    state: State,
    y: Rows<f32>,
    spec: ConvSpec,
    meta: Meta,
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
    /// The part lies inside a real row and is this thread's own.
    #[inline(always)]
    unsafe fn part<S: Simd>(&self, s: S, view: &StepView<'_>, part: Part) {
        let (kernel, channels) = (self.spec.kernel, self.x.len);
        let out = view.state_out(part.row).map(|slot| self.state.at(slot));
        let mut c = part.first;
        let end = part.first + part.len;
        // SAFETY: declared reads; elements c..end of rows of `channels`; taps of
        // those channels.
        unsafe {
            let w = self.w.get();
            while c < end {
                let n = (end - c).min(LANES);
                let mut sum = s.zero();
                for i in 0..kernel {
                    let from = self.input(view, part.row, kernel - 1 - i);
                    if from.is_null() {
                        continue;
                    }
                    let mut taps = [0f32; LANES];
                    for (j, tap) in taps[..n].iter_mut().enumerate() {
                        *tap = w[(c + j) * kernel + i];
                    }
                    let x = s.load_n(from.add(c), n);
                    sum = s.fma(x, s.load(taps.as_ptr()), sum);
                }
                if let Some(bias) = self.bias {
                    sum = s.add(sum, s.load_n(bias.as_ptr().add(c), n));
                }
                if self.spec.silu {
                    sum = silu(s, sum);
                }
                s.store_n(self.y.at(part.row).add(c), sum, n);
                if let Some(out) = out {
                    for i in 0..kernel - 1 {
                        let from = self.input(view, part.row, kernel - 2 - i);
                        let x = match from.is_null() {
                            true => s.zero(),
                            false => s.load_n(from.add(c), n),
                        };
                        s.store_n(out.add(i * channels + c), x, n);
                    }
                }
                c += LANES;
            }
        }
    }
}

impl Body for CausalConv {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, ctx: &TaskCtx) {
        let view = self.meta.view();
        let rows = real_rows(&view, RowsFrom::Batch, self.y.count);
        for part in parts(ctx, rows, self.y.len, 64) {
            // SAFETY: `parts` deals each part of a real row to one thread. The slot
            // that a row writes is nobody's state_in.
            unsafe { self.part(s, &view, part) };
        }
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::CausalConv(spec) = step.problem.ops[0].op else {
        return Err(step.refuse("not a causal_conv"));
    };
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
        meta: step.meta()?,
    };
    step.body(body)
}

static F32: SimdKernel = SimdKernel::new(&Pattern::CAUSAL_CONV, &["f32"], "simd", 1e-5, record);
registry::register!(F32);
