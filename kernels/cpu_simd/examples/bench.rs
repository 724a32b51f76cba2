//! Times the tree's kernels at one model's sizes: each composite beside its
//! chain of primitives, interleaved, medians.
//!
//!     cargo run --release -p cpu_simd --example bench -- [threads] [isa] [text]
//!
//! `text` keeps the lines that contain it. Bytes are those of all operands, once.

use cpu_simd as _;
use graph::{Activation, AttentionSpec, CacheKind, Op, RopeSpec};
use hal::cpu::{CpuDevice, CpuOptions};
use hal::{Buffer, Device, Recording};
use registry::*;
use std::sync::Arc;
use std::time::Instant;

const HIDDEN: usize = 256;
const FF: usize = 768;
const HEADS: usize = 8;
const KV_HEADS: usize = 2;
const DIM: usize = 64;
const VOCAB: usize = 8192;
const BLOCK: usize = 32;
const CONTEXT: usize = 1024;
const ROUNDS: usize = 41;

type Error = Box<dyn std::error::Error>;

/// A value: its operand and where it lies.
#[derive(Clone)]
struct Value {
    operand: Operand,
    at: TensorRef,
}

/// An op with the indices of its inputs and its output.
struct Node {
    op: Op,
    inputs: Vec<usize>,
    output: usize,
}

struct Bench {
    device: Arc<CpuDevice>,
    registry: Registry,
    tuned: Tuned,
    step: Arc<StepLayout>,
    step_at: TensorRef,
    rows: RowRange,
    values: Vec<Value>,
    nodes: Vec<Node>,
}

fn buffer(device: &CpuDevice, bytes: u64) -> Result<Buffer, Error> {
    let buffer = device.alloc(bytes, "bench")?;
    // Small numbers everywhere, whatever they are read as.
    device.fill(&buffer, 0, bytes, &mut |all| {
        for (i, b) in all.iter_mut().enumerate() {
            *b = if i % 2 == 1 { 0x3c } else { (i * 37) as u8 };
        }
    })?;
    Ok(buffer)
}

impl Bench {
    /// `rows` rows of one sequence that end at position `context - 1`.
    fn new(options: &CpuOptions, rows: usize, context: usize) -> Result<Self, Error> {
        let device = Arc::new(CpuDevice::open(options)?);
        let blocks = CONTEXT / BLOCK;
        let step = Arc::new(StepLayout {
            max_rows: rows,
            max_spans: 1,
            max_logit_rows: 1,
            groups: vec![GroupLayout {
                block: BLOCK,
                blocks,
            }],
        });
        let mut words = vec![0u32; step.words()];
        words[StepLayout::ROWS] = rows as u32;
        words[StepLayout::SPANS] = 1;
        words[StepLayout::LOGIT_ROWS] = 1;
        for r in 0..rows {
            words[step.positions() + r] = (context - rows + r) as u32;
        }
        words[step.span_start() + 1] = rows as u32;
        words[step.span_len()] = context as u32;
        for b in 0..blocks {
            // Pages lie out of order, as in a pool that has been used.
            words[step.table(0) + b] = ((b * 7 + 3) % blocks) as u32;
        }
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        let at = device.alloc(step.bytes(), "step")?;
        device.upload(&at, 0, &bytes)?;
        let step_at = TensorRef {
            buffer: at,
            offset: 0,
            shape: vec![step.words()],
            strides: vec![1],
            scheme: Scheme::U32,
            layout: ROW_MAJOR,
            bytes: step.bytes(),
        };
        Ok(Bench {
            device,
            registry: Registry::collect()?,
            tuned: Tuned::default(),
            step,
            step_at,
            rows: RowRange {
                min: rows.min(if rows == 1 { 1 } else { 2 }),
                max: rows,
            },
            values: Vec::new(),
            nodes: Vec::new(),
        })
    }

    fn value(&mut self, operand: Operand, bytes: u64) -> Result<usize, Error> {
        let at = TensorRef::contiguous(&buffer(&self.device, bytes)?, 0, &operand, bytes);
        self.values.push(Value { operand, at });
        Ok(self.values.len() - 1)
    }

