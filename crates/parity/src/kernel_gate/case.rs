//! A case: a problem with data for every operand.

use super::batch::{Batch, Span, split};
use super::dims::{Dealer, Dims, Mode};
use super::rng::Rng;
use super::stored::{decode, encode};
use super::wiring::wire;
use graph::{CacheKind, Op, OpKind};
use hal::DeviceInfo;
use registry::{
    Act, CacheView, KernelSpec, NO_BLOCK, Operand, OperandRole, OperandSrc, Problem, RowsFrom,
};
use std::sync::Arc;

/// Keys and as many values that the caches of a case hold before the step, give
/// or take: what keeps the gate quick.
const PAST_NUMBERS: usize = 120_000;

/// Content of one external operand.
#[derive(Clone, Debug)]
pub enum Data {
    /// The real rows of an activation, contiguous.
    Rows(Vec<f32>),
    Vector(Vec<f32>),
    /// A matrix in its scheme, row-major, and the values it stands for.
    Matrix {
        bytes: Vec<u8>,
        values: Vec<f32>,
    },
    /// All pages in the cache's scheme. Cells that no row may see are NaN.
    Cache(Vec<u8>),
}

#[derive(Clone, Debug)]
pub struct Case {
    pub problem: Problem,
    /// The kernel's activation format.
    pub act: Act,
    pub batch: Batch,
    /// One for each of `problem.inputs`.
    pub inputs: Vec<Data>,
    /// Elements between the rows of each input, then of each output; row_len or
    /// more.
    pub strides: Vec<usize>,
    /// What the case is, for messages.
    pub label: String,
}

impl Case {
    /// The next case of a key. `Err` says why the gate cannot make one.
    pub fn deal(
        spec: &KernelSpec,
        dealer: &mut Dealer,
        device: &DeviceInfo,
    ) -> Result<Case, String> {
        let d = dealer.deal(spec.pattern.ops.len());
        let wired = wire(spec, &d, device)?;
        let mut problem = wired.problem;
        let batch = make_batch(&d, &mut problem, wired.cached, wired.group, &mut dealer.rng);
        Case::fill(problem, spec.act, &d, batch, &mut dealer.rng)
    }

    /// A case of a problem as a plan has it. `turn` varies the batch and the data.
    pub fn of(problem: &Problem, act: Act, turn: usize) -> Result<Case, String> {
        let d = Dims::of(problem, turn);
        let mut rng = Rng::named(&format!("{:?} {turn}", problem.ops));
        let mut problem = problem.clone();
        let group = problem.inputs.iter().find_map(|o| o.cache).map(|c| c.group);
        let cached = group.is_some();
        let batch = make_batch(&d, &mut problem, cached, group.unwrap_or(0), &mut rng);
        Case::fill(problem, act, &d, batch, &mut rng)
    }

    fn fill(
        problem: Problem,
        act: Act,
        d: &Dims,
        batch: Batch,
        rng: &mut Rng,
    ) -> Result<Case, String> {
        let inputs = (0..problem.inputs.len())
            .map(|i| fill(&problem, i, act, d, &batch, rng))
            .collect::<Result<_, _>>()?;
        let operands = problem.inputs.iter().chain(&problem.outputs);
        let strides = (operands.zip(d.gap.iter().cycle()))
            .map(|(o, gap)| o.row_len() + if o.shape.len() > 1 { *gap } else { 0 })
            .collect();
        let label = label(&problem, d, &batch);
        Ok(Case {
            act,
            batch,
            inputs,
            strides,
            label,
            problem,
        })
    }

    /// The same work with the spans in reverse order: each row must come out
    /// with the same bits. Also the old row of each new one, by counter.
    pub fn reversed(&self) -> (Case, Vec<usize>, Vec<usize>) {
        let (batch, rows, logits) = self.batch.reversed();
        let mut case = self.clone();
        for (data, operand) in case.inputs.iter_mut().zip(&self.problem.inputs) {
            if let Data::Rows(x) = data {
                let order = match operand.rows {
                    RowsFrom::Logits => &logits,
                    _ => &rows,
                };
                let old = x.clone();
                let len = operand.row_len();
                for (new, from) in x.chunks_exact_mut(len).zip(order) {
                    new.copy_from_slice(&old[from * len..][..len]);
                }
            }
        }
        case.batch = batch;
        (case, rows, logits)
    }

