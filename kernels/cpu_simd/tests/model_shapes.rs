//! The paths that real models take and random shapes rarely meet (heads of 64 in
//! groups of four, rows split into parts, whole AMX tiles beside partial ones),
//! against plain f64.

use cpu_simd as _;
use graph::{AttentionSpec, CacheKind, Op};
use hal::cpu::{CpuDevice, CpuOptions, IsaLevel, detect};
use hal::{Buffer, Device};
use half::{bf16, f16};
use registry::*;
use std::sync::Arc;

fn random(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 - 0.5
    };
    (0..n).map(|_| 2.0 * next()).collect()
}

fn levels() -> impl Iterator<Item = CpuDevice> {
    let levels = IsaLevel::ALL.iter().copied().filter(|l| *l <= detect());
    levels.map(|isa| {
        let threads = Some(2);
        let isa = Some(isa);
        CpuDevice::open(&CpuOptions {
            threads,
            isa,
            ..CpuOptions::default()
        })
        .expect("the level was detected")
    })
}

fn upload(device: &CpuDevice, bytes: &[u8]) -> Buffer {
    let buffer = device.alloc(bytes.len() as u64, "test").unwrap();
    device.upload(&buffer, 0, bytes).unwrap();
    buffer
}

fn bytes_of(x: &[f32]) -> Vec<u8> {
    x.iter().flat_map(|v| v.to_ne_bytes()).collect()
}

fn operand(role: OperandRole, shape: &[usize], scheme: Scheme, layout: &'static str) -> Operand {
    let act = role == OperandRole::Activation;
    Operand {
        role,
        rows: if act {
            RowsFrom::Batch
        } else {
            RowsFrom::Fixed
        },
        shape: shape.to_vec(),
        scheme,
        layout,
        cache: None,
        state: None,
    }
}

fn activation(shape: &[usize]) -> Operand {
    operand(OperandRole::Activation, shape, Scheme::F32, ROW_MAJOR)
}

/// Runs the named variant and returns its first output, or nothing if it does
/// not fit the device.
fn run(
    device: &CpuDevice,
    problem: &Problem,
    variant: &str,
    inputs: &[Buffer],
    words: &[u32],
) -> Option<Vec<f32>> {
    let registry = Registry::collect().unwrap();
    let request = Request {
        backend: "cpu_simd",
        problem,
        tuned: &Tuned::default(),
        act: None,
        variant: Some(variant),
    };
    let kernel = registry.resolve(&request).ok()?.entry.kernel;
    let prepared = kernel.prepare(problem, device).unwrap();
    let at = |b: &Buffer, o: &Operand| TensorRef::contiguous(b, 0, o, b.len());
    let whole = |b: Buffer| {
        let o = operand(OperandRole::Vector, &[1], Scheme::U32, ROW_MAJOR);
        at(&b, &o)
    };
    let step: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
    let len: usize = problem.outputs[0].shape.iter().product();
    let out = device.alloc(len as u64 * 4, "out").unwrap();
    let scratch = prepared.workspace();
    let binds = Binds {
        inputs: inputs
            .iter()
            .zip(&problem.inputs)
            .map(|(b, o)| at(b, o))
            .collect(),
        outputs: vec![at(&out, &problem.outputs[0])],
        workspace: (scratch > 0).then(|| whole(device.alloc(scratch, "scratch").unwrap())),
        step: whole(upload(device, &step)),
    };
    let mut recorder = device.recorder("test").unwrap();
    prepared.record(&mut *recorder, &binds).unwrap();
    recorder.finish().unwrap().run().unwrap();
    let mut bytes = vec![0; len * 4];
    device.download(&out, 0, &mut bytes).unwrap();
    let chunks = bytes.chunks_exact(4);
    Some(
        chunks
            .map(|b| f32::from_ne_bytes(b.try_into().unwrap()))
            .collect(),
    )
}

fn assert_close(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    let rms = (want.iter().map(|x| x * x).sum::<f64>() / want.len() as f64).sqrt();
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let delta = (f64::from(*g) - w).abs();
        assert!(
            delta <= tolerance * rms,
            "{what}: element {i} is {g}, not {w} (rms {rms})"
        );
    }
}

