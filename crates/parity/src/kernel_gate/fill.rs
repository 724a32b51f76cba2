//! Data for the operands of a case.

use super::batch::Batch;
use super::case::Data;
use super::dims::{Dims, Mode};
use super::rng::Rng;
use super::routing;
use super::scaled;
use super::stored::{decode, encode};
use graph::{Op, RouteScore};
use registry::{Act, CacheView, OperandRole, OperandSrc, Problem, Scheme};

/// Ops that read input `n`, with the slot they read it in.
fn readers(problem: &Problem, n: usize) -> impl Iterator<Item = (usize, usize, &Op)> {
    problem.ops.iter().enumerate().flat_map(move |(i, op)| {
        let slots = op.inputs.iter().enumerate();
        slots
            .filter(move |(_, s)| **s == OperandSrc::Input(n))
            .map(move |(slot, _)| (i, slot, &op.op))
    })
}

pub fn fill(
    problem: &Problem,
    n: usize,
    act: Act,
    d: &Dims,
    batch: &Batch,
    rng: &mut Rng,
) -> Result<Data, String> {
    let operand = &problem.inputs[n];
    let reader = readers(problem, n).next().map(|(_, slot, op)| (slot, op));
    let elements: usize = operand.shape.iter().product();
    Ok(match operand.role {
        OperandRole::Activation => {
            let rows = batch.count(operand.rows);
            let len = rows * operand.row_len();
            match reader {
                Some((1, Op::Rope(_))) => {
                    return Ok(Data::Rows(tables(len, operand.row_len(), rng)));
                }
                Some((_, Op::ExpertLinear { experts })) if operand.scheme == Scheme::U32 => {
                    let ids = routing::experts(rows, operand.row_len(), *experts, rng);
                    return Ok(Data::Ids(ids));
                }
                Some((1, Op::ExpSum { .. })) => {
                    return Ok(Data::Ids(heads(rows, operand.row_len(), d.mode)));
                }
                _ if operand.scheme == Scheme::U32 => {
                    return Err(format!("input {n} is u32 and nobody says what it counts"));
                }
                _ => {}
            }
            // The exponent of a large score magnifies its rounding, and f16 has
            // no room for the square of a thousand.
            let exponents = |op: &Op| {
                matches!(
                    op,
                    Op::Attention(_) | Op::LatentAttention { .. } | Op::Route(_)
                )
            };
            let touchy = problem.ops.iter().any(|o| exponents(&o.op))
                || (act == Act::F16 && problem.ops.len() > 1);
            let large = if touchy { 4.0 } else { 1e3 };
            let mut x = rng.normals(len, 1.0);
            match d.mode {
                Mode::Normal => {}
                Mode::Large => x.iter_mut().for_each(|v| *v *= large),
                Mode::Zeros => x.fill(0.0),
                Mode::Coarse => x.iter_mut().for_each(|v| *v = (*v * 2.0).round() / 2.0),
            }
            if let Some((0, Op::ArgMax | Op::TopK { .. })) = reader {
                no_numbers(&mut x, operand.row_len(), d.mode);
            }
            if let Some((0, Op::ExpSum { .. })) = reader {
                x.iter_mut()
                    .step_by(17)
                    .for_each(|v| *v = f32::NEG_INFINITY);
            }
            Data::Rows(x)
        }
        OperandRole::Vector => Data::Vector(match reader {
            Some((1, Op::RmsNorm { .. })) => {
                (0..elements).map(|_| 1.0 + 0.3 * rng.normal()).collect()
            }
            Some((0, Op::RopeTable { .. })) => (0..elements)
                .map(|i| 10_000f32.powf(-(i as f32) / elements as f32))
                .collect(),
            // About as large as the scores.
            Some((2, Op::Attention(_))) => rng.normals(elements, 3.0),
            Some((5, Op::GatedDelta(spec))) => (rng.normals(elements, 0.7).into_iter())
                .map(|v| if spec.log_decay { v } else { -v.exp() })
                .collect(),
            Some((1, Op::Rotate { .. })) => (0..elements)
                .map(|_| (rng.unit() - 0.5) * std::f32::consts::TAU)
                .collect(),
            Some((2, Op::Rotate { group, .. })) => pairs(elements, *group, rng),
            _ => rng.normals(elements, 0.7),
        }),
        OperandRole::Matrix => {
            let scale = match reader {
                Some((_, Op::Embed)) | None => 1.0,
                Some(_) => (operand.shape[1] as f32).sqrt().recip(),
            };
            let unknown = || format!("the gate cannot write weights in {}", operand.scheme);
            let random = rng.normals(elements, scale);
            let bytes = encode(operand.scheme, &random).ok_or_else(unknown)?;
            let values = decode(operand.scheme, &bytes).ok_or_else(unknown)?;
            Data::Matrix { bytes, values }
        }
        OperandRole::State => Data::State,
        OperandRole::Cache => {
            let view = operand.cache.ok_or("a cache without a view")?;
            let appends = |op: &Op| matches!(op, Op::KvAppend | Op::LatentAppend);
            let appended = problem.ops.iter().any(|o| appends(&o.op));
            let cells = cache_cells(&view, appended, parts(problem, n), d, batch, rng);
            let bytes = match scaled::is_scaled(operand.scheme) {
                true => Some(scaled::encode(&view, parts(problem, n), &cells)),
                false => encode(operand.scheme, &cells),
            };
            Data::Cache(
                bytes
                    .ok_or_else(|| format!("the gate cannot write caches in {}", operand.scheme))?,
            )
        }
    })
}

