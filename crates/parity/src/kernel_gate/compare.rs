//! A kernel's outputs against the oracle's.

use super::case::{Case, Data, Product};
use super::chain::OpValue;
use super::fill::parts;
use super::routing;
use super::scaled;
use super::stored::{decode, rounded};
use graph::{Activation, Op, OpKind};
use registry::{OperandSrc, Problem, Scheme, StateView};

/// Errors below this are no errors, even where the oracle's output is all zeros:
/// what underflows differs between exponentials.
const NOTHING: f64 = 1e-25;

/// Largest error over tolerance, or what is wrong.
pub type Verdict = Result<f64, String>;

/// Compares what a run left, given as the bytes of its real rows, of its cache or of
/// the pool of states.
pub fn product(
    case: &Case,
    problem: &Problem,
    product: Product,
    got: &[u8],
    want: &[Vec<OpValue>],
    tolerance: f32,
) -> Verdict {
    let tolerance = f64::from(tolerance);
    let numbers = || decode(Scheme::F32, got).unwrap_or_default();
    let (op, which, len) = match product {
        Product::Update { op, input } => {
            let operand = &problem.inputs[input];
            return match operand.state {
                Some(view) => states(case, &view, &numbers(), want[op].last(), tolerance),
                None => cache(case, problem, op, got, want, tolerance),
            };
        }
        Product::Rows { op, which, output } => (op, which, problem.outputs[output].row_len()),
    };
    let all = want;
    let value = want[op].get(which);
    let unsure = unsure(case, problem, op, want, tolerance);
    match value.ok_or("the oracle gives fewer outputs")? {
        OpValue::Rows(want) => {
            let mut got = numbers();
            if got.len() != want.len() {
                return Err(format!("{} numbers, not {}", got.len(), want.len()));
            }
            for r in unsure {
                got[r * len..][..len].copy_from_slice(&want[r * len..][..len]);
            }
            let scale = Scale {
                whole: scale(case, problem, op, want, all),
                each: gated(case, problem, op, all),
            };
            rows(&got, want, &scale, tolerance, len)
        }
        OpValue::Ids(want_ids) => {
            let got: Vec<u32> = (got.as_chunks().0.iter())
                .map(|w| u32::from_le_bytes(*w))
                .collect();
            match problem.ops[op].op.kind() {
                OpKind::TopK => pairs(&got, want_ids),
                OpKind::ExpSum => sums(&got, want_ids, tolerance),
                OpKind::Route => experts(case, problem, op, &got, want_ids, &unsure),
                _ => ids(case, problem, op, &got, want_ids, want, tolerance),
            }
        }
        _ => Err("the oracle gave a cache for an activation".into()),
    }
}

pub fn rms(x: &[f32]) -> f64 {
    let sum: f64 = x.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
    (sum / x.len().max(1) as f64).sqrt()
}

/// What errors are measured by: the root mean square of the oracle's output. A
/// handful of sums may all come out near zero by chance, so those of products are
/// measured at least by a quarter of what such sums come to on average.
fn scale(case: &Case, problem: &Problem, op: usize, want: &[f32], all: &[Vec<OpValue>]) -> f64 {
    let plain = rms(want);
    let size = |slot: usize| match case.data(op, slot) {
        Some(Data::Rows(x) | Data::Vector(x)) => Some(rms(x)),
        Some(Data::Matrix { values, .. }) => Some(rms(values)),
        // What an earlier op of the pattern gave.
        None => match problem.ops[op].inputs.get(slot)? {
            OperandSrc::Op(j) => all[*j].first().map(|x| rms(x.rows())),
            OperandSrc::Input(_) => None,
        },
        _ => None,
    };
    let shape = |slot: usize| problem.input(op, slot).map(|(_, o)| o.shape.as_slice());
    let terms = match &problem.ops[op].op {
        op if op.kind().multiplies() => shape(1).and_then(<[_]>::last).copied(),
        Op::ExpertSum => shape(0).map(|s| s[1]),
        Op::CausalConv(spec) if !spec.silu => Some(spec.kernel),
        _ => None,
    };
    match (terms, size(0), size(1)) {
        (Some(terms), Some(x), Some(w)) if want.len() < 64 => {
            plain.max(0.25 * x * w * (terms as f64).sqrt())
        }
        _ => plain,
    }
}

/// What errors are measured by.
#[derive(Default)]
struct Scale {
    whole: f64,
    /// Of each element, where that is known and larger.
    each: Vec<f64>,
}

