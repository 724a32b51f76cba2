//! rotate / f32 / simd (cpu_simd)
//! op:        x·scales, then in each group `rounds` times group/2 Givens rotations
//! shapes:    x, y [R, …, K]; theta [rounds·K/2]; pairs [rounds·K]; scales [K]
//! dtypes:    f32
//! partition: threads share (group, run of 16 rows): sixteen rows are turned side by
//!            side, so that an angle's sine is taken once for them
//! source:    ParoQuant; written here
//! parity:    1e-5

use crate::common::plumbing::{Meta, Result, Rows, SimdKernel, Step, real_rows};
use crate::common::simd::{Body, LANES, Simd};
use graph::Op;
use hal::cpu::{CpuSlice, TaskCtx};
use registry::{Pattern, Problem, RowsFrom};

struct Rotate {
    x: Rows<f32>,
    theta: CpuSlice<f32>,
    pairs: CpuSlice<f32>,
    scales: CpuSlice<f32>,
    y: Rows<f32>,
    rounds: usize,
    group: usize,
    /// A group of sixteen rows, [element][row], for each thread.
    scratch: CpuSlice<f32>,
    from: RowsFrom,
    meta: Meta,
}

impl Body for Rotate {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, ctx: &TaskCtx) {
        let rows = real_rows(&self.meta.view(), self.from, self.y.count);
        let (width, group) = (self.scales.len(), self.group);
        // Vectors of K: one or more for each row.
        let per_row = self.x.len / width;
        let rows = rows * per_row;
        let place = |r: usize| (r / per_row, r % per_row * width);
        let runs = rows.div_ceil(LANES);
        assert!((ctx.thread + 1) * group * LANES <= self.scratch.len());
        let tile = self
            .scratch
            .as_ptr()
            .wrapping_add(ctx.thread * group * LANES);
        // SAFETY: declared reads.
        let (theta, pairs, scales) =
            unsafe { (self.theta.get(), self.pairs.get(), self.scales.get()) };
        // The loader refuses pairs outside of their group.
        let index = |at: usize| (pairs[at] as usize).min(group - 1) * LANES;
        for unit in ctx.share(width / group * runs) {
            let (g, first) = (unit / runs * group, unit % runs * LANES);
            let count = LANES.min(rows - first);
            // SAFETY: the scratch is this thread's and holds `group` vectors; rows
            // and elements lie in the operands; the output is this thread's own.
            unsafe {
                for d in 0..group {
                    let mut lanes = [0f32; LANES];
                    for (r, lane) in lanes[..count].iter_mut().enumerate() {
                        let (row, at) = place(first + r);
                        *lane = *self.x.at(row).add(at + g + d);
                    }
                    let x = s.load(lanes.as_ptr());
                    s.store(tile.add(d * LANES), s.mul(x, s.splat(scales[g + d])));
                }
                for round in 0..self.rounds {
                    for t in 0..group / 2 {
                        let at = round * width + g + 2 * t;
                        let (a, b) = (tile.add(index(at)), tile.add(index(at + 1)));
                        let (sin, cos) = theta[at / 2].sin_cos();
                        let (sin, cos) = (s.splat(sin), s.splat(cos));
                        let (x, y) = (s.load(a), s.load(b));
                        s.store(a, s.fma(x, cos, s.mul(y, sin)));
                        s.store(b, s.sub(s.mul(y, cos), s.mul(x, sin)));
                    }
                }
                for d in 0..group {
                    let lanes = s.to_array(s.load(tile.add(d * LANES)));
                    for (r, lane) in lanes[..count].iter().enumerate() {
                        let (row, at) = place(first + r);
                        *self.y.at(row).add(at + g + d) = *lane;
                    }
                }
            }
        }
    }
}

fn group_of(p: &Problem) -> usize {
    match p.ops[0].op {
        Op::Rotate { group, .. } => group,
        _ => 0,
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::Rotate { rounds, group } = step.problem.ops[0].op else {
        return Err(step.refuse("not a rotate"));
    };
    let len = group * LANES * step.threads();
    let body = Rotate {
        x: step.activation(0, 0)?,
        theta: step.vector(0, 1)?,
        pairs: step.vector(0, 2)?,
        scales: step.vector(0, 3)?,
        y: step.output(0)?,
        rounds,
        group,
        scratch: step.workspace(len)?,
        from: step.rows_of(0),
        meta: step.meta()?,
    };
    step.body(body)
}

static F32: SimdKernel = SimdKernel::new(&Pattern::ROTATE, &["f32"], "simd", 1e-5, record)
    .with_workspace(|p| (4 * group_of(p) * LANES * p.device.threads) as u64);
registry::register!(F32);