/// One span of `rows` rows that ends at position `len - 1`.
fn one_span(step: &StepLayout, rows: usize, len: usize) -> Vec<u32> {
    let mut words = vec![0u32; step.words()];
    words[StepLayout::ROWS] = rows as u32;
    words[StepLayout::SPANS] = 1;
    for r in 0..rows {
        words[step.positions() + r] = (len - rows + r) as u32;
    }
    words[step.span_start() + 1] = rows as u32;
    words[step.span_len()] = len as u32;
    for g in &step.groups {
        for b in 0..g.blocks {
            words[step.table(0) + b] = ((b * 5 + 2) % g.blocks) as u32;
        }
    }
    words
}

fn attention(rows: usize, len: usize, scheme: Scheme, window: Option<usize>) {
    let (heads, kv_heads, dim, block, blocks) = (8, 2, 64, 16, 64);
    let step = Arc::new(StepLayout {
        max_rows: rows,
        max_spans: 1,
        max_logit_rows: 1,
        groups: vec![GroupLayout { block, blocks }],
    });
    let page = 2 * kv_heads * block * dim;
    let view = CacheView {
        group: 0,
        kind: CacheKind::Full,
        kv_heads,
        head_dim: dim,
        block,
        pages: blocks,
        page_stride: page,
        offset: 0,
        kv_stride: kv_heads * block * dim,
        head_stride: block * dim,
        token_stride: dim,
    };
    let words = one_span(&step, rows, len);
    let q = random(rows * heads * dim, 1);
    let mut cache = random(blocks * page, 2);
    let stored: Vec<u8> = match scheme {
        Scheme::F16 => {
            let bits = cache.iter_mut().map(|x| {
                let h = f16::from_f32(*x);
                *x = h.to_f32();
                h.to_le_bytes()
            });
            bits.flatten().collect()
        }
        _ => bytes_of(&cache),
    };
    let at = |p: usize, kv: usize, h: usize| {
        let page = words[step.table(0) + p / block] as usize;
        let first = view.at(page, kv, h, p % block);
        &cache[first..first + dim]
    };
    let mut want = Vec::new();
    for r in 0..rows {
        let p = len - rows + r;
        let low = window.map_or(0, |w| (p + 1).saturating_sub(w));
        for h in 0..heads {
            let q = &q[(r * heads + h) * dim..][..dim];
            let score = |t: usize| -> f64 {
                let k = at(t, 0, h / (heads / kv_heads));
                let dot: f64 = q
                    .iter()
                    .zip(k)
                    .map(|(a, b)| f64::from(a * 3.0) * f64::from(*b))
                    .sum();
                dot
            };
            let scores: Vec<f64> = (low..=p).map(score).collect();
            let max = scores.iter().fold(f64::MIN, |m, s| m.max(*s));
            let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for d in 0..dim {
                let o: f64 = (low..=p)
                    .zip(&weights)
                    .map(|(t, w)| w * f64::from(at(t, 1, h / (heads / kv_heads))[d]))
                    .sum();
                want.push(o / sum);
            }
        }
    }
    let mut stored_operand = operand(OperandRole::Cache, &[blocks, page], scheme, ROW_MAJOR);
    stored_operand.cache = Some(view);
    let shape = [rows, heads, dim];
    for device in levels() {
        let op = Op::Attention(AttentionSpec {
            scale: 3.0,
            window,
            softcap: None,
        });
        let problem = Problem {
            ops: vec![ProblemOp {
                op,
                inputs: vec![OperandSrc::Input(0), OperandSrc::Input(1)],
                shape: shape.to_vec(),
                output: Some(0),
            }],
            inputs: vec![activation(&shape), stored_operand.clone()],
            outputs: vec![activation(&shape)],
            rows: RowRange { min: 1, max: rows },
            step: step.clone(),
            device: Arc::new(device.info().clone()),
        };
        let inputs = [upload(&device, &bytes_of(&q)), upload(&device, &stored)];
        let got = run(&device, &problem, "simd", &inputs, &words).expect("it fits every CPU");
        let what = format!("{rows} rows of {len} in {scheme}, {}", device.info().driver);
        assert_close(&got, &want, 2e-5, &what);
    }
}

