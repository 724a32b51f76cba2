//! rope / f32 / simd (cpu_simd)
//! op:        y[i] = x[i]·cos[i] − x[i+half]·sin[i], y[i+half] = x[i+half]·cos[i] + x[i]·sin[i],
//!            half = rotary_dim/2; elements from rotary_dim on are copied
//! shapes:    x, y [T, heads, head_dim]; table [T, rotary_dim] (cosines, then sines)
//! dtypes:    f32
//! partition: threads share (row, head)
//! source:    arXiv:2104.09864, half-split pairing; written here
//! parity:    1e-6

use crate::common::plumbing::{Meta, Result, Rows, SimdKernel, Step, real_rows};
use crate::common::rope::rope_head;
use crate::common::simd::{Body, Simd};
use graph::Op;
use hal::cpu::TaskCtx;
use registry::{Pattern, RowsFrom};

struct Rope {
    x: Rows<f32>,
    table: Rows<f32>,
    y: Rows<f32>,
    dim: usize,
    rotary: usize,
    from: RowsFrom,
    meta: Meta,
}

impl Body for Rope {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, ctx: &TaskCtx) {
        let rows = real_rows(&self.meta.view(), self.from, self.y.count);
        let heads = self.y.len / self.dim;
        for unit in ctx.share(rows * heads) {
            let (row, at) = (unit / heads, unit % heads * self.dim);
            // SAFETY: a head inside its row; this thread's own output.
            unsafe {
                rope_head(
                    s,
                    self.x.at(row).add(at),
                    self.table.at(row),
                    self.rotary,
                    self.dim,
                    self.y.at(row).add(at),
                );
            }
        }
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::Rope(spec) = step.problem.ops[0].op else {
        return Err(step.refuse("not a rope"));
    };
    let dim = step.problem.outputs[0].shape[2];
    let body = Rope {
        x: step.activation(0, 0)?,
        table: step.activation(0, 1)?,
        y: step.output(0)?,
        dim,
        rotary: spec.rotary_dim,
        from: step.rows_of(0),
        meta: step.meta()?,
    };
    step.body(body)
}

static F32: SimdKernel = SimdKernel::new(&Pattern::ROPE, &["f32"], "simd", 1e-6, record);
registry::register!(F32);
