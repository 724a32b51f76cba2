//! From a pattern to a problem: which values there are, what shapes make them
//! fit together, and which attributes the ops have.

use super::dims::{Dims, Mode};
use graph::{
    AttentionSpec, CacheKind, CacheSpec, ElemType, Op, OpKind, RopeSpec, Shape, Value, ValueKind,
};
use hal::DeviceInfo;
use registry::{
    CacheView, GroupLayout, KernelSpec, Operand, OperandRole, OperandSrc, Pattern, Problem,
    ProblemOp, ROW_MAJOR, RowRange, RowsFrom, Scheme, Src, StepLayout,
};
use std::sync::Arc;

/// Longest sequence of a case.
const CONTEXT: usize = 700;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Activation rows whose shape is settled by unification.
    Rows,
    /// cos and sin.
    Table,
    Matrix,
    Vector,
    Cache,
    Ids,
}

/// What the `slot`th input of an op is.
fn input_kind(op: OpKind, slot: usize) -> Kind {
    match (op, slot) {
        (OpKind::Embed, 0) | (OpKind::Linear, 1) => Kind::Matrix,
        (OpKind::RmsNorm, 1) | (OpKind::Linear, 2) | (OpKind::RopeTable, 0) => Kind::Vector,
        (OpKind::Rope, 1) => Kind::Table,
        (OpKind::KvAppend, 2) | (OpKind::Attention, 1) => Kind::Cache,
        _ => Kind::Rows,
    }
}

fn output_kind(op: OpKind) -> Kind {
    match op {
        OpKind::RopeTable => Kind::Table,
        OpKind::KvAppend => Kind::Cache,
        OpKind::ArgMax => Kind::Ids,
        _ => Kind::Rows,
    }
}

fn arity(op: OpKind, bias: bool) -> usize {
    match op {
        OpKind::Embed | OpKind::RopeTable | OpKind::GatherRows | OpKind::ArgMax => 1,
        OpKind::Linear => 2 + usize::from(bias),
        OpKind::KvAppend => 3,
        OpKind::Scale | OpKind::SoftCap => 1,
        // The others that it deals have two; `op_of` refuses the rest.
        _ => 2,
    }
}

/// Values by number: external ones and outputs of ops.
struct Wires {
    kinds: Vec<Kind>,
    /// Values of one shape have one root.
    parent: Vec<usize>,
    inputs: Vec<Vec<usize>>,
    outputs: Vec<usize>,
}

impl Wires {
    fn new(pattern: &Pattern, bias: &[bool]) -> Result<Self, String> {
        let mut w = Wires {
            kinds: Vec::new(),
            parent: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
        };
        for (i, op) in pattern.ops.iter().enumerate() {
            let slots = arity(op.kind, bias[i]).max(op.inputs.len());
            let mut ins = Vec::new();
            for slot in 0..slots {
                let kind = input_kind(op.kind, slot);
                let value = match op.inputs.get(slot) {
                    Some(Src::Op(j)) => w.outputs[*j],
                    Some(Src::Same(j, k)) => *w.inputs[*j]
                        .get(*k)
                        .ok_or(format!("op {i} shares input {k} of op {j}, which has none"))?,
                    Some(Src::Any) | None => w.value(kind),
                };
                if w.kinds[value] != kind {
                    let found = w.kinds[value];
                    return Err(format!("input {slot} of op {i} is {found:?}, not {kind:?}"));
                }
                ins.push(value);
            }
            let out = w.value(output_kind(op.kind));
            for &(a, b) in same_shapes(op.kind) {
                let at = |slot: usize| if slot == OUT { out } else { ins[slot] };
                w.unify(at(a), at(b));
            }
            w.inputs.push(ins);
            w.outputs.push(out);
        }
        Ok(w)
    }

    fn value(&mut self, kind: Kind) -> usize {
        self.kinds.push(kind);
        self.parent.push(self.parent.len());
        self.parent.len() - 1
    }

    fn root(&self, mut v: usize) -> usize {
        while self.parent[v] != v {
            v = self.parent[v];
        }
        v
    }

    fn unify(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.parent[a] = b;
    }
}

const OUT: usize = usize::MAX;

