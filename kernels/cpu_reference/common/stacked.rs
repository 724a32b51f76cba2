//! Products with one of several matrices `[N, K]` that are stacked to `[parts·N,
//! K]`: the experts that a row chose, or the matrix of each head.
//!
//! As in [`crate::common::linear`], a block of weight rows is decoded once and
//! meets every activation that uses it, in the order of [`lanes::dot`].

use crate::common::act::Format;
use crate::common::lanes;
use crate::common::plumbing::{Ids, Plain, Result, Rows, Step};
use registry::{Act, Pattern, Problem};

/// Which activations a part meets.
#[derive(Clone, Copy)]
enum Users {
    /// Those whose list of experts names it; `shared`: all k experts of a row take
    /// the same x.
    Chosen { experts: Ids, shared: bool },
    /// Its own slice of every row.
    Own,
}

pub const fn kernel(
    pattern: &'static Pattern,
    quant: &'static [&'static str],
    variant: &'static str,
    act: Act,
    rank: i32,
    record: fn(Step<'_>) -> Result<()>,
) -> Plain {
    let mut plain = Plain::new(pattern, quant, variant, record).with_matrix();
    plain.spec.act = act;
    plain.spec.rank = rank;
    if !matches!(act, Act::F32) {
        plain.workspace = rounded_bytes;
    }
    plain
}

/// Whether each K of x is whole blocks of the activation format.
pub fn whole_blocks<const BLOCK: usize>(problem: &Problem) -> std::result::Result<(), String> {
    match problem.input(0, 1).and_then(|(_, w)| w.shape.get(1)) {
        Some(k) if k.is_multiple_of(BLOCK) => Ok(()),
        k => Err(format!(
            "rows of {} are no whole blocks of {BLOCK} activations",
            k.unwrap_or(&0)
        )),
    }
}

/// Scratch for the activations in their format, as f32.
fn rounded_bytes(problem: &Problem) -> u64 {
    let x = problem.input(0, 0).map(|(_, x)| x.shape.iter().product());
    x.map_or(0, |elements: usize| elements as u64 * 4)
}

/// `x [T, K] or [T, k, K], w [E·N, K], experts [T, k], bias [E·N]? → y [T, k, N]`.
pub fn experts(mut step: Step<'_>, format: Option<Format>) -> Result<()> {
    let chosen = step.ids(2)?;
    let x = step.activation(0)?;
    let k = step.matrix(1)?.k;
    let bias = match step.has_input(3) {
        true => Some(step.vector(3)?),
        false => None,
    };
    let users = Users::Chosen {
        experts: chosen,
        shared: x.len == k,
    };
    record(step, x, users, bias, format)
}

/// `x [T, heads, K], w [heads·N, K] → y [T, heads, N]`.
pub fn heads(mut step: Step<'_>, format: Option<Format>) -> Result<()> {
    let x = step.activation(0)?;
    record(step, x, Users::Own, None, format)
}

fn record(
    mut step: Step<'_>,
    x: Rows,
    users: Users,
    bias: Option<hal::cpu::CpuSlice<f32>>,
    format: Option<Format>,
) -> Result<()> {
    let w = step.matrix(1)?;
    let Some(&n) = step.problem.ops[0].shape.last() else {
        return Err(step.refuse("y has no dimensions"));
    };
    let y = step.output()?;
    let meta = step.meta()?;
    let rounded = match format {
        Some(format) => Some((format.x, step.workspace(x.len)?)),
        None => None,
    };
    step.task(move |ctx| {
        // SAFETY: the step buffer and the inputs are declared reads.
        let rows = unsafe { meta.view() }.rows();
        let x = match rounded {
            None => x,
            Some((round, scratch)) => {
                for r in ctx.share(rows) {
                    // One K at a time: formats with blocks scale each vector.
                    // SAFETY: a declared read; this thread's own rows of the
                    // workspace, a declared write.
                    let (x, out) = unsafe { (x.row(r), scratch.row_mut(r)) };
                    for (x, out) in x.chunks_exact(w.k).zip(out.chunks_exact_mut(w.k)) {
                        round(x, out);
                    }
                }
                ctx.barrier.wait();
                scratch
            }
        };
        // SAFETY: a declared read.
        let bias = bias.map(|b| unsafe { b.get() });
        let mut decoded = vec![0f32; w.k];
        let mut meets: Vec<(usize, usize, usize)> = Vec::new();
        let mut part = usize::MAX;
        for row in ctx.share(w.n) {
            if row / n != part {
                part = row / n;
                meets.clear();
                for t in 0..rows {
                    match users {
                        Users::Own => meets.push((t, part, part)),
                        Users::Chosen { experts, shared } => {
                            // SAFETY: a declared read.
                            let list = unsafe { experts.row(t) };
                            let mine = list.iter().enumerate().filter(|(_, e)| **e == part as u32);
                            meets.extend(mine.map(|(j, _)| (t, if shared { 0 } else { j }, j)));
                        }
                    }
                }
            }
            if meets.is_empty() {
                continue;
            }
            // SAFETY: a declared read.
            unsafe { w.decode(row, &mut decoded) };
            if let Some(format) = format {
                (format.w)(&mut decoded);
            }
            for &(t, from, to) in &meets {
                // SAFETY: rows are read only, rounding ended at the barrier; each
                // thread writes the columns of its own share.
                let (x, y) = unsafe { (x.row(t), y.part_mut(t, to * n + row % n, 1)) };
                let sum = lanes::dot(&x[from * w.k..][..w.k], &decoded);
                y[0] = sum + bias.map_or(0.0, |b| b[row]);
            }
        }
    })
}
