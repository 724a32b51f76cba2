//! Ops that make each element of y of the same element of x.

use super::math::softcap;
use super::parts::parts;
use super::plumbing::{Meta, Result, Rows, Step, real_rows};
use super::simd::{Body, LANES, Simd};
use hal::cpu::TaskCtx;
use registry::RowsFrom;

#[derive(Clone, Copy)]
pub enum Map {
    Scale(f32),
    SoftCap(f32),
}

struct Pointwise {
    x: Rows<f32>,
    y: Rows<f32>,
    map: Map,
    from: RowsFrom,
    meta: Meta,
}

impl Body for Pointwise {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, ctx: &TaskCtx) {
        let rows = real_rows(&self.meta.view(), self.from, self.y.count);
        for part in parts(ctx, rows, self.y.len, 256) {
            let mut i = part.first;
            let end = part.first + part.len;
            while i < end {
                // SAFETY: elements of the row; this thread's own output.
                unsafe {
                    let x = s.load_n(self.x.at(part.row).add(i), end - i);
                    let y = match self.map {
                        Map::Scale(factor) => s.mul(x, s.splat(factor)),
                        Map::SoftCap(cap) => softcap(s, x, cap),
                    };
                    s.store_n(self.y.at(part.row).add(i), y, end - i);
                }
                i += LANES;
            }
        }
    }
}

pub fn record(step: &mut Step<'_>, map: Map) -> Result<()> {
    let body = Pointwise {
        x: step.activation(0, 0)?,
        y: step.output(0)?,
        map,
        from: step.rows_of(0),
        meta: step.meta()?,
    };
    step.body(body)
}
