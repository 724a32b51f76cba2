//! Every primitive once more: naive, in f64, sharing nothing with the oracle but the
//! cases.

use graph::{Activation, DeltaSpec, Op, RouteScore, RouteSpec};
use half::{bf16, f16};
use parity::kernel_gate::{Case, Data, GateError, OpValue, Oracle};
use registry::{Act, CacheView, OperandSrc, Scheme};

mod logits;

pub struct Naive;

fn rows(case: &Case, i: usize) -> Vec<f64> {
    match case.data(0, i) {
        Some(Data::Rows(x) | Data::Vector(x)) => x.iter().map(|v| f64::from(*v)).collect(),
        Some(Data::Matrix { values, .. }) => values.iter().map(|v| f64::from(*v)).collect(),
        _ => panic!("input {i} holds no numbers"),
    }
}

fn width(case: &Case, i: usize) -> usize {
    let (_, operand) = case.problem.input(0, i).expect("an input");
    *operand.shape.last().expect("a dimension")
}

fn row_len(case: &Case, i: usize) -> usize {
    case.problem.input(0, i).expect("an input").1.row_len()
}

/// Weights beside activations in a format: units that multiply bf16 take nothing
/// finer.
fn as_weights(act: Act, w: &[f64]) -> Vec<f64> {
    match act {
        Act::Bf16 => as_act(act, w),
        _ => w.to_vec(),
    }
}

/// A row in an activation format.
fn as_act(act: Act, x: &[f64]) -> Vec<f64> {
    let each = |f: fn(f64) -> f64| x.iter().map(|v| f(*v)).collect();
    match act {
        Act::F32 => x.to_vec(),
        Act::Bf16 => each(|v| bf16::from_f32(v as f32).to_f64()),
        Act::F16 => each(|v| f16::from_f32(v as f32).to_f64()),
        Act::Q8_32 => x.chunks(32).flat_map(as_int8).collect(),
        Act::Q8_256 => x.chunks(256).flat_map(as_int8).collect(),
    }
}

/// Whole multiples of a scale that is an f32 by definition, as is its inverse.
fn as_int8(x: &[f64]) -> Vec<f64> {
    let largest = x.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    let scale = largest as f32 / 127.0;
    if scale < f32::MIN_POSITIVE {
        return vec![0.0; x.len()];
    }
    let number = |v: &f64| (*v as f32 * (1.0 / scale)).round_ties_even();
    x.iter()
        .map(|v| f64::from(number(v)) * f64::from(scale))
        .collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The numbers of a cache.
fn cells(bytes: &[u8], scheme: Scheme) -> Vec<f64> {
    let halves = || bytes.as_chunks().0.iter().map(|h| u16::from_le_bytes(*h));
    match scheme.0 {
        "f32" => {
            let words = bytes.as_chunks().0.iter();
            words.map(|w| f64::from(f32::from_le_bytes(*w))).collect()
        }
        "f16" => halves().map(|h| f16::from_bits(h).to_f64()).collect(),
        "bf16" => halves().map(|h| bf16::from_bits(h).to_f64()).collect(),
        other => panic!("no such scheme: {other}"),
    }
}

/// The numbers of a cache whose heads have scales, where its elements lie: those of
/// each token's head times the f16 behind the elements of all heads.
fn scaled_cells(bytes: &[u8], view: &CacheView) -> Vec<f64> {
    let mut out = vec![f64::NAN; bytes.len()];
    let codes = (view.kv_heads * view.block * view.head_dim).next_multiple_of(16);
    for (page, kv) in (0..view.pages).flat_map(|page| [(page, 0), (page, 1)]) {
        let plane = page * view.page_stride + view.offset + kv * view.kv_stride;
        for (head, token) in (0..view.kv_heads).flat_map(|h| (0..view.block).map(move |t| (h, t))) {
            let at = plane + codes + 2 * (head * view.block + token);
            let scale = f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f64();
            let first = plane + head * view.head_stride + token * view.token_stride;
            for i in first..first + view.head_dim {
                out[i] = scale * f64::from(bytes[i] as i8);
            }
        }
    }
    out
}

/// Σ softmax(scores)·values, where `extra` is a score without a value.
fn mix(
    scores: &[f64],
    extra: Option<f64>,
    values: impl Fn(usize, usize) -> f64,
    dim: usize,
) -> Vec<f64> {
    let all = scores.iter().copied().chain(extra);
    let max = all.clone().fold(f64::MIN, f64::max);
    let sum: f64 = all.map(|s| (s - max).exp()).sum();
    let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp() / sum).collect();
    let of = |d: usize| {
        weights
            .iter()
            .enumerate()
            .map(|(p, w)| w * values(p, d))
            .sum()
    };
    (0..dim).map(of).collect()
}

