//! Rotating queries and keys and appending to the cache in one pass over the
//! rows, with a norm of each head before where there is one. Keys never reach
//! memory in f32.

use super::append::Appender;
use super::math::Norm;
use super::plumbing::{Fits, Meta, Result, Rows, Step, real_rows};
use super::rope::{norm_rope_head, rope_head};
use super::simd::{Body, Simd};
use graph::{Op, OpKind};
use hal::cpu::TaskCtx;
use registry::{Problem, RowsFrom};

/// Largest head that fits the stack buffer of a key.
const MAX_DIM: usize = 512;

struct RopeAppend {
    q: Rows<f32>,
    k: Rows<f32>,
    v: Rows<f32>,
    table: Rows<f32>,
    norms: Option<[Norm; 2]>,
    q_out: Rows<f32>,
    to: Appender,
    rotary: usize,
    from: RowsFrom,
    meta: Meta,
}

impl Body for RopeAppend {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, ctx: &TaskCtx) {
        let view = self.meta.view();
        let rows = real_rows(&view, self.from, self.q_out.count);
        let dim = self.to.cache.view.head_dim;
        let (kv_heads, q_heads) = (self.to.cache.view.kv_heads, self.q_out.len / dim);
        let units = kv_heads + q_heads;
        let mut key = [0f32; MAX_DIM];
        for unit in ctx.share(rows * units) {
            let (row, head) = (unit / units, unit % units);
            let table = self.table.at(row);
            if head >= kv_heads {
                let at = (head - kv_heads) * dim;
                // SAFETY: a head inside its row; this thread's own output.
                unsafe {
                    let (x, y) = (self.q.at(row).add(at), self.q_out.at(row).add(at));
                    self.rotate(s, 0, x, table, dim, y);
                }
                continue;
            }
            let place = self.to.place(&view, row);
            let place = place.expect("the step buffer gives every row a page");
            // SAFETY: `fits` bounds the head by the buffer; rows have distinct
            // places in the cache.
            unsafe {
                let at = head * dim;
                self.rotate(s, 1, self.k.at(row).add(at), table, dim, key.as_mut_ptr());
                self.to.store(s, place, 0, head, key.as_ptr());
                self.to.store(s, place, 1, head, self.v.at(row).add(at));
            }
        }
    }
}

impl RopeAppend {
    /// # Safety
    /// As [`rope_head`].
    #[inline(always)]
    unsafe fn rotate<S: Simd>(
        &self,
        s: S,
        which: usize,
        x: *const f32,
        table: *const f32,
        dim: usize,
        y: *mut f32,
    ) {
        // SAFETY: as the caller promises; norms have `dim` elements (`fits`).
        unsafe {
            match &self.norms {
                Some(n) => norm_rope_head(s, &n[which], x, table, self.rotary, dim, y),
                None => rope_head(s, x, table, self.rotary, dim, y),
            }
        }
    }
}

/// Index of the first rope: 2 where two norms come before.
fn first_rope(p: &Problem) -> usize {
    p.ops
        .iter()
        .position(|o| o.op.kind() == OpKind::Rope)
        .unwrap_or(0)
}

pub fn fits(p: &Problem) -> Fits {
    let r = first_rope(p);
    let (Op::Rope(a), Op::Rope(b)) = (&p.ops[r].op, &p.ops[r + 1].op) else {
        return Err("two ropes were expected".into());
    };
    if a != b {
        return Err("the ropes differ".into());
    }
    let dim = p.outputs[0].shape[2];
    if dim > MAX_DIM || p.ops[r + 1].shape[2] != dim {
        return Err(format!("heads of {dim}, up to {MAX_DIM} are supported"));
    }
    for i in 0..r {
        if p.input(i, 1).is_none_or(|(_, w)| w.shape != [dim]) {
            return Err("the norms must span heads".into());
        }
    }
    Ok(())
}

pub fn record(step: &mut Step<'_>) -> Result<()> {
    let p = step.problem;
    let r = first_rope(p);
    let norm = |step: &mut Step<'_>, i: usize| match p.ops[i].op {
        Op::RmsNorm { eps, weight_offset } => Ok(Norm {
            weight: step.vector(i, 1)?,
            eps,
            offset: weight_offset,
        }),
        _ => Err(step.refuse("not an rms_norm")),
    };
    let norms = match r {
        2 => Some([norm(step, 0)?, norm(step, 1)?]),
        _ => None,
    };
    let Op::Rope(spec) = p.ops[r].op else {
        return Err(step.refuse("not a rope"));
    };
    let body = RopeAppend {
        q: step.activation(0, 0)?,
        k: step.activation(1, 0)?,
        v: step.activation(r + 2, 1)?,
        table: step.activation(r, 1)?,
        norms,
        q_out: step.output(0)?,
        to: Appender::of(step, r + 2)?,
        rotary: spec.rotary_dim,
        from: step.rows_of(0),
        meta: step.meta()?,
    };
    step.body(body)
}
