//! rope / f32 / simd (cpu_simd)
//! op:        y[a] = x[a]·cos[i] − x[b]·sin[i], y[b] = x[b]·cos[i] + x[a]·sin[i] for the
//!            pairs (first+i, first+i+rotary_dim/2) or, interleaved, (first+2i, first+2i+1);
//!            other elements are copied
//! shapes:    x, y [T, heads, head_dim]; table [T, rotary_dim] (cosines, then sines)
//! dtypes:    f32
//! partition: threads share (row, head)
//! source:    arXiv:2104.09864, half-split pairing; written here
//! parity:    1e-6

use crate::common::plumbing::{Meta, Result, Rows, SimdKernel, Step, real_rows};
use crate::common::rope::{copy, rope_head, rope_pairs};
use crate::common::simd::{Body, Simd};
use graph::{Op, RopeSpec};
use hal::cpu::TaskCtx;
use registry::{Pattern, RowsFrom};

struct Rope {
    x: Rows<f32>,
    table: Rows<f32>,
    y: Rows<f32>,
    dim: usize,
    spec: RopeSpec,
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
            // SAFETY: a head inside its row; this thread's own output. The rotated
            // elements lie inside the head.
            unsafe {
                let (x, y) = (self.x.at(row).add(at), self.y.at(row).add(at));
                let (first, table) = (self.spec.first, self.table.at(row));
                if self.spec.interleaved {
                    copy(s, x, y, self.dim);
                    rope_pairs(x.add(first), table, self.spec.rotary_dim, y.add(first));
                } else {
                    copy(s, x, y, first);
                    let rest = self.dim - first;
                    let (x, y) = (x.add(first), y.add(first));
                    rope_head(s, x, table, self.spec.rotary_dim, rest, y);
                }
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
        spec,
        from: step.rows_of(0),
        meta: step.meta()?,
    };
    step.body(body)
}

static F32: SimdKernel =
    SimdKernel::new(&Pattern::ROPE, &["f32"], "simd", 1e-6, record).with_every_attribute();
registry::register!(F32);
