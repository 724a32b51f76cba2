//! op: rotate. x·scales, then in each group of `group` elements `rounds` times
//! group/2 Givens rotations: with (i, j) the t-th pair of round r and θ its angle,
//! xᵢ' = xᵢ·cos θ + xⱼ·sin θ, xⱼ' = xⱼ·cos θ − xᵢ·sin θ.
//!
//! x, y f32 [R, …, K], theta f32 [rounds·K/2], pairs f32 [rounds·K] (whole numbers,
//! local to their group: pair t of group g in round r is at r·K + g·group + 2t),
//! scales f32 [K]. Angles in f32. Threads share the rows. The maths: ParoQuant.

use crate::common::plumbing::{Plain, Result, Step};
use graph::Op;
use registry::Pattern;

fn record(mut step: Step<'_>) -> Result<()> {
    let Op::Rotate { rounds, group } = step.problem.ops[0].op else {
        return Err(step.refuse("not a rotate"));
    };
    let from = step.output_rows();
    let x = step.activation(0)?;
    let (theta, pairs, scales) = (step.vector(1)?, step.vector(2)?, step.vector(3)?);
    let y = step.output()?;
    let meta = step.meta()?;
    let width = scales.len();
    step.task(move |ctx| {
        // SAFETY: declared reads.
        let rows = unsafe { meta.view() }.count(from);
        // SAFETY: as above.
        let (theta, pairs, scales) = unsafe { (theta.get(), pairs.get(), scales.get()) };
        // The loader refuses pairs outside of their group.
        let index = |at: usize| (pairs[at] as usize).min(group - 1);
        for r in ctx.share(rows) {
            // SAFETY: a declared read, and this thread's own row of the output.
            let (x, y) = unsafe { (x.row(r), y.row_mut(r)) };
            for ((y, x), s) in y.iter_mut().zip(x).zip(scales.iter().cycle()) {
                *y = x * s;
            }
            for (g, y) in y.chunks_exact_mut(group).enumerate() {
                let g = g % (width / group);
                for round in 0..rounds {
                    for t in 0..group / 2 {
                        let at = round * width + g * group + 2 * t;
                        let (i, j) = (index(at), index(at + 1));
                        let (sin, cos) = theta[at / 2].sin_cos();
                        (y[i], y[j]) = (y[i] * cos + y[j] * sin, y[j] * cos - y[i] * sin);
                    }
                }
            }
        }
    })
}

static F32: Plain = Plain::new(&Pattern::ROTATE, &["f32"], "plain", record);
registry::register!(F32);
