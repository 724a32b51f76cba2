//! linear / f32, f16, bf16 / rows (cpu_simd)
//! op:        y = x·Wᵀ (+ bias), the weight in the file's own order
//! shapes:    x [R, …=K]; w [N, K]; bias [N]; y [R, …=N]
//! dtypes:    activations f32, sums f32 in 16 lanes along K
//! partition: threads share the rows of w; four rows of x pass each of them
//! source:    written here
//! parity:    5e-5

use crate::common::elem::Elem;
use crate::common::matmul;
use crate::common::plumbing::{Meta, Result, Rows, SimdKernel, Step, real_rows};
use crate::common::simd::{Body, LANES, Simd};
use hal::cpu::{CpuSlice, TaskCtx};
use registry::{Pattern, ROW_MAJOR, RowsFrom};

struct RowMajor {
    x: Rows<f32>,
    weights: CpuSlice<u8>,
    elem: Elem,
    n: usize,
    bias: Option<CpuSlice<f32>>,
    y: Rows<f32>,
    from: RowsFrom,
    meta: Meta,
}

impl Body for RowMajor {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, ctx: &TaskCtx) {
        let rows = real_rows(&self.meta.view(), self.from, self.y.count);
        for n in ctx.share(self.n) {
            let mut row = 0;
            // SAFETY: rows below `rows`; column n is this thread's own.
            unsafe {
                while row + 4 <= rows {
                    self.dots::<S, 4>(s, n, row);
                    row += 4;
                }
                while row < rows {
                    self.dots::<S, 1>(s, n, row);
                    row += 1;
                }
            }
        }
    }
}

impl RowMajor {
    #[inline(always)]
    unsafe fn dots<S: Simd, const M: usize>(&self, s: S, n: usize, row: usize) {
        let (k, bytes) = (self.x.len, self.elem.bytes());
        let mut acc = [s.zero(); M];
        let mut i = 0;
        // SAFETY: k elements in row n of w and in each row of x; y[·, n] and
        // bias[n] exist.
        unsafe {
            while i < k {
                let at = self.weights.as_ptr().add((n * k + i) * bytes);
                let w = self.elem.load_n(s, at, k - i);
                for (m, acc) in acc.iter_mut().enumerate() {
                    let x = s.load_n(self.x.at(row + m).add(i), k - i);
                    *acc = s.fma(x, w, *acc);
                }
                i += LANES;
            }
            let bias = self.bias.map_or(0.0, |b| *b.as_ptr().add(n));
            for (m, acc) in acc.into_iter().enumerate() {
                *self.y.at(row + m).add(n) = s.sum(acc) + bias;
            }
        }
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let (w, _) = step.operand(0, 1)?;
    let elem =
        Elem::of(w.scheme).ok_or_else(|| step.refuse(format!("no codec for {}", w.scheme)))?;
    let (n, k) = (w.shape[0], w.shape[1]);
    let bias = match step.problem.input(0, 2) {
        Some(_) => Some(step.vector(0, 2)?),
        None => None,
    };
    let body = RowMajor {
        x: step.activation(0, 0)?,
        weights: step.matrix(0, 1, (n * k * elem.bytes()) as u64)?,
        elem,
        n,
        bias,
        y: step.output(0)?,
        from: step.rows_of(0),
        meta: step.meta()?,
    };
    step.body(body)
}

const fn kernel(quant: &'static [&'static str]) -> SimdKernel {
    SimdKernel::new(&Pattern::LINEAR, quant, "rows", 5e-5, record)
        .with_layouts(&[ROW_MAJOR])
        .with_fits(matmul::fits)
        .with_rank(0)
}

static F32: SimdKernel = kernel(&["f32"]);
static F16: SimdKernel = kernel(&["f16"]);
static BF16: SimdKernel = kernel(&["bf16"]);
registry::register!(F32, F16, BF16);
