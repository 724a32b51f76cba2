//! The oracle itself, against a second implementation: naive, in f64, sharing
//! nothing with it but the cases.

use graph::{Activation, Op};
use half::{bf16, f16};
use parity::kernel_gate::{Case, Data, GateError, ORACLE, OpValue, Options, Oracle, run_against};
use registry::{Act, CacheView, OpenOptions, OperandSrc, Registry, Scheme};

struct Naive;

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

fn as_act(act: Act, v: f64) -> f64 {
    match act {
        Act::F32 => v,
        Act::Bf16 => bf16::from_f32(v as f32).to_f64(),
        Act::F16 => f16::from_f32(v as f32).to_f64(),
        other => panic!("no such rounding: {other}"),
    }
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

fn attention(case: &Case, scale: f32, window: Option<usize>) -> Vec<f64> {
    let (_, operand) = case.problem.input(0, 1).expect("a cache");
    let view: CacheView = operand.cache.expect("a view");
    let Some(Data::Cache(bytes)) = case.data(0, 1) else {
        panic!("the second input is no cache");
    };
    let cells = cells(bytes, operand.scheme);
    let dim = view.head_dim;
    let (q, len) = (rows(case, 0), row_len(case, 0));
    let group = len / dim / view.kv_heads;
    let mut out = Vec::new();
    for (r, (span, position)) in case.batch.places().into_iter().enumerate() {
        for h in 0..len / dim {
            let q = &q[r * len + h * dim..][..dim];
            let visible: Vec<usize> = (0..=position)
                .filter(|p| window.is_none_or(|w| p + w > position))
                .collect();
            let at = |p: usize, kv: usize| {
                let page = case.page(&view, span, p);
                view.at(page, kv, h / group, p % view.block)
            };
            let scores: Vec<f64> = (visible.iter())
                .map(|p| {
                    q.iter()
                        .zip(&cells[at(*p, 0)..])
                        .map(|(q, k)| q * k)
                        .sum::<f64>()
                        * f64::from(scale)
                })
                .collect();
            let max = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for d in 0..dim {
                let values = visible.iter().map(|p| cells[at(*p, 1) + d]);
                out.push(values.zip(&weights).map(|(v, w)| v * w).sum::<f64>() / sum);
            }
        }
    }
    out
}

fn eval(case: &Case) -> OpValue {
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
            let x: Vec<f64> = x.iter().map(|v| as_act(case.act, *v)).collect();
            x.chunks(k)
                .flat_map(|x| {
                    let sums = (0..n).map(|n| {
                        let products = x.iter().zip(&w[n * k..]);
                        let sum: f64 = products.map(|(x, w)| x * w).sum();
                        sum + bias.as_ref().map_or(0.0, |b| b[n])
                    });
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
                let (d, t) = (i % dim, &table[i / dim / heads * 2 * half..][..2 * half]);
                match d {
                    d if d < half => x[i] * t[d] - x[i + half] * t[half + d],
                    d if d < 2 * half => x[i] * t[d - half] + x[i - half] * t[d],
                    _ => x[i],
                }
            };
            (0..x.len()).map(turn).collect()
        }
        // The gate checks caches against the keys and values themselves.
        Op::KvAppend => return OpValue::Cache(Vec::new()),
        Op::Attention(spec) => attention(case, spec.scale, spec.window),
        Op::GatedMul(Activation::Silu) => {
            let pairs = rows(case, 0).into_iter().zip(rows(case, 1));
            pairs.map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect()
        }
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
        Op::ArgMax => {
            let (x, len) = (rows(case, 0), row_len(case, 0));
            let best = |row: &[f64]| {
                let numbers = row.iter().copied().filter(|v| *v > f64::NEG_INFINITY);
                let max = numbers.reduce(f64::max);
                max.and_then(|max| row.iter().position(|v| *v == max))
                    .map_or(u32::MAX, |i| i as u32)
            };
            return OpValue::Ids(x.chunks(len).map(best).collect());
        }
        other => panic!("no f64 form of {other:?}"),
    };
    OpValue::Rows(y.into_iter().map(|v| v as f32).collect())
}

impl Oracle for Naive {
    fn eval(&self, case: &Case) -> Result<Vec<OpValue>, GateError> {
        Ok(vec![eval(case)])
    }
}

#[test]
fn the_oracle_agrees_with_a_naive_f64_one() {
    let registry = Registry::collect().expect("a sound registry");
    let backend = registry.backend(ORACLE).expect("the oracle is linked");
    let mut digests = Vec::new();
    for threads in [1, 3] {
        let options = OpenOptions {
            threads: Some(threads),
            ..OpenOptions::default()
        };
        let device = backend.open_device(&options).expect("a CPU");
        let gate = Options::default();
        let report = run_against(&registry, ORACLE, device.as_ref(), &gate, &Naive);
        let report = report.expect("the gate runs");
        println!("{report}");
        assert!(report.passed(), "{report}");
        digests.push(report.keys.iter().map(|k| k.digest).collect::<Vec<_>>());
    }
    assert_eq!(digests[0], digests[1], "bits must not depend on threads");
}
