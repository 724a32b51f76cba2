//! The op vocabulary and what each op requires of its operands.

use crate::value::{Dim, ElemType, Shape, Value, ValueKind};
use std::fmt;

/// The nonlinearity of a gated MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// x·σ(x)
    Silu,
}

/// Rotary embedding applied to the first `rotary_dim` elements of each head, in
/// the half-split pairing of Hugging Face's `rotate_half`: element i is paired
/// with i + rotary_dim/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RopeSpec {
    pub rotary_dim: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Multiplies q·k before the softmax.
    pub scale: f32,
    /// Position p sees positions in (p − window, p]; `None` sees all of [0, p].
    pub window: Option<usize>,
}

/// What a node computes. T = rows of the batch, L = rows that need logits.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `table [V, H] → x [T, H]`; the token ids are the step's.
    Embed,
    /// `x [R, …, D], w [D] → y`: x·rsqrt(mean(x²)+eps)·(w + weight_offset), over
    /// the last dimension (so per head when x is `[T, heads, head_dim]`).
    RmsNorm { eps: f32, weight_offset: f32 },
    /// `x [R, …=K], w [N, K], bias [N]? → y [R, out…]` with ∏out = N.
    Linear { out: Vec<usize> },
    /// `inv_freq [rotary_dim/2] → table [T, rotary_dim]`: cos then sin of
    /// position·inv_freq, each times `attention_factor`.
    RopeTable { attention_factor: f32 },
    /// `x [T, heads, head_dim], table [T, rotary_dim] → y`.
    Rope(RopeSpec),
    /// `k [T, kv_heads, head_dim], v [same], cache → cache'`.
    KvAppend,
    /// `q [T, heads, head_dim], cache → o [T, heads, head_dim]`, causal, grouped
    /// queries: head h reads kv head h / (heads / kv_heads).
    Attention(AttentionSpec),
    /// `gate [R, F], up [R, F] → act(gate)·up`.
    GatedMul(Activation),
    /// `a, b → a + b`.
    Add,
    /// `x [T, H] → y [L, H]`: the rows whose logits were asked for.
    GatherRows,
    /// `logits [L, V] → ids [L]` u32; ties go to the lowest id, NaN is never the
    /// largest, and a row with nothing above −∞ gives `u32::MAX`.
    ArgMax,
}

/// An op's name without its attributes: one element of a kernel's layer axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OpKind {
    Embed,
    RmsNorm,
    Linear,
    RopeTable,
    Rope,
    KvAppend,
    Attention,
    GatedMul,
    Add,
    GatherRows,
    ArgMax,
}

impl OpKind {
    pub const ALL: &[OpKind] = &[
        OpKind::Embed,
        OpKind::RmsNorm,
        OpKind::Linear,
        OpKind::RopeTable,
        OpKind::Rope,
        OpKind::KvAppend,
        OpKind::Attention,
        OpKind::GatedMul,
        OpKind::Add,
        OpKind::GatherRows,
        OpKind::ArgMax,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            OpKind::Embed => "embed",
            OpKind::RmsNorm => "rms_norm",
            OpKind::Linear => "linear",
            OpKind::RopeTable => "rope_table",
            OpKind::Rope => "rope",
            OpKind::KvAppend => "kv_append",
            OpKind::Attention => "attention",
            OpKind::GatedMul => "silu_mul",
            OpKind::Add => "add",
            OpKind::GatherRows => "gather_rows",
            OpKind::ArgMax => "argmax",
        }
    }

    /// The operand whose storage scheme is on the key's quant axis: a weight
    /// matrix or a cache. Ops without one are keyed by their activations, f32.
    pub const fn stored_operand(self) -> Option<usize> {
        match self {
            OpKind::Embed => Some(0),
            OpKind::Linear => Some(1),
            OpKind::KvAppend => Some(2),
            OpKind::Attention => Some(1),
            _ => None,
        }
    }
}

impl fmt::Display for OpKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Op {
    pub fn kind(&self) -> OpKind {
        match self {
            Op::Embed => OpKind::Embed,
            Op::RmsNorm { .. } => OpKind::RmsNorm,
            Op::Linear { .. } => OpKind::Linear,
            Op::RopeTable { .. } => OpKind::RopeTable,
            Op::Rope(_) => OpKind::Rope,
            Op::KvAppend => OpKind::KvAppend,
            Op::Attention(_) => OpKind::Attention,
            Op::GatedMul(_) => OpKind::GatedMul,
            Op::Add => OpKind::Add,
            Op::GatherRows => OpKind::GatherRows,
            Op::ArgMax => OpKind::ArgMax,
        }
    }