impl Scale {
    fn at(&self, i: usize) -> f64 {
        self.each.get(i).map_or(self.whole, |x| self.whole.max(*x))
    }
}

/// A product of two computed factors, each within the tolerance of its own [`scale`],
/// is off by what either error makes of the other factor. Where one factor is many
/// times its mean, so is that.
fn gated(case: &Case, problem: &Problem, op: usize, all: &[Vec<OpValue>]) -> Vec<f64> {
    let planned = &problem.ops[op];
    let (Op::GatedMul(activation), [OperandSrc::Op(g), OperandSrc::Op(u), ..]) =
        (&planned.op, planned.inputs.as_slice())
    else {
        return Vec::new();
    };
    let factor = |j: usize| all[j].first().map_or(&[][..], OpValue::rows);
    let (gate, up) = (factor(*g), factor(*u));
    let of = |j: usize, factor| scale(case, problem, j, factor, all);
    let (of_gate, of_up) = (of(*g, gate), of(*u, up));
    let each = gate.iter().zip(up).map(|(g, u)| {
        let (g, u) = (f64::from(*g), f64::from(*u));
        // What the gate's error is multiplied by, and what up's: the other factor,
        // and how steep the activation is.
        let (value, slope) = activated(*activation, g);
        let (by_gate, by_up) = match activation {
            // Clipped factors have no error.
            Activation::SwigluOai if u.abs() >= CLIP => (0.0, u.signum() * CLIP + 1.0),
            Activation::SwigluOai => (value, u + 1.0),
            _ => (value, u),
        };
        (slope * by_up).abs() * of_gate + by_gate.abs() * of_up
    });
    each.collect()
}

/// Where gpt-oss clips gate and up.
const CLIP: f64 = 7.0;

/// An activation's value, and its slope as far as two neighbours tell.
fn activated(activation: Activation, x: f64) -> (f64, f64) {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let tanh_form = |x: f64| {
        let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
        0.5 * x * (1.0 + inner.tanh())
    };
    let value = |x: f64| match activation {
        Activation::Silu => x * sigmoid(x),
        // The two forms are within 1e-3 of each other, which a scale may be off by.
        Activation::Gelu | Activation::GeluTanh => tanh_form(x),
        Activation::Sigmoid => sigmoid(x),
        Activation::Identity => x,
        Activation::SwigluOai => x.min(CLIP) * sigmoid(1.702 * x.min(CLIP)),
    };
    const NEAR: f64 = 1e-4;
    (value(x), (value(x + NEAR) - value(x - NEAR)) / (2.0 * NEAR))
}

/// Rows whose experts another rounding of computed logits could change: neither they
/// nor their weights can be compared.
fn unsure(
    case: &Case,
    problem: &Problem,
    op: usize,
    want: &[Vec<OpValue>],
    tolerance: f64,
) -> Vec<usize> {
    let (Op::Route(spec), OperandSrc::Op(j)) = (&problem.ops[op].op, problem.ops[op].inputs[0])
    else {
        return Vec::new();
    };
    let logits = want[j][0].rows();
    let bias = match case.data(op, 1) {
        Some(Data::Vector(bias)) => Some(bias.as_slice()),
        _ => None,
    };
    let experts = problem.ops[j].shape.last().copied().unwrap_or(1);
    let slack = 4.0 * tolerance * rms(logits);
    let rows = logits.chunks_exact(experts).enumerate();
    rows.filter(|(_, row)| !routing::settled(spec, row, bias, slack, false))
        .map(|(r, _)| r)
        .collect()
}

/// Experts must be the oracle's, those of unsure rows any.
fn experts(
    case: &Case,
    problem: &Problem,
    op: usize,
    got: &[u32],
    want: &[u32],
    unsure: &[usize],
) -> Verdict {
    let top_k = problem.ops[op].shape.last().copied().unwrap_or(1);
    let pairs = got.chunks_exact(top_k).zip(want.chunks_exact(top_k));
    for (r, (g, w)) in pairs.enumerate() {
        if g != w && !unsure.contains(&r) {
            let of = case.batch.rows();
            return Err(format!(
                "row {r} of {of}: experts {g:?}, the oracle has {w:?}"
            ));
        }
    }
    Ok(0.0)
}