/// The numbers of a cache, and where they lie.
fn cache(case: &Case, i: usize) -> (Vec<f64>, CacheView) {
    let (_, operand) = case.problem.input(0, i).expect("a cache");
    let Some(Data::Cache(bytes)) = case.data(0, i) else {
        panic!("input {i} is no cache");
    };
    let view = operand.cache.expect("a view");
    let cells = match operand.scheme {
        Scheme::INT8_KV => scaled_cells(bytes, &view),
        scheme => cells(bytes, scheme),
    };
    (cells, view)
}

fn attention(case: &Case, spec: &graph::AttentionSpec) -> Vec<f64> {
    let (cells, view) = cache(case, 1);
    let sinks = case.data(0, 2).map(|_| rows(case, 2));
    let dim = view.head_dim;
    let (q, len) = (rows(case, 0), row_len(case, 0));
    let group = len / dim / view.kv_heads;
    let mut out = Vec::new();
    for (r, (span, position)) in case.batch.places().into_iter().enumerate() {
        for h in 0..len / dim {
            let q = &as_act(case.act, &q[r * len + h * dim..][..dim]);
            let visible: Vec<usize> = (0..=position)
                .filter(|p| spec.window.is_none_or(|w| p + w > position))
                .collect();
            let at = |p: usize, kv: usize| {
                let page = case.page(&view, span, p);
                view.at(page, kv, h / group, p % view.block)
            };
            let score = |p: &usize| {
                let score = dot(q, &cells[at(*p, 0)..]) * f64::from(spec.scale);
                let cap = spec.softcap.map(f64::from);
                cap.map_or(score, |cap| cap * (score / cap).tanh())
            };
            let scores: Vec<f64> = visible.iter().map(score).collect();
            let sink = sinks.as_ref().map(|s| s[h]);
            let value = |i: usize, d: usize| cells[at(visible[i], 1) + d];
            out.extend(mix(&scores, sink, value, dim));
        }
    }
    out
}

fn latent_attention(case: &Case, scale: f32) -> Vec<f64> {
    let (cells, view) = cache(case, 2);
    let (q, q_rope) = (rows(case, 0), rows(case, 1));
    let (latent, rope) = (width(case, 0), width(case, 1));
    let heads = row_len(case, 0) / latent;
    let mut out = Vec::new();
    for (r, (span, position)) in case.batch.places().into_iter().enumerate() {
        for i in r * heads..(r + 1) * heads {
            let entry = |p: usize| {
                let page = case.page(&view, span, p);
                &cells[view.at(page, 0, 0, p % view.block)..][..latent + rope]
            };
            let query = [&q[i * latent..][..latent], &q_rope[i * rope..][..rope]].concat();
            let score = |p: usize| f64::from(scale) * dot(&query, entry(p));
            let scores: Vec<f64> = (0..=position).map(score).collect();
            out.extend(mix(&scores, None, |p, d| entry(p)[d], latent));
        }
    }
    out
}

