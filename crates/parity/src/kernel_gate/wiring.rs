//! From a pattern to a problem: operands with the shapes that `shapes` settles,
//! checked by the ops' own rules, and attributes for the ops.

use super::dims::{Dims, Mode};
use super::shapes::{Blocks, Kind, Wires, batch_only, logits_only};
use graph::{
    AttentionSpec, CacheKind, CacheSpec, ElemType, Op, OpKind, RopeSpec, Shape, Value, ValueKind,
};
use hal::DeviceInfo;
use registry::{
    CacheView, GroupLayout, KernelSpec, Operand, OperandRole, OperandSrc, Pattern, Problem,
    ProblemOp, ROW_MAJOR, RowRange, RowsFrom, Scheme, StateView, StepLayout,
};
use std::sync::Arc;

/// Longest sequence of a case.
const CONTEXT: usize = 700;

/// A problem, and how its batch must be made.
pub struct Wired {
    pub problem: Problem,
    /// Whether positions are bounded by a cache's tables.
    pub cached: bool,
    pub group: usize,
}

/// Makes the pattern's ops fit together with these dimensions.
pub fn wire(spec: &KernelSpec, d: &Dims, device: &DeviceInfo) -> Result<Wired, String> {
    let schemes = op_schemes(spec)?;
    let blocks = Blocks {
        matrix: (schemes.iter())
            .map(|s| s.and_then(|s| Some(s.desc()?.block)).unwrap_or(1))
            .collect(),
        act: Blocks::of_act(spec.act),
    };
    let w = Wires::new(spec.pattern, d, &blocks)?;
    let kinds = || spec.pattern.ops.iter().map(|o| o.kind);
    let on_logits = kinds().any(logits_only) || (d.on_logits && !kinds().any(batch_only));
    let group = usize::from(d.token_major);
    let layout = StepLayout {
        max_rows: d.bucket.1,
        max_spans: d.bucket.1.min(16),
        max_logit_rows: if d.all_logits || on_logits {
            d.bucket.1
        } else {
            d.bucket.1.min(16)
        },
        groups: vec![
            GroupLayout {
                block: d.block,
                blocks: CONTEXT.div_ceil(d.block),
            };
            2
        ],
    };
    let first = match on_logits {
        true => RowsFrom::Logits,
        false => RowsFrom::Batch,
    };
    let rows = row_counters(spec.pattern, &w, first);
    let mut scheme_of = vec![Scheme::F32; w.kinds.len()];
    for (i, scheme) in schemes.iter().enumerate() {
        let kind = spec.pattern.ops[i].kind;
        let (Some(scheme), Some(slot)) = (*scheme, kind.stored_operand()) else {
            continue;
        };
        let v = w.inputs[i][slot];
        if !w.outputs[..i].concat().contains(&v) {
            scheme_of[v] = scheme;
        }
        if kind.updates() == Some(slot) {
            scheme_of[w.outputs[i][0]] = scheme_of[v];
        }
    }
    let mut build = Build {
        d,
        w: &w,
        layout: &layout,
        group,
        rows,
        scheme_of,
        state_end: STATE_ALIGN,
        views: vec![None; w.kinds.len()],
        values: vec![None; w.kinds.len()],
        input_of: vec![None; w.kinds.len()],
        inputs: Vec::new(),
    };
    let mut ops = Vec::new();
    for (i, p) in spec.pattern.ops.iter().enumerate() {
        ops.push(build.op(i, p.kind, spec.pattern)?);
    }
    let stored = spec.pattern.outputs.iter().flat_map(|o| &w.outputs[*o]);
    let outputs = stored
        .map(|v| build.operand(*v))
        .collect::<Result<_, _>>()?;
    let mut problem = Problem {
        ops,
        inputs: build.inputs,
        outputs,
        rows: RowRange {
            min: d.bucket.0,
            max: d.bucket.1,
        },
        step: Arc::new(layout.clone()),
        device: Arc::new(device.clone()),
    };
    // Only now is it known how long a slot is.
    let operands = problem.inputs.iter_mut().chain(&mut problem.outputs);
    for state in operands.filter_map(|o| o.state.as_mut()) {
        state.slot_stride = build.state_end;
    }
    let pages = |k: &Kind| matches!(k, Kind::KeyValue | Kind::Latent);
    Ok(Wired {
        problem,
        cached: w.kinds.iter().any(pages),
        group,
    })
}