    /// Input `i` of op `op`, if it comes from outside.
    pub fn data(&self, op: usize, i: usize) -> Option<&Data> {
        self.problem.input(op, i).map(|(n, _)| &self.inputs[n])
    }

    /// Real rows of an operand.
    pub fn rows(&self, operand: &Operand) -> usize {
        self.batch.count(operand.rows)
    }

    /// Page of a span's position.
    pub fn page(&self, view: &CacheView, span: usize, position: usize) -> usize {
        self.batch.spans[span].table[position / view.block] as usize
    }
}

/// Splits the rows, places the spans in time and deals pages, out of order and
/// with some left over.
fn make_batch(d: &Dims, problem: &mut Problem, cached: bool, group: usize, rng: &mut Rng) -> Batch {
    // Position tables must hold far out too; caches bound the others.
    let tables_only = problem.ops.iter().all(|o| o.op.kind() == OpKind::RopeTable);
    let max_spans = problem.step.max_spans;
    let sizes = split(d.rows, max_spans, d.split, rng);
    let logit_lead = problem
        .inputs
        .iter()
        .any(|o| o.role == OperandRole::Activation && o.rows == RowsFrom::Logits);
    let mut wanted = vec![false; d.rows];
    let most = problem.step.max_logit_rows.min(d.rows);
    let count = match logit_lead {
        // A chunk of a prefill asks for no logits at all.
        _ if rng.chance(8) => 0,
        true => most,
        false => 1 + rng.below(most),
    };
    wanted[..count].fill(true);
    if logit_lead && d.rows > 2 && rng.chance(2) {
        wanted[0] = false;
    }
    rng.shuffle(&mut wanted);
    let mut wanted = wanted.into_iter();
    let most_past = (PAST_NUMBERS / (d.kv_heads * d.head_dim)).max(600);
    let context = match cached {
        true => problem.step.groups[group].blocks * d.block,
        false => usize::MAX,
    };
    let mut past = 0;
    let mut spans: Vec<Span> = Vec::new();
    for (s, rows) in sizes.iter().enumerate() {
        let mut first = d.past[s % d.past.len()];
        // A few long pasts show what many would.
        if cached && past + first > most_past {
            first %= 17;
        }
        first = first.min(context - rows);
        past += first;
        if tables_only {
            first = first * 83 + rng.below(1000);
        }
        spans.push(Span {
            first,
            tokens: (wanted.by_ref().take(*rows))
                .map(|w| (rng.below(d.vocab) as u32, w))
                .collect(),
            table: Vec::new(),
        });
    }
    if cached {
        let windowed = (problem.inputs.iter().filter_map(|o| o.cache))
            .any(|c| matches!(c.kind, CacheKind::Window { .. }));
        let held = |s: &Span| {
            let lo = match d.window {
                Some(w) if windowed => (s.first + 1).saturating_sub(w) / d.block,
                _ => 0,
            };
            lo..s.end().div_ceil(d.block)
        };
        let used: usize = spans.iter().map(|s| held(s).len()).sum();
        let pages = used + 3;
        let mut free: Vec<u32> = (0..pages as u32).collect();
        rng.shuffle(&mut free);
        for s in &mut spans {
            let held = held(s);
            s.table = vec![NO_BLOCK; held.end];
            for b in held {
                s.table[b] = free.pop().expect("a page for each block");
            }
        }
        let operands = problem.inputs.iter_mut().chain(&mut problem.outputs);
        for view in operands.filter_map(|o| o.cache.as_mut()) {
            view.pages = pages;
        }
    }
    Batch { spans, group }
}

/// Ops that read input `n`, with the slot they read it in.
fn readers(problem: &Problem, n: usize) -> impl Iterator<Item = (usize, usize, &Op)> {
    problem.ops.iter().enumerate().flat_map(move |(i, op)| {
        let slots = op.inputs.iter().enumerate();
        slots
            .filter(move |(_, s)| **s == OperandSrc::Input(n))
            .map(move |(slot, _)| (i, slot, &op.op))
    })
}

