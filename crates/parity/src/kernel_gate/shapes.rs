//! What each op asks of the shapes of its operands, and sizes that satisfy a whole
//! pattern.
//!
//! A value's row shape is a list of dimensions; values that an op wants alike share
//! one list, dimensions that it wants equal are one. Every dimension has a name
//! that says which dealt number it takes.

use super::dims::Dims;
use graph::OpKind;
use registry::{Act, Pattern, Src};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Rows,
    /// Rows of u32.
    Ids,
    Matrix,
    Vector,
    /// Pages of keys and values.
    KeyValue,
    /// Pages of latent vectors.
    Latent,
    State,
}

/// What the `slot`th input of an op is.
pub fn input_kind(op: OpKind, slot: usize) -> Kind {
    use OpKind::*;
    match (op, slot) {
        (Embed, 0) | (Linear | ExpertLinear | HeadLinear, 1) => Kind::Matrix,
        (RmsNorm, 1) | (Linear, 2) | (RopeTable, 0) | (Attention, 2) => Kind::Vector,
        (Route, 1) | (ExpertLinear, 3) | (CausalConv, 1 | 3) => Kind::Vector,
        (GatedDelta, 5 | 6) | (Rotate, 1..=3) => Kind::Vector,
        (KvAppend, 2) | (Attention, 1) => Kind::KeyValue,
        (LatentAppend | LatentAttention, 2) => Kind::Latent,
        (CausalConv, 2) | (GatedDelta, 7) => Kind::State,
        (ExpertLinear, 2) | (ExpSum, 1) => Kind::Ids,
        _ => Kind::Rows,
    }
}

pub fn output_kinds(op: OpKind) -> &'static [Kind] {
    match op {
        OpKind::KvAppend => &[Kind::KeyValue],
        OpKind::LatentAppend => &[Kind::Latent],
        OpKind::ArgMax | OpKind::TopK | OpKind::ExpSum => &[Kind::Ids],
        OpKind::Route => &[Kind::Rows, Kind::Ids],
        OpKind::CausalConv | OpKind::GatedDelta => &[Kind::Rows, Kind::State],
        _ => &[Kind::Rows],
    }
}

/// Inputs of an op, with its optional last one or without.
fn arity(op: OpKind, optional: bool) -> usize {
    use OpKind::*;
    let more = usize::from(optional);
    match op {
        Embed | RopeTable | GatherRows | ArgMax | TopK | Scale | SoftCap => 1,
        Route => 1 + more,
        RmsNorm | Rope | GatedMul(_) | Add | ExpertSum | HeadLinear | ExpSum => 2,
        Linear | Attention => 2 + more,
        KvAppend | LatentAppend | LatentAttention => 3,
        ExpertLinear | CausalConv => 3 + more,
        Rotate => 4,
        GatedDelta => 8,
    }
}

/// Whether its values have a row for each token of the batch, never only for those
/// whose logits are asked for.
pub fn batch_only(op: OpKind) -> bool {
    use OpKind::*;
    !matches!(
        op,
        RmsNorm | Linear | GatedMul(_) | Add | ArgMax | TopK | ExpSum | Scale | SoftCap
    )
}

/// Whether its values have a row for each token whose logits are asked for, and only
/// for those.
pub fn logits_only(op: OpKind) -> bool {
    op == OpKind::ExpSum
}

/// Names of sizes. Where two are to be equal, the one named first settles it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Size {
    One,
    /// An id and its logit, or the words of a u64.
    Pair,
    /// Logits that top_k reads, and those that it keeps.
    Logits,
    Largest,
    /// Logits that exp_sum reads, and the parts that it sums.
    Summed,
    Parts,
    TopK,
    KvHeads,
    Heads,
    KeyHeads,
    ValueHeads,
    HeadDim,
    KeyDim,
    ValueDim,
    Latent,
    LatentRope,
    Rotary,
    Experts,
    /// Columns of matrices.
    K,
    /// Rows of matrices.
    N,
    Vocab,
    /// Neither read nor written by a matrix.
    Width,
}

struct Dimension {
    parent: usize,
    size: Size,
    /// What it must be a multiple of.
    multiple: usize,
}

/// The values of a pattern by number, and their shapes once it is known what they
/// have in common.
pub struct Wires {
    pub kinds: Vec<Kind>,
    /// Values that each op reads and writes.
    pub inputs: Vec<Vec<usize>>,
    pub outputs: Vec<Vec<usize>>,
    /// The dimensions of every value's row (of a cache's entry), in numbers.
    pub shapes: Vec<Vec<usize>>,
    /// Of all ropes; what the smallest of their heads can take.
    pub rotary_dim: usize,
    classes: Vec<Class>,
    dims: Vec<Dimension>,
}