/// The scheme of each op's stored operand.
fn op_schemes(spec: &KernelSpec) -> Result<Vec<Option<Scheme>>, String> {
    let mut names = spec.quant.iter().copied().cycle();
    let mut scheme = |kind: OpKind| -> Result<Option<Scheme>, String> {
        if kind.stored_operand().is_none() {
            return Ok(None);
        }
        let name = names.next().ok_or("the kernel names no scheme")?;
        let found = Scheme::find(name).ok_or(format!("no scheme is called {name}"))?;
        Ok(Some(found))
    };
    spec.pattern.ops.iter().map(|o| scheme(o.kind)).collect()
}

/// Which counter bounds each value's rows.
fn row_counters(pattern: &Pattern, w: &Wires, first: RowsFrom) -> Vec<RowsFrom> {
    let mut rows = vec![first; w.kinds.len()];
    for (i, op) in pattern.ops.iter().enumerate() {
        let earlier = w.outputs[..i].concat();
        let produced = |v: &&usize| earlier.contains(*v);
        let from = (w.inputs[i].iter())
            .filter(|v| produced(v) && w.kinds[**v] == Kind::Rows)
            .map(|v| rows[*v])
            .next();
        if let Some(from) = from {
            for v in w.inputs[i].iter().filter(|v| !produced(v)) {
                rows[*v] = from;
            }
        }
        let out = match op.kind {
            OpKind::GatherRows => RowsFrom::Logits,
            OpKind::Embed | OpKind::RopeTable => RowsFrom::Batch,
            _ => rows[w.inputs[i][0]],
        };
        for v in &w.outputs[i] {
            rows[*v] = out;
        }
    }
    rows
}

/// States begin on lines of their own, as in a plan's slots.
const STATE_ALIGN: usize = 64;

/// Where an operand's numbers lie, unless it is contiguous.
#[derive(Clone, Copy)]
enum View {
    Pages(CacheView),
    Slots(StateView),
}

/// Operands in the graph's terms, op by op.
struct Build<'a> {
    d: &'a Dims,
    w: &'a Wires,
    layout: &'a StepLayout,
    group: usize,
    rows: Vec<RowsFrom>,
    scheme_of: Vec<Scheme>,
    /// Elements of a slot so far.
    state_end: usize,
    views: Vec<Option<View>>,
    values: Vec<Option<Value>>,
    input_of: Vec<Option<usize>>,
    inputs: Vec<Operand>,
}

