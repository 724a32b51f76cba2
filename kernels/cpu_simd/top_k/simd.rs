//! top_k / f32 / simd (cpu_simd)
//! op:        the k largest of logits[l, v] in order, as ids and bits of f32
//! shapes:    logits [L, V]; top [L, k, 2] u32
//! dtypes:    f32 in, u32 out
//! partition: threads share the rows; nearly everything fails the comparison with the
//!            least that is kept, sixteen at a time
//! source:    written here
//! parity:    exact. NaN is larger than any number, both zeros are +0, and places behind
//!            the last logit hold `u32::MAX` and −∞.

use crate::common::plumbing::{Meta, Result, Rows, SimdKernel, Step, real_rows};
use crate::common::simd::{Body, LANES, Simd};
use hal::cpu::TaskCtx;
use registry::{Pattern, RowsFrom};

struct TopK {
    x: Rows<f32>,
    top: Rows<u32>,
    from: RowsFrom,
    meta: Meta,
}

/// A logit's place in the order, as bits that grow with it.
fn rank(logit: f32) -> u32 {
    let bits = (logit + 0.0).to_bits();
    match (logit.is_nan(), bits >> 31) {
        (true, _) => u32::MAX,
        (_, 0) => bits | 0x8000_0000,
        _ => !bits,
    }
}

/// The bits of the logit of a rank.
fn logit(rank: u32) -> u32 {
    match rank >> 31 {
        1 => rank ^ 0x8000_0000,
        _ => !rank,
    }
}

/// Fills `top`, pairs of id and bits.
fn largest(x: &[f32], top: &mut [[u32; 2]]) {
    let mut kept = 0;
    // What a logit must reach to be kept; NaN reaches everything.
    let mut bar = f32::NEG_INFINITY;
    for (group, members) in x.chunks(LANES).enumerate() {
        let below = |v: f32| v < bar;
        if members.iter().fold(true, |all, v| all & below(*v)) {
            continue;
        }
        for (i, &v) in members.iter().enumerate() {
            let (id, rank) = ((group * LANES + i) as u32, rank(v));
            // Behind equals: they have lower ids.
            let at = top[..kept].partition_point(|p| p[1] >= rank);
            if at == top.len() {
                continue;
            }
            kept = (kept + 1).min(top.len());
            top[at..kept].rotate_right(1);
            top[at] = [id, rank];
            if kept == top.len() {
                bar = f32::from_bits(logit(top[kept - 1][1]));
            }
        }
    }
    top[..kept].iter_mut().for_each(|p| p[1] = logit(p[1]));
    top[kept..].fill([u32::MAX, f32::NEG_INFINITY.to_bits()]);
}

impl Body for TopK {
    #[inline(always)]
    fn run<S: Simd>(&self, _: S, ctx: &TaskCtx) {
        let rows = real_rows(&self.meta.view(), self.from, self.top.count);
        for row in ctx.share(rows) {
            // SAFETY: the row's `len` elements, read only by this step.
            let x = unsafe { std::slice::from_raw_parts(self.x.at(row).cast_const(), self.x.len) };
            // SAFETY: this thread's own output.
            let top = unsafe { std::slice::from_raw_parts_mut(self.top.at(row), self.top.len) };
            largest(x, top.as_chunks_mut::<2>().0);
        }
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let body = TopK {
        x: step.activation(0, 0)?,
        top: step.output(0)?,
        from: step.rows_of(0),
        meta: step.meta()?,
    };
    step.body(body)
}

static F32: SimdKernel = SimdKernel::new(&Pattern::TOP_K, &["f32"], "simd", 1e-7, record);
registry::register!(F32);