fn fill(
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
            let len = batch.count(operand.rows) * operand.row_len();
            if let Some((1, Op::Rope(_))) = reader {
                return Ok(Data::Rows(tables(len, operand.row_len(), rng)));
            }
            // The exponent of a large score magnifies its rounding, and f16 has
            // no room for the square of a thousand.
            let touchy = problem.ops.iter().any(|o| matches!(o.op, Op::Attention(_)))
                || (act == Act::F16 && problem.ops.len() > 1);
            let large = if touchy { 4.0 } else { 1e3 };
            let mut x = rng.normals(len, 1.0);
            match d.mode {
                Mode::Normal => {}
                Mode::Large => x.iter_mut().for_each(|v| *v *= large),
                Mode::Zeros => x.fill(0.0),
                Mode::Coarse => x.iter_mut().for_each(|v| *v = (*v * 2.0).round() / 2.0),
            }
            if let Some((0, Op::ArgMax)) = reader {
                no_numbers(&mut x, operand.row_len(), d.mode);
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
            _ => rng.normals(elements, 0.7),
        }),
        OperandRole::Matrix => {
            let scale = match reader {
                Some((_, Op::Linear { .. })) => (operand.shape[1] as f32).sqrt().recip(),
                _ => 1.0,
            };
            let unknown = || format!("the gate cannot write weights in {}", operand.scheme);
            let random = rng.normals(elements, scale);
            let bytes = encode(operand.scheme, &random).ok_or_else(unknown)?;
            let values = decode(operand.scheme, &bytes).ok_or_else(unknown)?;
            Data::Matrix { bytes, values }
        }
        OperandRole::State => return Err("the gate fills no recurrent states yet".into()),
        OperandRole::Cache => {
            let view = operand.cache.ok_or("a cache without a view")?;
            let appended = problem.ops.iter().any(|o| matches!(o.op, Op::KvAppend));
            let cells = cache_cells(&view, appended, d, batch, rng);
            let bytes = encode(operand.scheme, &cells);
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

/// Random numbers where some row may look, NaN everywhere else: behind the
/// window, in the rows that the step itself appends, in other layers and pages.
fn cache_cells(
    view: &CacheView,
    appended: bool,
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
            for (kv, head) in (0..2).flat_map(|kv| (0..view.kv_heads).map(move |h| (kv, h))) {
                let at = view.at(page as usize, kv, head, p % view.block);
                for cell in &mut cells[at..at + view.head_dim] {
                    *cell = rng.normal();
                }
            }
        }
    }
    cells
}

fn label(problem: &Problem, d: &Dims, batch: &Batch) -> String {
    let shapes = |list: &[Operand]| -> String {
        let all = list.iter().map(|o| match &o.cache {
            Some(c) => format!("cache {}x{} block {}", c.kv_heads, c.head_dim, c.block),
            None => format!("{:?}", o.shape),
        });
        all.collect::<Vec<_>>().join(" ")
    };
    let spans: Vec<String> = (batch.spans.iter())
        .map(|s| format!("{}+{}", s.first, s.rows()))
        .collect();
    let window = match d.window {
        Some(w) => format!(", window {w}"),
        None => String::new(),
    };
    format!(
        "{} -> {}, rows {} of {}..={}, logit rows {}, spans {}{window}, {:?}",
        shapes(&problem.inputs),
        shapes(&problem.outputs),
        batch.rows(),
        problem.rows.min,
        problem.rows.max,
        batch.logit_rows(),
        spans.join(" "),
        d.mode
    )
}

/// The problem with its matrices in `layout`.
pub fn in_layout(problem: &Problem, layout: &'static str) -> Problem {
    let mut problem = problem.clone();
    for o in &mut problem.inputs {
        if o.role == OperandRole::Matrix {
            o.layout = layout;
        }
    }
    problem.device = Arc::clone(&problem.device);
    problem
}