impl Build<'_> {
    fn op(&mut self, i: usize, kind: OpKind, pattern: &Pattern) -> Result<ProblemOp, String> {
        let (ins, outs) = (self.w.inputs[i].clone(), self.w.outputs[i].clone());
        let op = op_of(kind, self.d, self.w, i);
        for (slot, &v) in ins.iter().enumerate() {
            if self.values[v].is_none() {
                let (shape, value_kind) = self.external(&op, i, slot)?;
                self.values[v] = Some(Value {
                    name: format!("op{i}.{slot}"),
                    shape,
                    kind: value_kind,
                });
            }
        }
        let known: Vec<&Value> = (ins.iter())
            .filter_map(|v| self.values[*v].as_ref())
            .collect();
        let made = op.infer(&known)?;
        let mut sources = Vec::new();
        for &v in &ins {
            let first = self.w.outputs[..i].iter().position(|o| o[0] == v);
            sources.push(match first {
                Some(j) => OperandSrc::Op(j),
                None => OperandSrc::Input(match self.input_of[v] {
                    Some(n) => n,
                    None => {
                        let operand = self.operand(v)?;
                        self.inputs.push(operand);
                        let n = self.inputs.len() - 1;
                        self.input_of[v] = Some(n);
                        n
                    }
                }),
            });
        }
        for (n, (v, (shape, kind))) in outs.iter().zip(made).enumerate() {
            self.values[*v] = Some(Value {
                name: format!("op{i}:{n}"),
                shape,
                kind,
            });
        }
        if let (Some(slot), Some(last)) = (kind.updates(), outs.last()) {
            self.views[*last] = self.views[ins[slot]];
        }
        let stored = pattern.outputs.iter().position(|o| *o == i);
        let before = |at: usize| {
            let earlier = pattern.outputs[..at].iter();
            earlier.map(|o| self.w.outputs[*o].len()).sum()
        };
        Ok(ProblemOp {
            op,
            inputs: sources,
            shape: self.operand(outs[0])?.shape,
            output: stored.map(before),
        })
    }

    /// Input `slot` of op `i`, a value that no op makes.
    fn external(&mut self, op: &Op, i: usize, slot: usize) -> Result<(Shape, ValueKind), String> {
        let (ins, outs) = (&self.w.inputs[i], &self.w.outputs[i]);
        let v = ins[slot];
        let dims = &self.w.shapes[v];
        let row = |v: usize| &self.w.shapes[v];
        let len = |v: usize| row(v).iter().product::<usize>();
        let last = |v: usize| row(v).last().copied().unwrap_or(1);
        let activation = |elem| {
            let lead = match self.rows[v] {
                RowsFrom::Logits => graph::Dim::LogitRows,
                _ => graph::Dim::Rows,
            };
            (Shape::lead(lead, dims), ValueKind::Activation(elem))
        };
        Ok(match self.w.kinds[v] {
            Kind::Rows => activation(ElemType::F32),
            Kind::Ids => activation(ElemType::U32),
            Kind::Matrix => {
                let (n, k) = match op {
                    Op::Embed => (self.d.vocab, len(outs[0])),
                    Op::ExpertLinear { experts } => (experts * last(outs[0]), last(ins[0])),
                    Op::HeadLinear => (len(outs[0]), last(ins[0])),
                    _ => (len(outs[0]), len(ins[0])),
                };
                (Shape::fixed(&[n, k]), weight(true))
            }
            Kind::Vector => {
                let n = match (op, slot) {
                    (Op::RmsNorm { .. }, _) if self.d.norm_all => len(ins[0]),
                    (Op::RmsNorm { .. }, _) => last(ins[0]),
                    (Op::RopeTable { .. }, _) => self.w.rotary_dim / 2,
                    (Op::Attention(_), _) => row(ins[0])[0],
                    (Op::ExpertLinear { experts }, _) => experts * last(outs[0]),
                    (Op::CausalConv(spec), 1) => spec.kernel * len(ins[0]),
                    (Op::GatedDelta(_), _) => len(ins[3]),
                    (Op::Rotate { rounds, .. }, 1) => rounds * len(ins[0]) / 2,
                    (Op::Rotate { rounds, .. }, 2) => rounds * len(ins[0]),
                    (Op::Route(_), _) => len(ins[0]),
                    _ => len(outs[0]),
                };
                (Shape::fixed(&[n]), weight(false))
            }
            Kind::KeyValue => {
                let (kv_heads, head_dim) = (dims[0], dims[1]);
                let view = self.pages(self.scheme_of[v], kv_heads, head_dim);
                self.views[v] = Some(View::Pages(view));
                let spec = CacheSpec::key_value(0, None, kv_heads, head_dim);
                let kind = view.kind;
                let spec = CacheSpec { kind, ..spec };
                (Shape::fixed(&[]), ValueKind::Cache(spec))
            }
            Kind::Latent => {
                let len = dims.iter().sum();
                let view = self.pages(self.scheme_of[v], 1, len);
                self.views[v] = Some(View::Pages(view));
                let spec = CacheSpec::latent(0, len);
                (Shape::fixed(&[]), ValueKind::Cache(spec))
            }
            Kind::State => {
                let len = match op {
                    Op::CausalConv(spec) => (spec.kernel - 1) * len(ins[0]),
                    Op::GatedDelta(_) => len(ins[2]) * last(ins[0]),
                    _ => return Err(format!("input {slot} of op {i} is no state")),
                };
                self.views[v] = Some(View::Slots(StateView {
                    slots: 0,
                    slot_stride: 0,
                    offset: self.state_end,
                    len,
                }));
                let part = self.state_end;
                self.state_end = (part + len).next_multiple_of(STATE_ALIGN);
                let spec = CacheSpec::state(0, part, len);
                (Shape::fixed(&[]), ValueKind::Cache(spec))
            }
        })
    }

    fn operand(&self, v: usize) -> Result<Operand, String> {
        let value = self.values[v].as_ref().ok_or("a value that nobody made")?;
        let shape = value.shape.dims().iter().map(|d| match d {
            graph::Dim::Fixed(n) => *n,
            graph::Dim::Rows => self.layout.max_rows,
            graph::Dim::LogitRows => self.layout.max_logit_rows,
        });
        let (cache, state) = match self.views[v] {
            Some(View::Pages(view)) => (Some(view), None),
            Some(View::Slots(view)) => (None, Some(view)),
            None => (None, None),
        };
        let (role, rows, scheme) = match &value.kind {
            ValueKind::Activation(ElemType::F32) => {
                (OperandRole::Activation, self.rows[v], Scheme::F32)
            }
            ValueKind::Activation(ElemType::U32) => {
                (OperandRole::Activation, self.rows[v], Scheme::U32)
            }
            ValueKind::Weight { matrix: true, .. } => {
                (OperandRole::Matrix, RowsFrom::Fixed, self.scheme_of[v])
            }
            ValueKind::Weight { .. } | ValueKind::Constant(_) => {
                (OperandRole::Vector, RowsFrom::Fixed, Scheme::F32)
            }
            ValueKind::Cache(_) if state.is_some() => {
                (OperandRole::State, RowsFrom::Fixed, Scheme::F32)
            }
            ValueKind::Cache(_) => (OperandRole::Cache, RowsFrom::Fixed, self.scheme_of[v]),
        };
        Ok(Operand {
            role,
            rows,
            shape: shape.collect(),
            scheme,
            layout: ROW_MAJOR,
            cache,
            state,
        })
    }

    /// The second of two layers in each page, in one of two orders.
    fn pages(&self, scheme: Scheme, kv_heads: usize, head_dim: usize) -> CacheView {
        let d = self.d;
        let plane = CacheView::plane(scheme, kv_heads, head_dim, d.block);
        let plane = plane.expect("cases are small");
        CacheView {
            group: self.group,
            kind: match d.window {
                // A window may also be kept in a cache that frees nothing.
                Some(window) if d.mode != Mode::Coarse => CacheKind::Window { window },
                _ => CacheKind::Full,
            },
            kv_heads,
            head_dim,
            block: d.block,
            // As many as the batch fills; set when it is known.
            pages: self.layout.max_spans,
            page_stride: 4 * plane,
            offset: 2 * plane,
            kv_stride: plane,
            head_stride: match d.token_major {
                true => head_dim,
                false => d.block * head_dim,
            },
            token_stride: match d.token_major {
                true => kv_heads * head_dim,
                false => head_dim,
            },
        }
    }
}

