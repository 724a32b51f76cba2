//! route / f32 / simd (cpu_simd)
//! op:        the top_k experts of each row by score + bias, best first, ties to the
//!            lowest; weights are their scores, normalised and scaled
//! shapes:    logits [T, E]; bias [E]; weights [T, k]; experts [T, k] u32
//! dtypes:    f32; scores by an exp within 2 ulp
//! partition: threads share the rows
//! source:    arXiv:1701.06538 (gating), arXiv:2412.19437 (groups); written here
//! parity:    1e-5

use crate::common::math::{exp, sigmoid};
use crate::common::plumbing::{Meta, Result, Rows, SimdKernel, Step, real_rows};
use crate::common::simd::{Body, LANES, Simd};
use graph::{Op, RouteGroups, RouteScore, RouteSpec};
use hal::cpu::{CpuSlice, TaskCtx};
use registry::{Pattern, Problem, RowsFrom};

struct Route {
    logits: Rows<f32>,
    bias: Option<CpuSlice<f32>>,
    weights: Rows<f32>,
    experts: Rows<u32>,
    spec: RouteSpec,
    /// Scores and keys of a row for each thread.
    scratch: CpuSlice<f32>,
    meta: Meta,
}

/// Where the largest key lies, the first on ties; NaN only where nothing else is
/// left.
#[inline(always)]
fn best<S: Simd>(s: S, keys: &[f32]) -> usize {
    let (whole, rest) = keys.as_chunks::<LANES>();
    let mut most = s.splat(f32::NEG_INFINITY);
    for some in whole {
        // SAFETY: sixteen elements. A key that is NaN leaves the other as it is.
        most = s.max(unsafe { s.load(some.as_ptr()) }, most);
    }
    let most = rest.iter().fold(s.max_lane(most), |m, x| m.max(*x));
    keys.iter().position(|x| *x == most).unwrap_or(0)
}

/// Puts the keys of all groups but the best out of reach.
fn keep_groups(keys: &mut [f32], groups: RouteGroups) {
    let size = keys.len() / groups.count;
    let mut totals = [f32::NEG_INFINITY; MAX_GROUPS];
    for (total, group) in totals.iter_mut().zip(keys.chunks_exact(size)) {
        let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        for &x in group {
            if x > first {
                (first, second) = (x, first);
            } else if x > second {
                second = x;
            }
        }
        *total = first + second;
    }
    let mut kept = [false; MAX_GROUPS];
    for _ in 0..groups.keep {
        let g = (0..groups.count)
            .filter(|g| !kept[*g])
            .reduce(|a, b| if totals[b] > totals[a] { b } else { a });
        kept[g.unwrap_or(0)] = true;
    }
    for (group, kept) in keys.chunks_exact_mut(size).zip(kept) {
        if !kept {
            group.fill(f32::NEG_INFINITY);
        }
    }
}

/// Most groups of experts.
const MAX_GROUPS: usize = 64;

impl Route {
    /// # Safety
    /// `score` and `to` hold the row's experts, rounded up to whole vectors.
    #[inline(always)]
    unsafe fn scores<S: Simd>(&self, s: S, logits: *const f32, score: *mut f32) {
        let n = self.logits.len;
        // SAFETY: as the caller promises.
        unsafe {
            if self.spec.score == RouteScore::Sigmoid {
                for i in (0..n).step_by(LANES) {
                    let x = s.load_n(logits.add(i), n - i);
                    s.store(score.add(i), sigmoid(s, x));
                }
                return;
            }
            let mut max = f32::NEG_INFINITY;
            for i in 0..n {
                max = max.max(*logits.add(i));
            }
            let mut sum = s.zero();
            for i in (0..n).step_by(LANES) {
                let x = s.load_n(logits.add(i), n - i);
                let e = exp(s, s.sub(x, s.splat(max)));
                // Through memory, so that lanes beyond n count as zero.
                s.store(score.add(i), e);
                sum = s.add(sum, s.load_n(score.add(i), n - i));
            }
            let factor = s.splat(1.0 / s.sum(sum));
            for i in (0..n).step_by(LANES) {
                s.store(score.add(i), s.mul(s.load(score.add(i)), factor));
            }
        }
    }
}

impl Body for Route {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, ctx: &TaskCtx) {
        let rows = real_rows(&self.meta.view(), RowsFrom::Batch, self.logits.count);
        let n = self.logits.len;
        let pad = n.next_multiple_of(LANES);
        assert!((ctx.thread + 1) * 2 * pad <= self.scratch.len());
        let score = self.scratch.as_ptr().wrapping_add(ctx.thread * 2 * pad);
        for row in ctx.share(rows) {
            // SAFETY: the scratch is this thread's; rows of the operands.
            let (score, keys, weights, experts) = unsafe {
                self.scores(s, self.logits.at(row), score);
                let keys = std::slice::from_raw_parts_mut(score.add(pad), n);
                let score = std::slice::from_raw_parts(score.cast_const(), n);
                let weights =
                    std::slice::from_raw_parts_mut(self.weights.at(row), self.weights.len);
                let experts =
                    std::slice::from_raw_parts_mut(self.experts.at(row), self.experts.len);
                (score, keys, weights, experts)
            };
            keys.copy_from_slice(score);
            if let Some(bias) = self.bias {
                // SAFETY: a declared read.
                let bias = unsafe { bias.get() };
                keys.iter_mut().zip(bias).for_each(|(k, b)| *k += b);
            }
            if let Some(groups) = self.spec.groups {
                keep_groups(keys, groups);
            }
            let mut sum = 0.0;
            for (w, e) in weights.iter_mut().zip(experts) {
                let i = best(s, keys);
                keys[i] = f32::NEG_INFINITY;
                (*w, *e) = (score[i], i as u32);
                sum += score[i];
            }
            let factor = match self.spec.normalise {
                true => self.spec.scale / sum,
                false => self.spec.scale,
            };
            weights.iter_mut().for_each(|w| *w *= factor);
        }
    }
}

fn fits(p: &Problem) -> std::result::Result<(), String> {
    match p.ops[0].op {
        Op::Route(RouteSpec {
            groups: Some(groups),
            ..
        }) if groups.count > MAX_GROUPS => {
            Err(format!("up to {MAX_GROUPS} groups, not {}", groups.count))
        }
        _ => Ok(()),
    }
}

fn scratch_len(p: &Problem, threads: usize) -> usize {
    let experts = p.input(0, 0).map_or(0, |(_, o)| o.row_len());
    2 * experts.next_multiple_of(LANES) * threads
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::Route(spec) = step.problem.ops[0].op else {
        return Err(step.refuse("not a route"));
    };
    let len = scratch_len(step.problem, step.threads());
    let body = Route {
        logits: step.activation(0, 0)?,
        bias: match step.has(0, 1) {
            true => Some(step.vector(0, 1)?),
            false => None,
        },
        weights: step.output(0)?,
        experts: step.output(1)?,
        spec,
        scratch: step.workspace(len)?,
        meta: step.meta()?,
    };
    step.body(body)
}

static F32: SimdKernel = SimdKernel::new(&Pattern::ROUTE, &["f32"], "simd", 1e-5, record)
    .with_fits(fits)
    .with_workspace(|p| 4 * scratch_len(p, p.device.threads) as u64);
registry::register!(F32);
