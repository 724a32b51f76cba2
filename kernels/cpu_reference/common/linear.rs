//! op: linear. y[r, n] = Σₖ act(x[r, k])·w[n, k] (+ bias[n]).
//!
//! x f32 [R, K], w [N, K] in a stored scheme, bias f32 [N], y f32 [R, N].
//! Threads share the N weight rows. A block of them is decoded to f32 once and
//! multiplied with every activation row, so prefill pays for decoding once; each
//! product sum runs in the order of [`lanes::dot`] whatever the number of rows.

use crate::common::act::Format;
use crate::common::lanes;
use crate::common::plumbing::{Plain, Result, Step};
use registry::{Act, Pattern, Problem};

/// Weight rows decoded at a time: with K of a few thousand they stay in cache
/// beside one activation row.
const BLOCK: usize = 8;

/// The kernel of one activation format for one weight scheme.
pub const fn kernel(
    quant: &'static [&'static str],
    variant: &'static str,
    act: Act,
    rank: i32,
    record: fn(Step<'_>) -> Result<()>,
) -> Plain {
    let mut plain = Plain::new(&Pattern::LINEAR, quant, variant, record).with_matrix();
    plain.spec.act = act;
    plain.spec.rank = rank;
    if !matches!(act, Act::F32) {
        plain.workspace = rounded_bytes;
    }
    plain
}

/// Whether rows of x are whole blocks of the activation format.
pub fn whole_blocks<const BLOCK: usize>(problem: &Problem) -> std::result::Result<(), String> {
    match problem.input(0, 0).map(|(_, x)| x.row_len()) {
        Some(k) if k.is_multiple_of(BLOCK) => Ok(()),
        k => Err(format!(
            "rows of {} are no whole blocks of {BLOCK} activations",
            k.unwrap_or(0)
        )),
    }
}

/// Scratch for the activations in their format, as f32.
fn rounded_bytes(problem: &Problem) -> u64 {
    let x = problem.input(0, 0).map(|(_, x)| x.shape.iter().product());
    x.map_or(0, |elements: usize| elements as u64 * 4)
}

/// Records the product of factors in a format; in f32 without one.
pub fn record(mut step: Step<'_>, format: Option<Format>) -> Result<()> {
    let from = step.output_rows();
    let x = step.activation(0)?;
    let w = step.matrix(1)?;
    let bias = match step.has_input(2) {
        true => Some(step.vector(2)?),
        false => None,
    };
    let y = step.output()?;
    let meta = step.meta()?;
    let rounded = match format {
        Some(format) => Some((format.x, step.workspace(x.len)?)),
        None => None,
    };
    step.task(move |ctx| {
        // SAFETY: the step buffer and the inputs are declared reads.
        let rows = unsafe { meta.view() }.count(from);
        let x = match rounded {
            None => x,
            Some((round, scratch)) => {
                for r in ctx.share(rows) {
                    // SAFETY: a declared read; this thread's own rows of the
                    // workspace, a declared write.
                    unsafe { round(x.row(r), scratch.row_mut(r)) };
                }
                ctx.barrier.wait();
                scratch
            }
        };
        // SAFETY: a declared read.
        let bias = bias.map(|b| unsafe { b.get() });
        let mut decoded = vec![0f32; BLOCK * w.k];
        let share = ctx.share(w.n);
        for first in share.clone().step_by(BLOCK) {
            let count = BLOCK.min(share.end - first);
            for (i, row) in decoded.chunks_exact_mut(w.k).take(count).enumerate() {
                // SAFETY: a declared read.
                unsafe { w.decode(first + i, row) };
                if let Some(format) = format {
                    (format.w)(row);
                }
            }
            for r in 0..rows {
                // SAFETY: rows are read only, rounding ended at the barrier; each
                // thread writes the columns of its own share.
                let (x, y) = unsafe { (x.row(r), y.part_mut(r, first, count)) };
                for (i, y) in y.iter_mut().enumerate() {
                    let sum = lanes::dot(x, &decoded[i * w.k..][..w.k]);
                    *y = sum + bias.map_or(0.0, |b| b[first + i]);
                }
            }
        }
    })
}