fn weight(matrix: bool) -> ValueKind {
    ValueKind::Weight {
        tensor: String::new(),
        matrix,
    }
}

fn op_of(kind: OpKind, d: &Dims, w: &Wires, i: usize) -> Op {
    let input = |slot: usize| &w.shapes[w.inputs[i][slot]];
    let output = &w.shapes[w.outputs[i][0]];
    match kind {
        OpKind::Embed => Op::Embed,
        OpKind::RmsNorm => Op::RmsNorm {
            eps: d.eps,
            weight_offset: d.weight_offset,
        },
        OpKind::Linear => Op::Linear {
            out: output.clone(),
        },
        OpKind::RopeTable => Op::RopeTable {
            attention_factor: d.attention_factor,
        },
        OpKind::Rope => Op::Rope(RopeSpec {
            first: match d.rotary_last {
                true => input(0)[1] - w.rotary_dim,
                false => 0,
            },
            rotary_dim: w.rotary_dim,
            interleaved: d.interleaved,
        }),
        OpKind::KvAppend => Op::KvAppend,
        // Scores of a few units: peaked, and still well conditioned.
        OpKind::Attention => Op::Attention(AttentionSpec {
            scale: (input(0)[1] as f32).sqrt().recip() * 1.5,
            window: d.window,
            softcap: d.softcap,
        }),
        OpKind::GatedMul(act) => Op::GatedMul(act),
        OpKind::Add => Op::Add,
        OpKind::GatherRows => Op::GatherRows,
        OpKind::ArgMax => Op::ArgMax,
        OpKind::TopK => Op::TopK { k: output[0] },
        OpKind::ExpSum => Op::ExpSum { parts: output[0] },
        OpKind::Scale => Op::Scale {
            factor: if d.bias[i] { 0.37 } else { -12.5 },
        },
        OpKind::SoftCap => Op::SoftCap {
            cap: if d.bias[i] { 3.0 } else { 30.0 },
        },
        OpKind::Route => Op::Route(d.route.spec(input(0)[0], output[0])),
        OpKind::ExpertLinear => Op::ExpertLinear { experts: d.experts },
        OpKind::ExpertSum => Op::ExpertSum,
        OpKind::HeadLinear => Op::HeadLinear,
        OpKind::CausalConv => Op::CausalConv(d.conv),
        OpKind::GatedDelta => Op::GatedDelta(d.delta),
        OpKind::LatentAppend => Op::LatentAppend,
        OpKind::LatentAttention => Op::LatentAttention {
            scale: ((input(0)[1] + input(1)[1]) as f32).sqrt().recip() * 1.5,
        },
        OpKind::Rotate => Op::Rotate {
            rounds: d.rotation.0,
            group: d.rotation.1,
        },
    }
}