/// Slots that have the same elements in a row.
fn same_shapes(op: OpKind) -> &'static [(usize, usize)] {
    match op {
        OpKind::RmsNorm | OpKind::Rope | OpKind::Attention | OpKind::GatherRows => &[(0, OUT)],
        OpKind::KvAppend => &[(0, 1)],
        OpKind::GatedMul(_) | OpKind::Add => &[(0, 1), (0, OUT)],
        OpKind::Scale | OpKind::SoftCap => &[(0, OUT)],
        _ => &[],
    }
}

/// The row shapes of each class of values, by root.
fn row_shapes(spec: &KernelSpec, w: &Wires, d: &Dims) -> Vec<Vec<usize>> {
    let pattern = spec.pattern;
    #[derive(Clone, Copy, Default)]
    struct Use {
        roped: bool,
        kv: bool,
        query: bool,
        normed: bool,
        linear_in: bool,
        linear_out: bool,
        logits: bool,
        embedded: bool,
    }
    let mut uses = vec![Use::default(); w.parent.len()];
    for (i, op) in pattern.ops.iter().enumerate() {
        let x = w.root(w.inputs[i][0]);
        match op.kind {
            OpKind::Rope => uses[x].roped = true,
            OpKind::KvAppend => uses[x].kv = true,
            OpKind::Attention => uses[x].query = true,
            OpKind::RmsNorm => uses[x].normed = true,
            OpKind::ArgMax => uses[x].logits = true,
            OpKind::Embed => uses[w.root(w.outputs[i])].embedded = true,
            OpKind::Linear => {
                uses[x].linear_in = true;
                uses[w.root(w.outputs[i])].linear_out = true;
            }
            _ => {}
        }
    }
    let heads = d.kv_heads * d.group;
    // A row of a matrix is whole blocks of its scheme.
    let blocks = spec.quant.iter().filter_map(|q| Scheme::find(q)?.desc());
    let block = blocks.map(|desc| desc.block).max().unwrap_or(1);
    uses.iter()
        .enumerate()
        .map(|(v, u)| match u {
            Use { kv: true, .. } => vec![d.kv_heads, d.head_dim],
            Use { query: true, .. } | Use { roped: true, .. } => vec![heads, d.head_dim],
            Use {
                normed: true,
                linear_in: false,
                embedded: false,
                ..
            } if d.per_head => vec![heads, d.head_dim],
            Use {
                linear_in: true, ..
            } => vec![d.k[v].next_multiple_of(block)],
            Use {
                linear_out: true, ..
            } => vec![d.n[v]],
            Use { logits: true, .. } => vec![d.vocab],
            Use { embedded: true, .. } => vec![d.width[v].next_multiple_of(block)],
            _ => vec![d.width[v]],
        })
        .collect()
}

/// A problem, and how its batch must be made.
pub struct Wired {
    pub problem: Problem,
    /// Whether positions are bounded by a cache's tables.
    pub cached: bool,
    pub group: usize,
}