/// Logits that a failed pass would leave: rows of NaN and −∞ alone, and NaN among
/// numbers.
fn no_numbers(x: &mut [f32], len: usize, mode: Mode) {
    for (r, row) in x.chunks_exact_mut(len).enumerate() {
        match (mode, r % 3) {
            (Mode::Zeros, 0) => row.fill(f32::NAN),
            (Mode::Zeros, 1) => row.fill(f32::NEG_INFINITY),
            (Mode::Large, 1) => row[len / 2] = f32::NAN,
            _ => {}
        }
    }
}

/// Pairs whose first has a logit that others are weighed by: one above them, one that
/// some exceed, one below nearly all, and what is no number.
fn heads(rows: usize, len: usize, mode: Mode) -> Vec<u32> {
    let firsts = match mode {
        Mode::Large => [4e3, 150.0, -20.0, f32::NAN],
        _ => [4.5, 0.5, -2.0, f32::INFINITY],
    };
    let row = |r: usize| {
        let first = firsts[r % firsts.len()];
        let pair = move |i: usize| [i as u32, (first - i as f32).to_bits()];
        (0..len / 2).flat_map(pair)
    };
    (0..rows).flat_map(row).collect()
}

/// cos and sin of random angles.
fn tables(len: usize, width: usize, rng: &mut Rng) -> Vec<f32> {
    let mut out = vec![0.0; len];
    for row in out.chunks_exact_mut(width) {
        let (cos, sin) = row.split_at_mut(width / 2);
        for (c, s) in cos.iter_mut().zip(sin) {
            (*s, *c) = (rng.unit() * std::f32::consts::TAU).sin_cos();
        }
    }
    out
}

/// Keys and values (2) or a latent vector (1): what an entry of cache `n` has.
pub fn parts(problem: &Problem, n: usize) -> usize {
    let latent = |op: &Op| matches!(op, Op::LatentAppend | Op::LatentAttention { .. });
    2 - usize::from(readers(problem, n).any(|(_, _, op)| latent(op)))
}

/// The elements of each group, in another order each time, as whole numbers.
fn pairs(elements: usize, group: usize, rng: &mut Rng) -> Vec<f32> {
    let mut order: Vec<f32> = (0..group).map(|i| i as f32).collect();
    let mut out = Vec::with_capacity(elements);
    while out.len() < elements {
        rng.shuffle(&mut order);
        out.extend_from_slice(&order);
    }
    out
}

/// The pool of recurrent states: random where a span starts from, NaN elsewhere.
pub fn state_pool(problem: &Problem, batch: &Batch, rng: &mut Rng) -> Vec<f32> {
    let views = || problem.inputs.iter().filter_map(|o| o.state);
    let elements = views().map(|v| v.slots * v.slot_stride).max().unwrap_or(0);
    let mut pool = vec![f32::NAN; elements];
    for slot in batch.spans.iter().filter_map(|s| s.state_in) {
        for view in views() {
            let state = &mut pool[view.at(slot as usize)..][..view.len];
            state.fill_with(|| rng.normal());
        }
    }
    pool
}

/// Draws the logits of routers such that every row's choice is either clear or a tie
/// of equal numbers.
pub fn settle_routes(
    problem: &Problem,
    inputs: &mut [Data],
    d: &Dims,
    rng: &mut Rng,
) -> Result<(), String> {
    for (i, op) in problem.ops.iter().enumerate() {
        let (Op::Route(spec), Some((n, operand))) = (&op.op, problem.input(i, 0)) else {
            continue;
        };
        let coarse = |v: f32| (v * 2.0).round() / 2.0;
        let mut bias = None;
        if let Some(Data::Vector(b)) = problem.input(i, 1).map(|(n, _)| &mut inputs[n]) {
            if d.mode == Mode::Coarse {
                b.iter_mut().for_each(|v| *v = coarse(*v));
            }
            bias = Some(b.clone());
        }
        let draw = |rng: &mut Rng| match (d.mode, spec.score) {
            (Mode::Large, RouteScore::Softmax) => 8.0 * rng.normal(),
            (Mode::Large, RouteScore::Sigmoid) => 3.0 * rng.normal(),
            (Mode::Coarse, _) => coarse(1.5 * rng.normal()),
            _ => 1.5 * rng.normal(),
        };
        let Data::Rows(x) = &mut inputs[n] else {
            return Err("a router's logits are no rows".into());
        };
        if d.mode != Mode::Zeros {
            x.fill_with(|| draw(rng));
        }
        routing::settle(spec, x, operand.row_len(), bias.as_deref(), rng, draw)?;
    }
    Ok(())
}

/// Random numbers where some row may look, NaN everywhere else: behind the
/// window, in the rows that the step itself appends, in other layers and pages.
fn cache_cells(
    view: &CacheView,
    appended: bool,
    parts: usize,
    d: &Dims,
    batch: &Batch,
    rng: &mut Rng,
) -> Vec<f32> {
    let mut cells = vec![f32::NAN; view.pages * view.page_stride];
    for span in &batch.spans {
        let lo = d.window.map_or(0, |w| (span.first + 1).saturating_sub(w));
        let hi = if appended { span.first } else { span.end() };
        for p in lo..hi {
            let page = span.table[p / view.block];
            for (kv, head) in (0..parts).flat_map(|kv| (0..view.kv_heads).map(move |h| (kv, h))) {
                let at = view.at(page as usize, kv, head, p % view.block);
                for cell in &mut cells[at..at + view.head_dim] {
                    *cell = rng.normal();
                }
            }
        }
    }
    cells
}