/// The states that the batch keeps must be the oracle's; the rest of the pool is
/// guarded byte by byte. What goes through a spare slot between two steps is seen
/// in what comes after. Decays multiply, and so does their rounding: an element many
/// times the mean is measured by its own size.
fn states(
    case: &Case,
    view: &StateView,
    got: &[f32],
    want: Option<&OpValue>,
    tolerance: f64,
) -> Verdict {
    let Some(OpValue::States(want)) = want else {
        return Err("the oracle gave no states".into());
    };
    let at = |pool: &[f32], slot: u32| pool[view.at(slot as usize)..][..view.len].to_vec();
    let kept = case.batch.kept().into_iter().enumerate();
    let kept: Vec<(usize, u32)> = kept
        .filter_map(|(r, slot)| Some((r, slot?)))
        .filter(|(_, slot)| !case.batch.spare.contains(slot))
        .collect();
    let all: Vec<f32> = kept.iter().flat_map(|(_, slot)| at(want, *slot)).collect();
    let whole = rms(&all);
    let mut worst: f64 = 0.0;
    for (r, slot) in kept {
        let want = at(want, slot);
        let scale = Scale {
            whole,
            each: want.iter().map(|x| f64::from(x.abs())).collect(),
        };
        let verdict = rows(&at(got, slot), &want, &scale, tolerance, view.len);
        let what = |e| format!("state behind row {r}, in slot {slot}: {e}");
        worst = worst.max(verdict.map_err(what)?);
    }
    Ok(worst)
}

fn rows(got: &[f32], want: &[f32], scale: &Scale, tolerance: f64, len: usize) -> Verdict {
    let mut worst = (0.0, 0);
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        if !w.is_finite() {
            return Err(format!(
                "the oracle gives {w} at element {i}: not a fair case"
            ));
        }
        let ratio = match (f64::from(*g) - f64::from(*w)).abs() {
            0.0 => 0.0,
            error if error.is_nan() => f64::INFINITY,
            error => error / (tolerance * scale.at(i)).max(NOTHING),
        };
        if ratio > worst.0 {
            worst = (ratio, i);
        }
    }
    let (ratio, at) = worst;
    if ratio > 1.0 {
        let len = len.max(1);
        return Err(format!(
            "element {} of row {} is {}, the oracle has {}: {:.1e} of {:.3e}, tolerance {:.1e}",
            at % len,
            at / len,
            got[at],
            want[at],
            ratio * tolerance,
            scale.at(at),
            tolerance
        ));
    }
    Ok(ratio)
}

/// Ids and logits must be the oracle's, bit by bit.
fn pairs(got: &[u32], want: &[u32]) -> Verdict {
    let (got, want) = (got.as_chunks::<2>().0, want.as_chunks::<2>().0);
    match (0..want.len()).find(|i| got.get(*i) != Some(&want[*i])) {
        None => Ok(0.0),
        Some(i) => {
            let show = |p: Option<&[u32; 2]>| p.map(|p| (p[0], f32::from_bits(p[1])));
            let (got, want) = (show(got.get(i)), show(Some(&want[i])));
            Err(format!("place {i}: {got:?}, the oracle has {want:?}"))
        }
    }
}

/// Sums must be the oracle's but for a share of the tolerance: kernels whose tolerance is
/// below 2⁻⁶⁴ are held to every bit.
fn sums(got: &[u32], want: &[u32], tolerance: f64) -> Verdict {
    let sum = |words: &[u32; 2]| u64::from(words[1]) << 32 | u64::from(words[0]);
    let (got, want) = (got.as_chunks::<2>().0, want.as_chunks::<2>().0);
    if got.len() != want.len() {
        return Err(format!("{} sums, not {}", got.len(), want.len()));
    }
    let mut worst = 0.0;
    for (part, (got, want)) in got.iter().map(sum).zip(want.iter().map(sum)).enumerate() {
        let off = got.abs_diff(want) as f64;
        let ratio = if off == 0.0 {
            0.0
        } else {
            off / (want as f64 * tolerance)
        };
        if ratio > 1.0 {
            return Err(format!("part {part} sums to {got}, the oracle's to {want}"));
        }
        worst = f64::max(worst, ratio);
    }
    Ok(worst)
}

/// Ids must be the oracle's; where the logits were computed on the way, an id
/// whose logit is within twice the tolerance of the largest will do.
fn ids(
    case: &Case,
    problem: &Problem,
    op: usize,
    got: &[u32],
    want: &[u32],
    values: &[Vec<OpValue>],
    tolerance: f64,
) -> Verdict {
    let computed = match problem.ops[op].inputs[0] {
        OperandSrc::Op(j) => Some(values[j][0].rows()),
        OperandSrc::Input(_) => None,
    };
    for (r, (g, w)) in got.iter().zip(want).enumerate() {
        if g == w {
            continue;
        }
        let near = computed.is_some_and(|logits| {
            let vocab = logits.len() / want.len().max(1);
            let row = &logits[r * vocab..][..vocab];
            row.get(*g as usize)
                .is_some_and(|l| f64::from(row[*w as usize] - l) <= 2.0 * tolerance * rms(logits))
        });
        if !near {
            let of = case.batch.rows();
            return Err(format!("row {r} of {of}: id {g}, the oracle has {w}"));
        }
    }
    Ok(0.0)
}