    fn act(&mut self, dims: &[usize]) -> Result<usize, Error> {
        let shape: Vec<usize> = std::iter::once(self.rows.max)
            .chain(dims.iter().copied())
            .collect();
        let bytes = shape.iter().product::<usize>() as u64 * 4;
        let operand = Operand {
            role: OperandRole::Activation,
            rows: RowsFrom::Batch,
            shape,
            scheme: Scheme::F32,
            layout: ROW_MAJOR,
            cache: None,
            state: None,
        };
        self.value(operand, bytes)
    }

    fn vector(&mut self, n: usize) -> Result<usize, Error> {
        let operand = Operand {
            role: OperandRole::Vector,
            rows: RowsFrom::Fixed,
            shape: vec![n],
            scheme: Scheme::F32,
            layout: ROW_MAJOR,
            cache: None,
            state: None,
        };
        self.value(operand, n as u64 * 4)
    }

    fn matrix(&mut self, n: usize, k: usize) -> Result<usize, Error> {
        let layout = WeightLayout::find("simd_n16k2").ok_or("the tree's layout is missing")?;
        let scheme = Scheme::BF16;
        let bytes = layout.bytes(&WeightShape { scheme, n, k });
        let operand = Operand {
            role: OperandRole::Matrix,
            rows: RowsFrom::Fixed,
            shape: vec![n, k],
            scheme,
            layout: layout.name,
            cache: None,
            state: None,
        };
        self.value(operand, bytes.ok_or("the matrix cannot be packed")?)
    }

    fn cache(&mut self) -> Result<usize, Error> {
        let pages = CONTEXT / BLOCK;
        let page = 2 * KV_HEADS * BLOCK * DIM;
        let view = CacheView {
            group: 0,
            kind: CacheKind::Full,
            kv_heads: KV_HEADS,
            head_dim: DIM,
            block: BLOCK,
            pages,
            page_stride: page,
            offset: 0,
            kv_stride: KV_HEADS * BLOCK * DIM,
            head_stride: BLOCK * DIM,
            token_stride: DIM,
        };
        let operand = Operand {
            role: OperandRole::Cache,
            rows: RowsFrom::Fixed,
            shape: vec![pages, page],
            scheme: Scheme::F16,
            layout: ROW_MAJOR,
            cache: Some(view),
            state: None,
        };
        self.value(operand, (pages * page * 2) as u64)
    }

    fn node(&mut self, op: Op, inputs: &[usize], output: usize) -> usize {
        self.nodes.push(Node {
            op,
            inputs: inputs.to_vec(),
            output,
        });
        output
    }

    fn norm(&mut self, x: usize, dims: &[usize]) -> Result<usize, Error> {
        let w = self.vector(dims[dims.len() - 1])?;
        let y = self.act(dims)?;
        let op = Op::RmsNorm {
            eps: 1e-6,
            weight_offset: 0.0,
        };
        Ok(self.node(op, &[x, w], y))
    }

    fn linear(&mut self, x: usize, k: usize, out: &[usize]) -> Result<usize, Error> {
        let w = self.matrix(out.iter().product(), k)?;
        let y = self.act(out)?;
        Ok(self.node(Op::Linear { out: out.to_vec() }, &[x, w], y))
    }

    fn rope(&mut self, x: usize, table: usize, heads: usize) -> Result<usize, Error> {
        let y = self.act(&[heads, DIM])?;
        let op = Op::Rope(RopeSpec::half_split(DIM));
        Ok(self.node(op, &[x, table], y))
    }