fn activate(act: Activation, g: f64, u: f64) -> f64 {
    match act {
        Activation::Silu => g * sigmoid(g) * u,
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (g + 0.044715 * g.powi(3));
            0.5 * g * (1.0 + inner.tanh()) * u
        }
        Activation::Gelu => 0.5 * g * (1.0 + erf(g / std::f64::consts::SQRT_2)) * u,
        Activation::Sigmoid => sigmoid(g) * u,
        Activation::Identity => g * u,
        Activation::SwigluOai => {
            let g = g.min(7.0);
            g * sigmoid(1.702 * g) * (u.clamp(-7.0, 7.0) + 1.0)
        }
    }
}

/// By its Maclaurin series, which is exact enough where erf is not yet ±1.
fn erf(x: f64) -> f64 {
    if x.abs() > 4.5 {
        return x.signum();
    }
    let (mut power, mut sum) = (x, x);
    for n in 1..120 {
        power *= -x * x / f64::from(n);
        sum += power / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

/// Weights and experts of every row.
fn route(case: &Case, spec: &RouteSpec) -> (Vec<f64>, Vec<u32>) {
    let count = width(case, 0);
    let bias = case.data(0, 1).map(|_| rows(case, 1));
    let (mut weights, mut experts) = (Vec::new(), Vec::new());
    for logits in rows(case, 0).chunks(count) {
        let scores: Vec<f64> = match spec.score {
            RouteScore::Sigmoid => logits.iter().map(|l| sigmoid(*l)).collect(),
            RouteScore::Softmax => {
                let max = logits.iter().copied().fold(f64::MIN, f64::max);
                let sum: f64 = logits.iter().map(|l| (l - max).exp()).sum();
                logits.iter().map(|l| (l - max).exp() / sum).collect()
            }
        };
        let key = |e: usize| scores[e] + bias.as_ref().map_or(0.0, |b| b[e]);
        // The number of others that come before: those that are larger, and the
        // earlier ones among equals.
        let place = |keys: &[f64], i: usize| {
            let before = |j: &usize| keys[*j] > keys[i] || (keys[*j] == keys[i] && *j < i);
            (0..keys.len()).filter(before).count()
        };
        let mut keys: Vec<f64> = (0..count).map(key).collect();
        if let Some(groups) = spec.groups {
            let size = count / groups.count;
            let total = |group: &[f64]| {
                let two = (0..size).filter(|i| place(group, *i) < 2);
                two.map(|i| group[i]).sum::<f64>()
            };
            let totals: Vec<f64> = keys.chunks(size).map(total).collect();
            for g in (0..groups.count).filter(|g| place(&totals, *g) >= groups.keep) {
                keys[g * size..][..size].fill(f64::NEG_INFINITY);
            }
        }
        let mut chosen: Vec<usize> = (0..count)
            .filter(|e| place(&keys, *e) < spec.top_k)
            .collect();
        chosen.sort_by_key(|e| place(&keys, *e));
        let sum: f64 = chosen.iter().map(|e| scores[*e]).sum();
        let share = if spec.normalise { sum } else { 1.0 };
        weights.extend(
            chosen
                .iter()
                .map(|e| scores[*e] / share * f64::from(spec.scale)),
        );
        experts.extend(chosen.iter().map(|e| *e as u32));
    }
    (weights, experts)
}

/// `matrices` rows that lie one behind the other: `x` times rows `part·n..`.
fn times(case: &Case, x: &[f64], w: &[f64], part: usize, n: usize) -> Vec<f64> {
    let x = as_act(case.act, x);
    let rows = w.chunks(x.len()).skip(part * n).take(n);
    rows.map(|w| dot(&x, &as_weights(case.act, w))).collect()
}

fn expert_linear(case: &Case, experts: usize) -> Vec<f64> {
    let (x, w, k) = (rows(case, 0), rows(case, 1), width(case, 1));
    let Some(Data::Ids(chosen)) = case.data(0, 2) else {
        panic!("no experts");
    };
    let (n, each) = (w.len() / k / experts, width(case, 2));
    let vectors = row_len(case, 0) / k;
    let bias = case.data(0, 3).map(|_| rows(case, 3));
    let mut out = Vec::new();
    for (i, e) in chosen.iter().enumerate() {
        let (row, e) = (i / each, *e as usize);
        let vector = row * vectors + if vectors > 1 { i % each } else { 0 };
        let mut y = times(case, &x[vector * k..][..k], &w, e, n);
        if let Some(bias) = &bias {
            y.iter_mut().zip(&bias[e * n..]).for_each(|(y, b)| *y += b);
        }
        out.extend(y);
    }
    out
}

/// The pool of states after a step, and what `update` gives: from the state before a
/// span it makes a row at a time.
fn recur(
    case: &Case,
    i: usize,
    mut update: impl FnMut(usize, &mut Vec<f64>) -> Vec<f64>,
) -> Vec<OpValue> {
    let (_, operand) = case.problem.input(0, i).expect("a state");
    let view = operand.state.expect("a view");
    let mut pool = case.states.clone();
    let (mut out, mut row) = (Vec::new(), 0);
    for span in &case.batch.spans {
        let mut state: Vec<f64> = match span.state_in {
            Some(slot) => {
                let state = case.state(&view, slot);
                state.iter().map(|v| f64::from(*v)).collect()
            }
            None => vec![0.0; view.len],
        };
        for kept in &span.kept {
            out.extend(update(row, &mut state));
            row += 1;
            if let Some(slot) = kept {
                let to = &mut pool[view.at(*slot as usize)..][..view.len];
                to.iter_mut()
                    .zip(&state)
                    .for_each(|(to, v)| *to = *v as f32);
            }
        }
    }
    vec![as_rows(out), OpValue::States(pool)]
}

fn causal_conv(case: &Case, spec: &graph::ConvSpec) -> Vec<OpValue> {
    let (x, w, len) = (rows(case, 0), rows(case, 1), row_len(case, 0));
    let bias = case.data(0, 3).map(|_| rows(case, 3));
    recur(case, 2, |row, inputs| {
        inputs.extend_from_slice(&x[row * len..][..len]);
        let sum = |c: usize| {
            let taps = (0..spec.kernel).map(|i| w[c * spec.kernel + i] * inputs[i * len + c]);
            let sum = taps.sum::<f64>() + bias.as_ref().map_or(0.0, |b| b[c]);
            if spec.silu { sum * sigmoid(sum) } else { sum }
        };
        let y = (0..len).map(sum).collect();
        inputs.drain(..len);
        y
    })
}

fn gated_delta(case: &Case, spec: &DeltaSpec) -> Vec<OpValue> {
    let input = |i: usize| rows(case, i);
    let (q, k, v, a, b) = (input(0), input(1), input(2), input(3), input(4));
    let (decay, dt_bias) = (input(5), input(6));
    let (dk, dv) = (width(case, 0), width(case, 2));
    let (key_heads, heads) = (row_len(case, 0) / dk, row_len(case, 2) / dv);
    let unit = |x: &[f64]| -> Vec<f64> {
        let root = (dot(x, x) + 1e-6).sqrt();
        x.iter().map(|x| x / root).collect()
    };
    recur(case, 7, |row, states| {
        let head = |h: usize, s: &mut [f64]| -> Vec<f64> {
            let from = match spec.tiled {
                true => h % key_heads,
                false => h * key_heads / heads,
            };
            let of_key = |x: &[f64]| unit(&x[(row * key_heads + from) * dk..][..dk]);
            let (q, k) = (of_key(&q), of_key(&k));
            let at = row * heads + h;
            let rate = match spec.log_decay {
                true => -decay[h].exp(),
                false => decay[h],
            };
            let step = a[at] + dt_bias[h];
            let softplus = step.max(0.0) + (-step.abs()).exp().ln_1p();
            s.iter_mut().for_each(|s| *s *= (rate * softplus).exp());
            let column = |s: &[f64], x: &[f64], j: usize| -> f64 {
                (0..dk).map(|i| x[i] * s[i * dv + j]).sum()
            };
            for j in 0..dv {
                let delta = sigmoid(b[at]) * (v[at * dv + j] - column(s, &k, j));
                (0..dk).for_each(|i| s[i * dv + j] += k[i] * delta);
            }
            let scale = (dk as f64).sqrt();
            (0..dv).map(|j| column(s, &q, j) / scale).collect()
        };
        let states = states.chunks_mut(dk * dv).enumerate();
        states.flat_map(|(h, s)| head(h, s)).collect()
    })
}

fn rotate(case: &Case, rounds: usize, group: usize) -> Vec<f64> {
    let (mut x, k) = (rows(case, 0), row_len(case, 0));
    let (theta, pairs, scales) = (rows(case, 1), rows(case, 2), rows(case, 3));
    for x in x.chunks_mut(k) {
        x.iter_mut().zip(&scales).for_each(|(x, s)| *x *= s);
        for t in 0..rounds * k / 2 {
            let (sin, cos) = theta[t].sin_cos();
            let first = (2 * t % k) / group * group;
            let (i, j) = (
                first + pairs[2 * t] as usize,
                first + pairs[2 * t + 1] as usize,
            );
            (x[i], x[j]) = (x[i] * cos + x[j] * sin, x[j] * cos - x[i] * sin);
        }
    }
    x
}

fn as_rows(y: Vec<f64>) -> OpValue {
    OpValue::Rows(y.into_iter().map(|v| v as f32).collect())
}

fn eval(case: &Case) -> Vec<OpValue> {
    let op = &case.problem.ops[0].op;
    let y: Vec<f64> = match op {
        Op::Embed => {
            let (table, h) = (rows(case, 0), width(case, 0));
            let ids = case.batch.token_ids();
            ids.iter()
                .flat_map(|id| table[id * h..][..h].to_vec())
                .collect()
        }
        Op::RmsNorm { eps, weight_offset } => {
            let (x, w) = (rows(case, 0), rows(case, 1));
            x.chunks(w.len())
                .flat_map(|x| {
                    let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
                    let root = (mean + f64::from(*eps)).sqrt();
                    let scaled = x.iter().zip(&w);
                    let scaled = scaled.map(|(x, w)| x / root * (w + f64::from(*weight_offset)));
                    scaled.collect::<Vec<_>>()
                })
                .collect()
        }
        Op::Linear { .. } => {
            let (x, w, k) = (rows(case, 0), rows(case, 1), width(case, 1));
            let bias = case.data(0, 2).map(|_| rows(case, 2));
            let n = w.len() / k;
            let x: Vec<f64> = x.chunks(k).flat_map(|x| as_act(case.act, x)).collect();
            let w = as_weights(case.act, &w);
            x.chunks(k)
                .flat_map(|x| {
                    let sums =
                        (0..n).map(|n| dot(x, &w[n * k..]) + bias.as_ref().map_or(0.0, |b| b[n]));
                    sums.collect::<Vec<_>>()
                })
                .collect()
        }
        Op::RopeTable { attention_factor } => {
            let freq = rows(case, 0);
            let places = case.batch.places();
            places
                .iter()
                .flat_map(|(_, p)| {
                    // The angle is an f32 by definition; see Op::RopeTable.
                    let angles = freq.iter().map(|f| f64::from(*p as f32 * *f as f32));
                    let cos = angles.clone().map(f64::cos);
                    let both = cos.chain(angles.map(f64::sin));
                    both.map(|v| v * f64::from(*attention_factor))
                        .collect::<Vec<_>>()
                })
                .collect()
        }
        Op::Rope(spec) => {
            let (x, table, dim) = (rows(case, 0), rows(case, 1), width(case, 0));
            let half = spec.rotary_dim / 2;
            let heads = row_len(case, 0) / dim;
            let turn = |i: usize| {
                let t = &table[i / dim / heads * 2 * half..][..2 * half];
                let Some(d) = (i % dim).checked_sub(spec.first).filter(|d| *d < 2 * half) else {
                    return x[i];
                };
                // The pair's number, and whether this is its second element.
                let (pair, second, apart) = match spec.interleaved {
                    true => (d / 2, d % 2 == 1, 1),
                    false => (d % half, d >= half, half),
                };
                match second {
                    false => x[i] * t[pair] - x[i + apart] * t[half + pair],
                    true => x[i] * t[pair] + x[i - apart] * t[half + pair],
                }
            };
            (0..x.len()).map(turn).collect()
        }
        // The gate checks caches against what is appended itself.
        Op::KvAppend | Op::LatentAppend => return vec![OpValue::Cache(Vec::new())],
        Op::Attention(spec) => attention(case, spec),
        Op::LatentAttention { scale } => latent_attention(case, *scale),
        Op::GatedMul(act) => {
            let (gate, up) = (rows(case, 0), rows(case, 1));
            let shared = up.len() / gate.len().max(1);
            let each = up.iter().enumerate();
            each.map(|(i, u)| activate(*act, gate[i / shared], *u))
                .collect()
        }
        Op::Scale { factor } => {
            let x = rows(case, 0).into_iter();
            x.map(|x| f64::from(*factor) * x).collect()
        }
        Op::SoftCap { cap } => {
            let cap = f64::from(*cap);
            let x = rows(case, 0).into_iter();
            x.map(|x| cap * (x / cap).tanh()).collect()
        }
        Op::Route(spec) => {
            let (weights, experts) = route(case, spec);
            return vec![as_rows(weights), OpValue::Ids(experts)];
        }
        Op::ExpertLinear { experts } => expert_linear(case, *experts),
        Op::ExpertSum => {
            let (y, weights, h) = (rows(case, 0), rows(case, 1), width(case, 0));
            let each = row_len(case, 1);
            (weights.chunks(each).zip(y.chunks(each * h)))
                .flat_map(|(w, y)| {
                    let sum = move |i: usize| (0..each).map(|j| w[j] * y[j * h + i]).sum();
                    (0..h).map(sum)
                })
                .collect()
        }
        Op::HeadLinear => {
            let (x, w, k) = (rows(case, 0), rows(case, 1), width(case, 1));
            let heads = row_len(case, 0) / k;
            let n = w.len() / k / heads;
            let each = x.chunks(k).enumerate();
            each.flat_map(|(i, x)| times(case, x, &w, i % heads, n))
                .collect()
        }
        Op::CausalConv(spec) => return causal_conv(case, spec),
        Op::GatedDelta(spec) => return gated_delta(case, spec),
        Op::Rotate { rounds, group } => rotate(case, *rounds, *group),
        Op::Add => {
            let OperandSrc::Input(_) = case.problem.ops[0].inputs[1] else {
                panic!("not a primitive");
            };
            let pairs = rows(case, 0).into_iter().zip(rows(case, 1));
            pairs.map(|(a, b)| a + b).collect()
        }
        Op::GatherRows => {
            let (x, len) = (rows(case, 0), row_len(case, 0));
            let wanted = case.batch.wanted();
            wanted
                .iter()
                .flat_map(|r| x[r * len..][..len].to_vec())
                .collect()
        }
        Op::TopK { .. } | Op::ExpSum { .. } | Op::ArgMax => {
            return vec![OpValue::Ids(logits::ids(case))];
        }
    };
    vec![as_rows(y)]
}

impl Oracle for Naive {
    fn eval(&self, case: &Case) -> Result<Vec<Vec<OpValue>>, GateError> {
        Ok(vec![eval(case)])
    }
}