/// The batch's cells must be what the oracle's keys and values, give or take the
/// tolerance, round to. Everything else in the cache is guarded byte by byte.
fn cache(
    case: &Case,
    problem: &Problem,
    op: usize,
    got: &[u8],
    want: &[Vec<OpValue>],
    tolerance: f64,
) -> Verdict {
    let (n, operand) = problem.input(op, 2).ok_or("no external cache")?;
    let view = operand.cache.ok_or("no cache view")?;
    let scaled = scaled::is_scaled(operand.scheme);
    let values = match scaled {
        true => Vec::new(),
        false => decode(operand.scheme, got).ok_or("a scheme that cannot be read")?,
    };
    let mut worst: f64 = 0.0;
    // A latent vector is c and k, one behind the other.
    let latent = parts(problem, n) == 1;
    let mut within = 0;
    for slot in 0..2 {
        let source = problem.ops[op].inputs[slot];
        let exact = match source {
            OperandSrc::Op(j) => want[j][0].rows(),
            OperandSrc::Input(n) => match &case.inputs[n] {
                Data::Rows(x) => x,
                _ => return Err("keys that are no activation".into()),
            },
        };
        let slack = match source {
            OperandSrc::Op(_) => tolerance * rms(exact),
            OperandSrc::Input(_) => 0.0,
        };
        let len = match source {
            OperandSrc::Op(j) => problem.ops[j].shape.iter().skip(1).product(),
            OperandSrc::Input(n) => problem.inputs[n].row_len(),
        };
        let (kv, head_dim) = match latent {
            true => (0, len),
            false => (slot, view.head_dim),
        };
        let places = case.batch.places().into_iter().zip(exact.chunks_exact(len));
        for (row, ((span, position), x)) in places.enumerate() {
            let page = case.page(&view, span, position);
            for (head, x) in x.chunks_exact(head_dim).enumerate() {
                let token = position % view.block;
                if scaled {
                    let place = ((page, kv), head, token);
                    scaled::check(&view, got, place, x, slack).map_err(|why| {
                        let what = ["key", "value"][slot];
                        format!("{what} of row {row} (position {position}), head {head} {why}")
                    })?;
                    continue;
                }
                let at = view.at(page, kv, head, token) + within;
                for (d, (x, g)) in x.iter().zip(&values[at..]).enumerate() {
                    let x = f64::from(*x);
                    let lo = rounded(operand.scheme, (x - slack) as f32);
                    let hi = rounded(operand.scheme, (x + slack) as f32);
                    if !(lo <= *g && *g <= hi) {
                        let what = match latent {
                            true => ["latent vector", "rotated key"][slot],
                            false => ["key", "value"][slot],
                        };
                        return Err(format!(
                            "{what} of row {row} (position {position}), head {head}, element {d} is {g}, the oracle stores {lo} to {hi}"
                        ));
                    }
                    // Only unrounded caches show how much of the slack was used.
                    if slack > 0.0 && operand.scheme == Scheme::F32 {
                        worst = worst.max((f64::from(*g) - x).abs() / slack);
                    }
                }
            }
        }
        within += if latent { len } else { 0 };
    }
    Ok(worst)
}

/// The oracle's values of some rows of a batch of `of` rows.
pub fn of_rows(want: &[Vec<OpValue>], rows: &[usize], of: usize) -> Vec<Vec<OpValue>> {
    fn take<T: Copy>(x: &[T], rows: &[usize], of: usize) -> Vec<T> {
        let len = x.len() / of.max(1);
        let rows = rows.iter().flat_map(|r| &x[r * len..][..len]);
        rows.copied().collect()
    }
    let some = |value: &OpValue| match value {
        OpValue::Rows(x) => OpValue::Rows(take(x, rows, of)),
        OpValue::Ids(x) => OpValue::Ids(take(x, rows, of)),
        whole => whole.clone(),
    };
    let ops = want.iter();
    ops.map(|outputs| outputs.iter().map(some).collect())
        .collect()
}
