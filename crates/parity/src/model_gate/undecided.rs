//! Positions that rounding alone decides.
//!
//! A router's choice is not continuous: where two experts score the same but for a
//! last bit, sums in another order choose the other one, and the logits of that
//! position jump by what one expert gives. No tolerance is right there. Which
//! positions those are the oracle says itself: played again with noise on its norms
//! that moves its other logits about as much as the candidate's are off, it jumps at
//! the same positions. Where activations are rounded, a last bit turns a rounding, and
//! then what routers read is off by a step of the format in some rows, whatever the
//! others say: the noise is half a step of bf16 or f16 at least. Kernels that are wrong are wrong
//! elsewhere, too.

use super::GateError;
use super::fault::{Fault, break_kernel};
use super::ring3::{Bounds, ORACLE, load_oracle};
use super::script::{Script, Trace};
use crate::stats::{RowStats, Tally, compare_row};
use graph::{Graph, OpKind};
use planner::{ActMap, Program};
use registry::Act;
use runtime::{Opened, Runner};

/// Of a script's positions, and of all, so many may be undecided; one may in any script.
pub const MOST_UNDECIDED: f64 = 0.02;

/// Whether so few positions are undecided.
pub fn few_undecided(count: usize, of: usize) -> bool {
    count as f64 <= (of as f64 * MOST_UNDECIDED).max(1.0)
}

/// Noises, each also with its sign turned.
const NOISES: u32 = 6;

/// Their size, in that of the candidate's: what fell to one side must be seen to fall
/// to the other.
const SIZE: f64 = 2.0;

/// How often an oracle is loaded and plays a script to tell.
pub const PLAYS: u32 = 2 * NOISES + 1;

/// Half a step of the coarsest float format that activations are rounded to, as a share
/// of what is rounded. For int8, whose steps are not of a number's own size, what the
/// candidate is off by has to do.
fn half_step(acts: &ActMap) -> f64 {
    let of = |act: &Act| match act {
        Act::F32 => 0.0,
        Act::F16 => 2f64.powi(-12),
        Act::Bf16 => 2f64.powi(-9),
        Act::Q8_32 | Act::Q8_256 => 0.0,
    };
    acts.values().map(of).fold(0.0, f64::max)
}

/// The noise that the size is found by.
const PROBE: f32 = 1.0 / 4096.0;

/// A position jumps where its KL exceeds this share of the most that is allowed: the
/// mean may not carry many of them.
const JUMP: f64 = 0.1;

/// How much farther than the oracle's own jump a candidate's may go: the choice is
/// the same, what it is added to is nearly so.
const FARTHER: f64 = 4.0;

/// Whether a row jumped.
pub fn jumps(row: &RowStats, bounds: &Bounds) -> bool {
    // Written so that NaN jumps.
    let near = row.kl <= bounds.max_kl * JUMP;
    !near
}

/// Whether a model chooses experts.
pub fn has_routers(graph: &Graph) -> bool {
    graph.nodes().iter().any(|n| n.op.kind() == OpKind::Route)
}

/// Which rows of a comparison with `oracle` jump where the oracle itself does, and
/// about as far: all of them false if the model has no router, or nothing jumped. A
/// row that is not finite is never undecided: rounding makes none.
///
/// # Errors
/// Those of planning and running the oracle.
pub fn undecided(
    opened: &Opened,
    program: &Program,
    oracle: &mut Runner,
    script: &Script,
    rows: &[RowStats],
    bounds: &Bounds,
) -> Result<Vec<bool>, GateError> {
    let mut found = vec![false; rows.len()];
    if !has_routers(&opened.graph) || !rows.iter().any(|r| jumps(r, bounds)) {
        return Ok(found);
    }
    let play = |fault: Fault| -> Result<Trace, GateError> {
        let registry = break_kernel(ORACLE, OpKind::RmsNorm, fault)?;
        let mut oracle = load_oracle(opened, &registry, program, program.acts())?;
        Trace::record(&mut oracle, script)
    };
    let exact = Trace::record(oracle, script)?;
    let moved = |trace: &Trace| -> Vec<RowStats> {
        let rows = (0..rows.len()).map(|i| compare_row(exact.row(i), trace.row(i)));
        rows.collect()
    };
    let probe = moved(&play(Fault::Noise {
        share: PROBE,
        seed: 1,
    })?);
    let ratio = median_delta(rows) / median_delta(&probe).max(f64::MIN_POSITIVE);
    // Beyond these a candidate is wrong, or exact.
    let share = (f64::from(PROBE) * ratio * SIZE).clamp(1e-7, 1e-2);
    let share = share.max(half_step(&program.acts())) as f32;
    for seed in 0..NOISES {
        for share in [share, -share] {
            let seed = 0x9e37_79b9u32.wrapping_mul(seed + 1);
            let noisy = moved(&play(Fault::Noise { share, seed })?);
            let both = rows.iter().zip(&noisy);
            for (found, (row, noisy)) in found.iter_mut().zip(both) {
                // Written so that what is not finite is not found, and excuses nothing.
                let finite = row.kl.is_finite() && noisy.kl.is_finite();
                let near = finite && row.kl <= FARTHER * noisy.kl;
                *found |= jumps(row, bounds) && jumps(noisy, bounds) && near;
            }
        }
    }
    Ok(found)
}

/// The rows that are decided.
pub fn decided(rows: &[RowStats], undecided: &[bool]) -> Tally {
    let mut tally = Tally::default();
    let rows = rows.iter().zip(undecided).filter(|(_, u)| !**u);
    rows.for_each(|(row, _)| tally.push(*row));
    tally
}

/// Of the rows that are finite.
fn median_delta(rows: &[RowStats]) -> f64 {
    let all = rows.iter().map(|r| r.max_abs);
    let mut all: Vec<f64> = all.filter(|d| d.is_finite()).collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(0.0)
}