    /// The outputs that this op yields for these inputs, or what is wrong with
    /// the inputs.
    pub fn infer(&self, ins: &[&Value]) -> Result<Vec<(Shape, ValueKind)>, String> {
        let f32_act = |shape: Shape| (shape, ValueKind::Activation(ElemType::F32));
        let arity = |lo: usize, hi: usize| {
            if (lo..=hi).contains(&ins.len()) {
                Ok(())
            } else {
                Err(format!("takes {lo} to {hi} inputs, got {}", ins.len()))
            }
        };
        match self {
            Op::Embed => {
                arity(1, 1)?;
                let [Dim::Fixed(_), Dim::Fixed(h)] = ins[0].shape.dims() else {
                    return Err(format!("table must be [V, H], got {}", ins[0].shape));
                };
                Ok(vec![f32_act(Shape::rows(&[*h]))])
            }
            Op::RmsNorm { eps, .. } => {
                arity(2, 2)?;
                if !(eps.is_finite() && *eps >= 0.0) {
                    return Err(format!("eps must be finite and not negative, got {eps}"));
                }
                activation(ins[0], "x")?;
                if ins[1].shape.dims().len() != 1 || ins[1].shape.last() != ins[0].shape.last() {
                    return Err(format!(
                        "weight {} does not match x {}",
                        ins[1].shape, ins[0].shape
                    ));
                }
                Ok(vec![f32_act(ins[0].shape.clone())])
            }
            Op::Linear { out } => {
                arity(2, 3)?;
                activation(ins[0], "x")?;
                let k = ins[0].shape.fixed_len().ok_or("K overflows")?;
                let n = out.iter().try_fold(1usize, |a, &b| a.checked_mul(b));
                let n = n.ok_or("N overflows")?;
                if ins[1].shape != Shape::fixed(&[n, k]) {
                    return Err(format!(
                        "weight must be [{n}, {k}] for x {} and out {out:?}, got {}",
                        ins[0].shape, ins[1].shape
                    ));
                }
                if let Some(b) = ins.get(2)
                    && b.shape != Shape::fixed(&[n])
                {
                    return Err(format!("bias must be [{n}], got {}", b.shape));
                }
                let lead = ins[0].shape.leading().ok_or("x has no rows dimension")?;
                Ok(vec![f32_act(Shape::lead(lead, out))])
            }
            Op::RopeTable { attention_factor } => {
                arity(1, 1)?;
                if !attention_factor.is_finite() {
                    return Err("attention_factor must be finite".into());
                }
                let half = ins[0].shape.last().ok_or("inv_freq must be [D/2]")?;
                Ok(vec![f32_act(Shape::rows(&[2 * half]))])
            }
            Op::Rope(spec) => {
                arity(2, 2)?;
                let (_, d) = heads(ins[0], "x")?;
                if spec.rotary_dim == 0 || spec.rotary_dim % 2 != 0 || spec.rotary_dim > d {
                    return Err(format!(
                        "rotary_dim {} must be even and in 2..={d}",
                        spec.rotary_dim
                    ));
                }
                if ins[1].shape != Shape::rows(&[spec.rotary_dim]) {
                    return Err(format!(
                        "table must be [T, {}], got {}",
                        spec.rotary_dim, ins[1].shape
                    ));
                }
                Ok(vec![f32_act(ins[0].shape.clone())])
            }
            Op::KvAppend => {
                arity(3, 3)?;
                let ValueKind::Cache(c) = &ins[2].kind else {
                    return Err("third input must be a cache".into());
                };
                for (v, what) in [(ins[0], "k"), (ins[1], "v")] {
                    if heads(v, what)? != (c.kv_heads, c.head_dim) {
                        return Err(format!(
                            "{what} {} does not match the cache's {} heads of {}",
                            v.shape, c.kv_heads, c.head_dim
                        ));
                    }
                }
                Ok(vec![(ins[2].shape.clone(), ins[2].kind.clone())])
            }
            Op::Attention(spec) => {
                arity(2, 2)?;
                let (h, d) = heads(ins[0], "q")?;
                let ValueKind::Cache(c) = &ins[1].kind else {
                    return Err("second input must be a cache".into());
                };
                if c.head_dim != d || c.kv_heads == 0 || h % c.kv_heads != 0 {
                    return Err(format!(
                        "{h} query heads of {d} do not fit {} kv heads of {}",
                        c.kv_heads, c.head_dim
                    ));
                }
                if !spec.scale.is_finite() || spec.window == Some(0) {
                    return Err("scale must be finite and window positive".into());
                }
                Ok(vec![f32_act(ins[0].shape.clone())])
            }
            Op::GatedMul(_) | Op::Add => {
                arity(2, 2)?;
                activation(ins[0], "a")?;
                activation(ins[1], "b")?;
                if ins[0].shape != ins[1].shape {
                    return Err(format!("shapes {} and {}", ins[0].shape, ins[1].shape));
                }
                Ok(vec![f32_act(ins[0].shape.clone())])
            }
            Op::GatherRows => {
                arity(1, 1)?;
                activation(ins[0], "x")?;
                if ins[0].shape.leading() != Some(Dim::Rows) {
                    return Err(format!("x must be [T, …], got {}", ins[0].shape));
                }
                let mut dims = ins[0].shape.0.clone();
                dims[0] = Dim::LogitRows;
                Ok(vec![f32_act(Shape(dims))])
            }
            Op::ArgMax => {
                arity(1, 1)?;
                activation(ins[0], "logits")?;
                let lead = ins[0].shape.leading().ok_or("logits has no rows")?;
                Ok(vec![(
                    Shape::lead(lead, &[]),
                    ValueKind::Activation(ElemType::U32),
                )])
            }
        }
    }
}

fn activation(v: &Value, what: &str) -> Result<(), String> {
    match (&v.kind, v.shape.leading()) {
        (ValueKind::Activation(ElemType::F32), Some(_)) => Ok(()),
        _ => Err(format!("{what} must be an f32 activation with rows")),
    }
}

fn heads(v: &Value, what: &str) -> Result<(usize, usize), String> {
    activation(v, what)?;
    match v.shape.dims() {
        [Dim::Rows, Dim::Fixed(h), Dim::Fixed(d)] if *h > 0 && *d > 0 => Ok((*h, *d)),
        _ => Err(format!(
            "{what} must be [T, heads, head_dim], got {}",
            v.shape
        )),
    }
}