/// Values of one shape.
struct Class {
    parent: usize,
    /// Dimensions by number, where an op has said what they are.
    form: Option<Vec<usize>>,
    /// The name of a row without more structure.
    flat: Size,
    normed: bool,
    /// The last dimension's.
    multiple: usize,
}

/// Elements that a row of stored or rounded numbers comes in.
pub struct Blocks {
    /// Of each op's matrix.
    pub matrix: Vec<usize>,
    pub act: usize,
}

impl Blocks {
    pub fn of_act(act: Act) -> usize {
        match act {
            Act::Q8_32 => 32,
            Act::Q8_256 => 256,
            _ => 1,
        }
    }
}

impl Wires {
    pub fn new(pattern: &Pattern, d: &Dims, blocks: &Blocks) -> Result<Self, String> {
        let mut w = Wires {
            kinds: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            shapes: Vec::new(),
            rotary_dim: 0,
            classes: Vec::new(),
            dims: Vec::new(),
        };
        for (i, op) in pattern.ops.iter().enumerate() {
            let optional = match op.kind {
                OpKind::Attention => d.sinks,
                _ => d.bias[i],
            };
            let slots = arity(op.kind, optional).max(op.inputs.len());
            let mut ins = Vec::new();
            for slot in 0..slots {
                let kind = input_kind(op.kind, slot);
                let value = match op.inputs.get(slot) {
                    Some(Src::Op(j)) => w.outputs[*j][0],
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
            let outs = output_kinds(op.kind).iter().map(|k| w.value(*k)).collect();
            w.inputs.push(ins);
            w.outputs.push(outs);
            w.constrain(i, op.kind, d, blocks)
                .map_err(|e| format!("op {i} ({}): {e}", op.kind))?;
        }
        w.settle(pattern, d);
        Ok(w)
    }

    fn value(&mut self, kind: Kind) -> usize {
        self.kinds.push(kind);
        self.classes.push(Class {
            parent: self.classes.len(),
            form: None,
            flat: Size::Width,
            normed: false,
            multiple: 1,
        });
        self.kinds.len() - 1
    }

    /// The ops' rules; what `graph::Op::infer` checks, told forwards.
    fn constrain(&mut self, i: usize, op: OpKind, d: &Dims, blocks: &Blocks) -> Result<(), String> {
        use OpKind::*;
        let ins = self.inputs[i].clone();
        let outs = self.outputs[i].clone();
        let (x, y) = (ins[0], outs[0]);
        match op {
            Embed => {
                self.form(y, &[Size::Width])?;
                self.multiple(y, blocks.matrix[i]);
            }
            RmsNorm => {
                let class = self.class(x);
                self.classes[class].normed = true;
                self.same(x, y)?;
            }
            Linear => {
                self.flat(x, Size::K);
                self.multiple(x, blocks.matrix[i].max(blocks.act));
                self.flat(y, Size::N);
            }
            RopeTable => self.form(y, &[Size::Rotary])?,
            Rope => {
                self.form(x, &[Size::Heads, Size::HeadDim])?;
                self.form(ins[1], &[Size::Rotary])?;
                self.same(x, y)?;
            }
            KvAppend => {
                self.form(ins[2], &[Size::KvHeads, Size::HeadDim])?;
                self.same(x, ins[1])?;
                self.same(x, ins[2])?;
                self.same(x, y)?;
            }
            Attention => {
                self.form(x, &[Size::Heads, Size::HeadDim])?;
                self.form(ins[1], &[Size::KvHeads, Size::HeadDim])?;
                self.equal(x, 1, ins[1], 1);
                self.same(x, y)?;
            }
            GatedMul(_) => {
                self.same(ins[1], y)?;
                match d.row_gate && self.is_free(x, i) && self.class(x) != self.class(y) {
                    true => self.form(x, &[Size::One])?,
                    false => self.same(x, y)?,
                }
            }
            Add => {
                self.same(x, ins[1])?;
                self.same(x, y)?;
            }
            GatherRows | Scale | SoftCap => self.same(x, y)?,
            ArgMax => {
                self.flat(x, Size::Vocab);
                self.form(y, &[])?;
            }
            TopK => {
                self.form(x, &[Size::Logits])?;
                self.form(y, &[Size::Largest, Size::Pair])?;
            }
            ExpSum => {
                self.form(x, &[Size::Summed])?;
                self.form(ins[1], &[Size::Largest, Size::Pair])?;
                self.form(y, &[Size::Parts, Size::Pair])?;
            }
            Route => {
                self.form(x, &[Size::Experts])?;
                self.form(y, &[Size::TopK])?;
                self.same(y, outs[1])?;
            }
            ExpertLinear => {
                self.form(ins[2], &[Size::TopK])?;
                self.form(y, &[Size::TopK, Size::N])?;
                self.equal(y, 0, ins[2], 0);
                let external = !self.outputs[..i].concat().contains(&x);
                let rank = match self.rank(x) {
                    Some(rank) => rank,
                    None => 1 + usize::from(external && d.per_expert),
                };
                if rank == 1 {
                    self.form(x, &[Size::K])?;
                } else {
                    self.form(x, &[Size::TopK, Size::K])?;
                    self.equal(x, 0, ins[2], 0);
                }
                self.multiple(x, blocks.matrix[i].max(blocks.act));
            }
            ExpertSum => {
                self.form(x, &[Size::TopK, Size::Width])?;
                self.form(ins[1], &[Size::TopK])?;
                self.form(y, &[Size::Width])?;
                self.equal(x, 0, ins[1], 0);
                self.equal(x, 1, y, 0);
            }
            HeadLinear => {
                self.form(x, &[Size::Heads, Size::K])?;
                self.form(y, &[Size::Heads, Size::N])?;
                self.equal(x, 0, y, 0);
                self.multiple(x, blocks.matrix[i].max(blocks.act));
            }
            CausalConv => self.same(x, y)?,
            GatedDelta => {
                self.form(x, &[Size::KeyHeads, Size::KeyDim])?;
                self.same(x, ins[1])?;
                self.form(ins[2], &[Size::ValueHeads, Size::ValueDim])?;
                for gate in [ins[3], ins[4]] {
                    self.form(gate, &[Size::ValueHeads])?;
                    self.equal(gate, 0, ins[2], 0);
                }
                self.same(ins[2], y)?;
            }
            LatentAppend => {
                self.form(x, &[Size::Latent])?;
                self.form(ins[1], &[Size::One, Size::LatentRope])?;
                self.form(ins[2], &[Size::Latent, Size::LatentRope])?;
                self.equal(x, 0, ins[2], 0);
                self.equal(ins[1], 1, ins[2], 1);
                self.same(ins[2], y)?;
            }
            LatentAttention => {
                self.form(x, &[Size::Heads, Size::Latent])?;
                self.form(ins[1], &[Size::Heads, Size::LatentRope])?;
                self.form(ins[2], &[Size::Latent, Size::LatentRope])?;
                self.equal(x, 0, ins[1], 0);
                self.equal(x, 1, ins[2], 0);
                self.equal(ins[1], 1, ins[2], 1);
                self.same(x, y)?;
            }
            Rotate => {
                self.form(x, &[Size::K])?;
                self.multiple(x, d.rotation.1);
                self.same(x, y)?;
            }
        }
        Ok(())
    }

    fn class(&self, mut v: usize) -> usize {
        while self.classes[v].parent != v {
            v = self.classes[v].parent;
        }
        v
    }

    fn dim(&self, mut d: usize) -> usize {
        while self.dims[d].parent != d {
            d = self.dims[d].parent;
        }
        d
    }

    fn rank(&self, v: usize) -> Option<usize> {
        Some(self.classes[self.class(v)].form.as_ref()?.len())
    }

    /// Nothing is known of the shape, and op `i` alone has seen the value or a
    /// linear may give it any.
    fn is_free(&self, v: usize, i: usize) -> bool {
        let alone = !self.inputs[..i].concat().contains(&v);
        let class = &self.classes[self.class(v)];
        let plain = matches!(class.flat, Size::Width | Size::N) && !class.normed;
        alone && plain && class.form.is_none() && class.multiple == 1
    }

    fn flat(&mut self, v: usize, size: Size) {
        let class = self.class(v);
        let flat = &mut self.classes[class].flat;
        *flat = size.min(*flat);
    }

    fn multiple(&mut self, v: usize, of: usize) {
        let class = self.class(v);
        let multiple = &mut self.classes[class].multiple;
        // Blocks are powers of two.
        *multiple = of.max(*multiple);
    }

    /// The value's rows have these dimensions.
    fn form(&mut self, v: usize, sizes: &[Size]) -> Result<(), String> {
        let first = self.dims.len();
        for (n, size) in sizes.iter().enumerate() {
            self.dims.push(Dimension {
                parent: first + n,
                size: *size,
                multiple: 1,
            });
        }
        self.join(self.class(v), (first..self.dims.len()).collect())
    }

    fn join(&mut self, class: usize, dims: Vec<usize>) -> Result<(), String> {
        let Some(old) = self.classes[class].form.clone() else {
            self.classes[class].form = Some(dims);
            return Ok(());
        };
        if old.len() != dims.len() {
            let (old, new) = (old.len(), dims.len());
            return Err(format!("one value would need {old} and {new} dimensions"));
        }
        for (a, b) in old.into_iter().zip(dims) {
            self.equal_dims(a, b);
        }
        Ok(())
    }

    /// The values have one shape.
    fn same(&mut self, a: usize, b: usize) -> Result<(), String> {
        let (a, b) = (self.class(a), self.class(b));
        if a == b {
            return Ok(());
        }
        let form = self.classes[b].form.take();
        let (flat, normed) = (self.classes[b].flat, self.classes[b].normed);
        let multiple = self.classes[b].multiple;
        self.classes[b].parent = a;
        let into = &mut self.classes[a];
        into.flat = into.flat.min(flat);
        into.normed |= normed;
        into.multiple = into.multiple.max(multiple);
        match form {
            Some(form) => self.join(a, form),
            None => Ok(()),
        }
    }

    /// Dimension `i` of `a` is dimension `j` of `b`; both have forms.
    fn equal(&mut self, a: usize, i: usize, b: usize, j: usize) {
        let at = |w: &Self, v: usize, i: usize| w.classes[w.class(v)].form.as_ref().map(|f| f[i]);
        if let (Some(a), Some(b)) = (at(self, a, i), at(self, b, j)) {
            self.equal_dims(a, b);
        }
    }

    fn equal_dims(&mut self, a: usize, b: usize) {
        let (a, b) = (self.dim(a), self.dim(b));
        if a != b {
            let (size, multiple) = (self.dims[b].size, self.dims[b].multiple);
            self.dims[b].parent = a;
            self.dims[a].size = self.dims[a].size.min(size);
            self.dims[a].multiple = self.dims[a].multiple.max(multiple);
        }
    }

    /// Numbers for all dimensions.
    fn settle(&mut self, pattern: &Pattern, d: &Dims) {
        for v in 0..self.kinds.len() {
            let class = self.class(v);
            let Class { flat, normed, .. } = self.classes[class];
            if self.classes[class].form.is_none() {
                let heads = normed && d.per_head && matches!(flat, Size::N | Size::Width);
                let form: &[Size] = match heads {
                    true => &[Size::Heads, Size::HeadDim],
                    false => &[flat],
                };
                // A class without a form takes any.
                let _ = self.form(v, form);
            }
            let last = self.classes[class].form.as_ref().and_then(|f| f.last());
            if let Some(last) = last.map(|l| self.dim(*l)) {
                let multiple = &mut self.dims[last].multiple;
                *multiple = (*multiple).max(self.classes[class].multiple);
            }
        }
        // A rotation must fit the smallest head.
        let ropes = pattern.ops.iter().zip(&self.inputs);
        let heads = ropes
            .filter(|(op, _)| op.kind == OpKind::Rope)
            .map(|(_, ins)| {
                let form = self.classes[self.class(ins[0])].form.as_ref();
                form.map_or(1, |f| self.number(f[1], d))
            });
        let head = heads.min().unwrap_or(d.head_dim);
        self.rotary_dim = (head / d.rotary_parts / 2 * 2).max(2);
        self.shapes = (0..self.kinds.len())
            .map(|v| {
                let form = self.classes[self.class(v)].form.as_ref();
                let numbers = form.map(|f| f.iter().map(|i| self.number(*i, d)).collect());
                numbers.unwrap_or_default()
            })
            .collect();
    }

    fn number(&self, i: usize, d: &Dims) -> usize {
        let root = self.dim(i);
        let Dimension { size, multiple, .. } = self.dims[root];
        let from = |list: &[usize]| list[root % list.len()];
        let number = match size {
            Size::One => 1,
            Size::Pair => 2,
            Size::Logits if d.bucket.1 > 4 => d.largest.0.min(9000),
            Size::Logits => d.largest.0,
            Size::Largest => d.largest.1,
            Size::Summed => d.summed.0,
            Size::Parts => d.summed.1,
            Size::TopK => d.top_k.min(d.experts).min(d.routed),
            Size::KvHeads => d.kv_heads,
            Size::Heads => d.kv_heads * d.group,
            Size::KeyHeads => d.key_heads,
            Size::ValueHeads => d.key_heads * d.value_group,
            Size::HeadDim => d.head_dim,
            Size::KeyDim => d.delta_dims.0,
            Size::ValueDim => d.delta_dims.1,
            Size::Latent => d.latent.0,
            Size::LatentRope => d.latent.1,
            Size::Rotary => return self.rotary_dim,
            Size::Experts => d.routed,
            Size::K => from(&d.k),
            Size::N => from(&d.n),
            Size::Vocab => d.vocab,
            Size::Width => from(&d.width),
        };
        number.next_multiple_of(multiple)
    }
}