/// Makes the pattern's ops fit together with these dimensions.
pub fn wire(spec: &KernelSpec, d: &Dims, device: &DeviceInfo) -> Result<Wired, String> {
    let pattern = spec.pattern;
    let bias: Vec<bool> = (pattern.ops.iter().zip(&d.bias))
        .map(|(op, b)| op.inputs.len() > 2 || *b)
        .collect();
    let w = Wires::new(pattern, &bias)?;
    let shapes = row_shapes(spec, &w, d);
    let batch_only = |k| {
        !matches!(
            k,
            OpKind::RmsNorm | OpKind::Linear | OpKind::GatedMul(_) | OpKind::Add | OpKind::ArgMax
        )
    };
    let on_logits = d.on_logits && !pattern.ops.iter().any(|o| batch_only(o.kind));

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
    let view = cache_view(d, group, &layout);

    // Which counter bounds each value's rows.
    let first = match on_logits {
        true => RowsFrom::Logits,
        false => RowsFrom::Batch,
    };
    let mut rows = vec![first; w.kinds.len()];
    let mut schemes = spec.quant.iter().copied().cycle();
    let mut scheme_of = vec![Scheme::F32; w.kinds.len()];
    for (i, op) in pattern.ops.iter().enumerate() {
        let produced = |v: &usize| w.outputs[..i].contains(v);
        let from = (w.inputs[i].iter())
            .filter(|v| produced(v) && w.kinds[**v] == Kind::Rows)
            .map(|v| rows[*v])
            .next();
        if let Some(from) = from {
            for v in w.inputs[i].iter().filter(|v| !produced(v)) {
                rows[*v] = from;
            }
        }
        rows[w.outputs[i]] = match op.kind {
            OpKind::GatherRows => RowsFrom::Logits,
            _ => rows[w.inputs[i][0]],
        };
        if matches!(op.kind, OpKind::Embed | OpKind::RopeTable) {
            rows[w.outputs[i]] = RowsFrom::Batch;
        }
        if let Some(slot) = op.kind.stored_operand() {
            let name = schemes.next().ok_or("the kernel names no scheme")?;
            let scheme = Scheme::find(name).ok_or(format!("no scheme is called {name}"))?;
            let v = w.inputs[i][slot];
            if !produced(&v) {
                scheme_of[v] = scheme;
            }
            if op.kind == OpKind::KvAppend {
                scheme_of[w.outputs[i]] = scheme_of[v];
            }
        }
    }

    // Operands in the graph's terms, op by op, checked by the ops' own rules.
    let mut values: Vec<Option<Value>> = vec![None; w.kinds.len()];
    let mut problem = Problem {
        ops: Vec::new(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        rows: RowRange {
            min: d.bucket.0,
            max: d.bucket.1,
        },
        step: Arc::new(layout.clone()),
        device: Arc::new(device.clone()),
    };
    let mut input_of = vec![None; w.kinds.len()];
    for (i, p) in pattern.ops.iter().enumerate() {
        let x = w.inputs[i][0];
        let out_shape = &shapes[w.root(w.outputs[i])];
        let op = op_of(p.kind, d, out_shape)?;
        let row_len = |v: usize| shapes[w.root(v)].iter().product::<usize>();
        for (slot, &v) in w.inputs[i].iter().enumerate() {
            if values[v].is_some() {
                continue;
            }
            let lead = lead(rows[v]);
            let (shape, kind) = match w.kinds[v] {
                Kind::Rows => (
                    Shape::lead(lead, &shapes[w.root(v)]),
                    ValueKind::Activation(ElemType::F32),
                ),
                Kind::Table => (
                    Shape::lead(lead, &[d.rotary_dim]),
                    ValueKind::Activation(ElemType::F32),
                ),
                Kind::Matrix if p.kind == OpKind::Embed => (
                    Shape::fixed(&[d.vocab, row_len(w.outputs[i])]),
                    weight(true),
                ),
                Kind::Matrix => (
                    Shape::fixed(&[row_len(w.outputs[i]), row_len(x)]),
                    weight(true),
                ),
                Kind::Vector => {
                    let len = match p.kind {
                        OpKind::RmsNorm => *out_shape.last().ok_or("an empty shape")?,
                        OpKind::RopeTable => d.rotary_dim / 2,
                        _ => row_len(w.outputs[i]),
                    };
                    (Shape::fixed(&[len]), weight(false))
                }
                Kind::Cache => (
                    Shape::fixed(&[]),
                    ValueKind::Cache(CacheSpec {
                        kind: view.kind,
                        ..CacheSpec::key_value(0, None, d.kv_heads, d.head_dim)
                    }),
                ),
                Kind::Ids => return Err(format!("input {slot} of op {i} is token ids")),
            };
            values[v] = Some(Value {
                name: format!("op{i}.{slot}"),
                shape,
                kind,
            });
        }
        let ins: Vec<&Value> = w.inputs[i]
            .iter()
            .filter_map(|v| values[*v].as_ref())
            .collect();
        let (shape, kind) = op.infer(&ins)?.into_iter().next().ok_or("no output")?;
        let mut sources = Vec::new();
        for &v in &w.inputs[i] {
            sources.push(match w.outputs[..i].iter().position(|o| *o == v) {
                Some(j) => OperandSrc::Op(j),
                None => {
                    let value = values[v].as_ref().ok_or("an input without a value")?;
                    OperandSrc::Input(*input_of[v].get_or_insert_with(|| {
                        problem
                            .inputs
                            .push(operand(value, rows[v], scheme_of[v], &layout, view));
                        problem.inputs.len() - 1
                    }))
                }
            });
        }
        let value = Value {
            name: format!("op{i}"),
            shape,
            kind,
        };
        let out = operand(
            &value,
            rows[w.outputs[i]],
            scheme_of[w.outputs[i]],
            &layout,
            view,
        );
        problem.ops.push(ProblemOp {
            op,
            inputs: sources,
            shape: out.shape.clone(),
            output: pattern.outputs.iter().position(|o| *o == i),
        });
        values[w.outputs[i]] = Some(value);
    }
    for &o in pattern.outputs {
        let v = w.outputs[o];
        let value = values[v].as_ref().ok_or("an output without a value")?;
        problem
            .outputs
            .push(operand(value, rows[v], scheme_of[v], &layout, view));
    }
    Ok(Wired {
        problem,
        cached: w.kinds.contains(&Kind::Cache),
        group,
    })
}

fn lead(rows: RowsFrom) -> graph::Dim {
    match rows {
        RowsFrom::Logits => graph::Dim::LogitRows,
        _ => graph::Dim::Rows,
    }
}

fn weight(matrix: bool) -> ValueKind {
    ValueKind::Weight {
        tensor: String::new(),
        matrix,
    }
}

fn operand(
    value: &Value,
    rows: RowsFrom,
    scheme: Scheme,
    layout: &StepLayout,
    view: CacheView,
) -> Operand {
    let shape = value.shape.dims().iter().map(|d| match d {
        graph::Dim::Fixed(n) => *n,
        graph::Dim::Rows => layout.max_rows,
        graph::Dim::LogitRows => layout.max_logit_rows,
    });
    let (role, rows, scheme, cache) = match &value.kind {
        ValueKind::Activation(ElemType::F32) => (OperandRole::Activation, rows, Scheme::F32, None),
        ValueKind::Activation(ElemType::U32) => (OperandRole::Activation, rows, Scheme::U32, None),
        ValueKind::Weight { matrix: true, .. } => {
            (OperandRole::Matrix, RowsFrom::Fixed, scheme, None)
        }
        ValueKind::Weight { .. } | ValueKind::Constant(_) => {
            (OperandRole::Vector, RowsFrom::Fixed, Scheme::F32, None)
        }
        ValueKind::Cache(_) => (OperandRole::Cache, RowsFrom::Fixed, scheme, Some(view)),
    };
    Operand {
        role,
        rows,
        shape: shape.collect(),
        scheme,
        layout: ROW_MAJOR,
        cache,
        state: None,
    }
}

fn op_of(kind: OpKind, d: &Dims, out: &[usize]) -> Result<Op, String> {
    Ok(match kind {
        OpKind::Embed => Op::Embed,
        OpKind::RmsNorm => Op::RmsNorm {
            eps: d.eps,
            weight_offset: d.weight_offset,
        },
        OpKind::Linear => Op::Linear { out: out.to_vec() },
        OpKind::RopeTable => Op::RopeTable {
            attention_factor: d.attention_factor,
        },
        OpKind::Rope => Op::Rope(RopeSpec::half_split(d.rotary_dim)),
        OpKind::KvAppend => Op::KvAppend,
        // Scores of a few units: peaked, and still well conditioned.
        OpKind::Attention => Op::Attention(AttentionSpec {
            scale: (d.head_dim as f32).sqrt().recip() * 1.5,
            window: d.window,
            softcap: None,
        }),
        OpKind::GatedMul(act) => Op::GatedMul(act),
        OpKind::Add => Op::Add,
        OpKind::GatherRows => Op::GatherRows,
        OpKind::ArgMax => Op::ArgMax,
        OpKind::Scale => Op::Scale { factor: 0.37 },
        OpKind::SoftCap => Op::SoftCap { cap: 3.0 },
        other => return Err(format!("the gate deals no cases of {other} yet")),
    })
}

/// The second of two layers in each page, in one of two orders.
fn cache_view(d: &Dims, group: usize, layout: &StepLayout) -> CacheView {
    let plane = d.block * d.kv_heads * d.head_dim;
    CacheView {
        group,
        kind: match d.window {
            // A window may also be kept in a cache that frees nothing.
            Some(window) if d.mode != Mode::Coarse => CacheKind::Window { window },
            _ => CacheKind::Full,
        },
        kv_heads: d.kv_heads,
        head_dim: d.head_dim,
        block: d.block,
        // As many as the batch fills; set when it is known.
        pages: layout.max_spans,
        page_stride: 4 * plane,
        offset: 2 * plane,
        kv_stride: plane,
        head_stride: match d.token_major {
            true => d.head_dim,
            false => d.block * d.head_dim,
        },
        token_stride: match d.token_major {
            true => d.kv_heads * d.head_dim,
            false => d.head_dim,
        },
    }
}