#[test]
fn single_rows_attend_over_parts_and_pages() {
    attention(1, 1, Scheme::F16, None);
    attention(1, 255, Scheme::F16, None);
    attention(1, 779, Scheme::F16, None);
    attention(3, 600, Scheme::F32, None);
    attention(2, 900, Scheme::F16, Some(333));
}

#[test]
fn tiles_attend_over_pages() {
    attention(70, 70, Scheme::F16, None);
    attention(33, 500, Scheme::F32, Some(40));
}

/// residual + x·Wᵀ with whole and partial tiles.
fn linear_add(rows: usize, k: usize, n: usize) {
    let step = Arc::new(StepLayout {
        max_rows: rows,
        max_spans: 1,
        max_logit_rows: 1,
        groups: vec![],
    });
    let words = one_span(&step, rows, rows);
    let to_bf16 = |x: &f32| bf16::from_f32(*x);
    let (x, w, residual) = (random(rows * k, 3), random(n * k, 4), random(rows * n, 5));
    let w: Vec<bf16> = w.iter().map(to_bf16).collect();
    let row_major: Vec<u8> = w.iter().flat_map(|v| v.to_le_bytes()).collect();
    let layout = WeightLayout::find("simd_n16k2").expect("the tree's layout");
    let scheme = Scheme::BF16;
    let shape = WeightShape { scheme, n, k };
    let panel = (layout.panel_bytes)(&shape).unwrap() as usize;
    let mut packed = vec![0; layout.bytes(&shape).unwrap() as usize];
    for (i, to) in packed.chunks_exact_mut(panel).enumerate() {
        let rows = layout.panel_rows.min(n - i * layout.panel_rows);
        let from = &row_major[i * layout.panel_rows * k * 2..][..rows * k * 2];
        (layout.pack)(&shape, rows, from, to);
    }
    for device in levels() {
        let matrix = operand(OperandRole::Matrix, &[n, k], scheme, layout.name);
        let problem = Problem {
            ops: vec![
                ProblemOp {
                    op: Op::Linear { out: vec![n] },
                    inputs: vec![OperandSrc::Input(0), OperandSrc::Input(1)],
                    shape: vec![rows, n],
                    output: None,
                },
                ProblemOp {
                    op: Op::Add,
                    inputs: vec![OperandSrc::Input(2), OperandSrc::Op(0)],
                    shape: vec![rows, n],
                    output: Some(0),
                },
            ],
            inputs: vec![activation(&[rows, k]), matrix, activation(&[rows, n])],
            outputs: vec![activation(&[rows, n])],
            rows: RowRange { min: 1, max: rows },
            step: step.clone(),
            device: Arc::new(device.info().clone()),
        };
        let inputs = [
            upload(&device, &bytes_of(&x)),
            upload(&device, &packed),
            upload(&device, &bytes_of(&residual)),
        ];
        for (variant, rounds) in [("packed", false), ("bf16_dot", true), ("amx", true)] {
            let Some(got) = run(&device, &problem, variant, &inputs, &words) else {
                assert_ne!(variant, "packed", "it fits every CPU");
                continue;
            };
            let act = |x: &f32| {
                if rounds {
                    to_bf16(x).to_f64()
                } else {
                    f64::from(*x)
                }
            };
            let mut want = Vec::new();
            for (r, x) in x.chunks_exact(k).enumerate() {
                for (c, w) in w.chunks_exact(k).enumerate() {
                    let dot: f64 = x.iter().zip(w).map(|(a, b)| act(a) * b.to_f64()).sum();
                    want.push(dot + f64::from(residual[r * n + c]));
                }
            }
            let what = format!(
                "{variant} [{rows}, {k}]·[{k}, {n}], {}",
                device.info().driver
            );
            assert_close(&got, &want, 1e-5, &what);
        }
    }
}

#[test]
fn products_fill_whole_and_partial_tiles() {
    linear_add(1, 256, 64);
    linear_add(9, 96, 50);
    linear_add(32, 64, 64);
    linear_add(77, 256, 96);
}