    /// Records the nodes as one kernel, `stored` being the ops whose outputs it
    /// writes. The kernel is the one that the registry ranks first.
    fn record(
        &self,
        recorder: &mut dyn hal::Recorder,
        nodes: &[Node],
        stored: &[usize],
    ) -> Result<(String, u64), Error> {
        let mut inputs: Vec<usize> = Vec::new();
        let mut ops = Vec::new();
        for node in nodes {
            let mut srcs = Vec::new();
            for v in &node.inputs {
                let inside = nodes
                    .iter()
                    .position(|n| n.output == *v && *v != node.output);
                srcs.push(match inside {
                    Some(op) => OperandSrc::Op(op),
                    None => OperandSrc::Input(match inputs.iter().position(|i| i == v) {
                        Some(i) => i,
                        None => {
                            inputs.push(*v);
                            inputs.len() - 1
                        }
                    }),
                });
            }
            ops.push(ProblemOp {
                op: node.op.clone(),
                inputs: srcs,
                shape: self.values[node.output].operand.shape.clone(),
                output: stored.iter().position(|s| nodes[*s].output == node.output),
            });
        }
        let outputs: Vec<usize> = stored.iter().map(|s| nodes[*s].output).collect();
        let operands = |ids: &[usize]| -> Vec<Operand> {
            ids.iter()
                .map(|v| self.values[*v].operand.clone())
                .collect()
        };
        let refs = |ids: &[usize]| -> Vec<TensorRef> {
            ids.iter().map(|v| self.values[*v].at.clone()).collect()
        };
        let problem = Problem {
            ops,
            inputs: operands(&inputs),
            outputs: operands(&outputs),
            rows: self.rows,
            step: self.step.clone(),
            device: Arc::new(self.device.info().clone()),
        };
        let found = self.registry.candidates(&Request {
            backend: "cpu_simd",
            problem: &problem,
            tuned: &self.tuned,
            act: None,
            variant: None,
        })?;
        // Candidates come best first, but layouts are open: here all are packed.
        let (found, tried) = found;
        let fits = found.iter().find(|r| {
            let layouts = r.entry.kernel.spec().layouts;
            layouts.is_empty() || layouts.contains(&"simd_n16k2")
        });
        let best = fits.ok_or_else(|| format!("no kernel fits: {tried:?}"))?;
        let prepared = best.entry.kernel.prepare(&problem, &*self.device)?;
        let workspace = match prepared.workspace() {
            0 => None,
            bytes => Some(TensorRef {
                buffer: self.device.alloc(bytes, "scratch")?,
                bytes,
                ..self.step_at.clone()
            }),
        };
        let binds = Binds {
            inputs: refs(&inputs),
            outputs: refs(&outputs),
            workspace,
            step: self.step_at.clone(),
        };
        prepared.record(recorder, &binds)?;
        Ok((best.entry.key.to_string(), problem.bytes(self.rows.max)))
    }

    /// Times all nodes as one kernel against one kernel each.
    fn report(&mut self, name: &str, flops: usize, stored: &[usize]) -> Result<(), Error> {
        let nodes = std::mem::take(&mut self.nodes);
        let mut one = self.device.recorder("one")?;
        let (key, bytes) = self.record(&mut *one, &nodes, stored)?;
        let one = one.finish()?;
        let mut chain = self.device.recorder("chain")?;
        for i in 0..nodes.len() {
            self.record(&mut *chain, &nodes[i..=i], &[0])?;
        }
        let chain = (nodes.len() > 1).then(|| chain.finish()).transpose()?;
        let (mut fused, mut plain) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let first = seconds(&*one)?;
            let second = chain.as_deref().map(seconds).transpose()?;
            if round > 0 {
                fused.push(first);
                plain.extend(second);
            }
        }
        let t = median(&mut fused);
        print!("{:>4} rows  {name:<26} {:>9.1} us", self.rows.max, t * 1e6);
        print!("  {:>6.1} GB/s", bytes as f64 / t / 1e9);
        print!(
            "  {:>7.1} GFLOP/s",
            (flops * self.rows.max) as f64 / t / 1e9
        );
        if chain.is_some() {
            let c = median(&mut plain);
            print!("  chain {:>9.1} us = {:.2} x", c * 1e6, c / t);
        }
        println!("  {}", key.rsplit('/').next().unwrap_or(""));
        Ok(())
    }
}

fn seconds(recording: &dyn Recording) -> Result<f64, Error> {
    let start = Instant::now();
    recording.run()?;
    Ok(start.elapsed().as_secs_f64())
}

fn median(all: &mut [f64]) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let options = CpuOptions {
        threads: args.first().map(|s| s.parse()).transpose()?,
        isa: args.get(1).map(|s| s.parse()).transpose()?,
        ..CpuOptions::default()
    };
    let keep = args.get(2).cloned().unwrap_or_default();
    for rows in [1, 8, 64, 512] {
        let (q, kv) = (HEADS * DIM, KV_HEADS * DIM);
        let run = |name: &str,
                   flops: usize,
                   stored: &[usize],
                   build: &dyn Fn(&mut Bench) -> Result<(), Error>|
         -> Result<(), Error> {
            if !name.contains(&keep) {
                return Ok(());
            }
            let mut b = Bench::new(&options, rows, CONTEXT.min(512).max(rows))?;
            build(&mut b)?;
            b.report(name, flops, stored)
        };
        run("norm+q+k+v", 2 * HIDDEN * (q + 2 * kv), &[1, 2, 3], &|b| {
            let x = b.act(&[HIDDEN])?;
            let h = b.norm(x, &[HIDDEN])?;
            for heads in [HEADS, KV_HEADS, KV_HEADS] {
                b.linear(h, HIDDEN, &[heads, DIM])?;
            }
            Ok(())
        })?;
        run("norm+gate+up+silu", 4 * HIDDEN * FF, &[3], &|b| {
            let x = b.act(&[HIDDEN])?;
            let h = b.norm(x, &[HIDDEN])?;
            let gate = b.linear(h, HIDDEN, &[FF])?;
            let up = b.linear(h, HIDDEN, &[FF])?;
            let y = b.act(&[FF])?;
            b.node(Op::GatedMul(Activation::Silu), &[gate, up], y);
            Ok(())
        })?;
        run("gate+up+silu", 4 * HIDDEN * FF, &[2], &|b| {
            let h = b.act(&[HIDDEN])?;
            let gate = b.linear(h, HIDDEN, &[FF])?;
            let up = b.linear(h, HIDDEN, &[FF])?;
            let y = b.act(&[FF])?;
            b.node(Op::GatedMul(Activation::Silu), &[gate, up], y);
            Ok(())
        })?;
        run("down+add", 2 * HIDDEN * FF, &[1], &|b| {
            let (x, residual) = (b.act(&[FF])?, b.act(&[HIDDEN])?);
            let d = b.linear(x, FF, &[HIDDEN])?;
            let y = b.act(&[HIDDEN])?;
            b.node(Op::Add, &[residual, d], y);
            Ok(())
        })?;
        run("add+norm", 0, &[0, 1], &|b| {
            let (x, r, h) = (b.act(&[HIDDEN])?, b.act(&[HIDDEN])?, b.act(&[HIDDEN])?);
            b.node(Op::Add, &[r, x], h);
            b.norm(h, &[HIDDEN]).map(|_| ())
        })?;
        run("norms+ropes+append", 0, &[2, 4], &|b| {
            let (q, k) = (b.act(&[HEADS, DIM])?, b.act(&[KV_HEADS, DIM])?);
            let (v, table) = (b.act(&[KV_HEADS, DIM])?, b.act(&[DIM])?);
            let q = b.norm(q, &[HEADS, DIM])?;
            let k = b.norm(k, &[KV_HEADS, DIM])?;
            b.rope(q, table, HEADS)?;
            let k = b.rope(k, table, KV_HEADS)?;
            let cache = b.cache()?;
            b.node(Op::KvAppend, &[k, v, cache], cache);
            Ok(())
        })?;
        run("ropes+append", 0, &[0, 2], &|b| {
            let (q, k) = (b.act(&[HEADS, DIM])?, b.act(&[KV_HEADS, DIM])?);
            let (v, table) = (b.act(&[KV_HEADS, DIM])?, b.act(&[DIM])?);
            b.rope(q, table, HEADS)?;
            let k = b.rope(k, table, KV_HEADS)?;
            let cache = b.cache()?;
            b.node(Op::KvAppend, &[k, v, cache], cache);
            Ok(())
        })?;
        run("norm+head", 2 * HIDDEN * VOCAB, &[1], &|b| {
            let x = b.act(&[HIDDEN])?;
            let h = b.norm(x, &[HIDDEN])?;
            b.linear(h, HIDDEN, &[VOCAB]).map(|_| ())
        })?;
        // Of `rows` rows that end at position 511, half of the last ones' keys.
        let seen = 512 - rows / 2;
        run("attention", 4 * seen * HEADS * DIM, &[0], &|b| {
            let (q, cache, y) = (b.act(&[HEADS, DIM])?, b.cache()?, b.act(&[HEADS, DIM])?);
            let spec = AttentionSpec {
                scale: 0.125,
                window: None,
                softcap: None,
            };
            b.node(Op::Attention(spec), &[q, cache], y);
            Ok(())
        })?;
    }
    Ok(())
}
