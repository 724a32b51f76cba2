//! What a kernel is asked to do: ops, operands, row bucket, device.

use crate::scheme::Scheme;
use crate::step::StepLayout;
use graph::{CacheKind, Op};
use hal::DeviceInfo;
use std::sync::Arc;

/// Rows of the batch that one plan serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowRange {
    pub min: usize,
    pub max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperandRole {
    Activation,
    /// A stored matrix in its file scheme, in some layout.
    Matrix,
    /// A vector or constant, f32.
    Vector,
    /// Pages of keys and values or of latent vectors.
    Cache,
    /// Slots of recurrent states.
    State,
}

/// Scales, and elements behind them, start at multiples of so many bytes.
const SCALES_ALIGN: usize = 16;

/// Where a layer's keys and values lie in its group's pages. Units: elements of
/// the cache's scheme. Element (page p, kv s ∈ {0 = k, 1 = v}, head h, token t,
/// d) is at `p·page_stride + offset + s·kv_stride + h·head_stride +
/// t·token_stride + d`. A cache of latent vectors has one head and no values.
/// Schemes with a scale for each head and token keep those behind the elements of
/// all heads of a page's keys, and of its values: see [`CacheView::scale_at`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheView {
    /// Index into [`StepLayout::groups`].
    pub group: usize,
    pub kind: CacheKind,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Tokens of a page.
    pub block: usize,
    pub pages: usize,
    pub page_stride: usize,
    pub offset: usize,
    pub kv_stride: usize,
    pub head_stride: usize,
    pub token_stride: usize,
}

impl CacheView {
    /// Index of the first element of a token's head.
    pub fn at(&self, page: usize, kv: usize, head: usize, token: usize) -> usize {
        page * self.page_stride
            + self.offset
            + kv * self.kv_stride
            + head * self.head_stride
            + token * self.token_stride
    }

    /// Index of the first byte of a token's head's scale, in a scheme whose elements
    /// are bytes and whose scales have `bytes` of them.
    pub fn scale_at(
        &self,
        (page, kv): (usize, usize),
        head: usize,
        token: usize,
        bytes: usize,
    ) -> usize {
        page * self.page_stride
            + self.offset
            + kv * self.kv_stride
            + Self::align(self.kv_heads * self.block * self.head_dim)
            + (head * self.block + token) * bytes
    }

    /// Elements that all keys of a layer (or all values) take in a page: its
    /// `kv_stride` at least. `None` if they are too many to count.
    pub fn plane(scheme: Scheme, kv_heads: usize, head_dim: usize, block: usize) -> Option<usize> {
        let rows = kv_heads.checked_mul(block)?;
        let elements = rows.checked_mul(head_dim)?;
        match scheme.scale_bytes() {
            0 => Some(elements),
            bytes => {
                let elements = elements.checked_add(SCALES_ALIGN)?;
                let end =
                    Self::align(elements - SCALES_ALIGN).checked_add(rows.checked_mul(bytes)?)?;
                end.checked_next_multiple_of(SCALES_ALIGN)
            }
        }
    }

    fn align(n: usize) -> usize {
        n.next_multiple_of(SCALES_ALIGN)
    }
}

/// Where a layer's recurrent state lies in a slot of the state pool. Units: f32
/// elements. Element i of slot s is at `s·slot_stride + offset + i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StateView {
    pub slots: usize,
    pub slot_stride: usize,
    pub offset: usize,
    pub len: usize,
}

impl StateView {
    /// Index of the first element of a slot's state.
    pub fn at(&self, slot: usize) -> usize {
        slot * self.slot_stride + self.offset
    }
}

/// Which counter of the step bounds an operand's leading dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowsFrom {
    /// None: weights, vectors, caches.
    Fixed,
    /// Tokens of the batch.
    Batch,
    /// Tokens whose logits were asked for.
    Logits,
}

#[derive(Clone, Debug)]
pub struct Operand {
    pub role: OperandRole,
    pub rows: RowsFrom,
    /// Dimensions, rows bound to the bucket's maximum.
    pub shape: Vec<usize>,
    pub scheme: Scheme,
    pub layout: &'static str,
    pub cache: Option<CacheView>,
    pub state: Option<StateView>,
}

impl Operand {
    /// Elements of one row of an activation: all dimensions but the first.
    pub fn row_len(&self) -> usize {
        self.shape.iter().skip(1).product()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperandSrc {
    /// Index into [`Problem::inputs`].
    Input(usize),
    /// The first output of an earlier op of the pattern, which need not be stored.
    Op(usize),
}

#[derive(Clone, Debug)]
pub struct ProblemOp {
    pub op: Op,
    pub inputs: Vec<OperandSrc>,
    /// Dimensions of the op's first output, rows bound to the bucket's maximum.
    pub shape: Vec<usize>,
    /// Index into [`Problem::outputs`] of the first output if it is stored; its
    /// other outputs follow.
    pub output: Option<usize>,
}

/// One use of a kernel, complete but for addresses.
#[derive(Clone, Debug)]
pub struct Problem {
    /// In pattern order.
    pub ops: Vec<ProblemOp>,
    /// Values from outside, each once, in order of first use.
    pub inputs: Vec<Operand>,
    /// The pattern's declared outputs.
    pub outputs: Vec<Operand>,
    pub rows: RowRange,
    pub step: Arc<StepLayout>,
    pub device: Arc<DeviceInfo>,
}

impl Problem {
    /// Input `i` of op `op`, if it comes from outside: its index and itself.
    pub fn input(&self, op: usize, i: usize) -> Option<(usize, &Operand)> {
        match self.ops.get(op)?.inputs.get(i)? {
            OperandSrc::Input(n) => Some((*n, &self.inputs[*n])),
            OperandSrc::Op(_) => None,
        }
    }

    /// Schemes of the stored operands in pattern order, as the key writes them.
    pub fn quant(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for (i, op) in self.ops.iter().enumerate() {
            if let Some(slot) = op.op.kind().stored_operand()
                && let Some((_, operand)) = self.input(i, slot)
            {
                names.push(operand.scheme.0);
            }
        }
        join_quant(&names)
    }

    /// Refuses what only some kernels know: soft caps, sinks, rotations other than
    /// of a head's first elements in the half-split pairing, one gate for a row.
    pub fn common_attributes(&self) -> Result<(), String> {
        for op in &self.ops {
            match &op.op {
                Op::Attention(spec) if spec.softcap.is_some() => {
                    return Err("it has no soft cap".into());
                }
                Op::Attention(_) if op.inputs.len() > 2 => {
                    return Err("it has no attention sinks".into());
                }
                Op::Rope(spec) if spec.interleaved || spec.first > 0 => {
                    return Err(
                        "it rotates the first elements of a head, in the half-split pairing".into(),
                    );
                }
                Op::GatedMul(_) => {
                    let gate = match op.inputs[0] {
                        OperandSrc::Input(n) => &self.inputs[n].shape,
                        OperandSrc::Op(j) => &self.ops[j].shape,
                    };
                    if *gate != op.shape {
                        return Err("it has no gate for a whole row".into());
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Bytes of every stored or streamed operand that `rows` rows touch, each once;
    /// caches aside.
    pub fn bytes(&self, rows: usize) -> u64 {
        let looked_up = self.ops.len() == 1 && self.ops[0].op == Op::Embed;
        // Of stacked experts at most those that the rows chose.
        let experts = self.ops.iter().find_map(|o| match o.op {
            Op::ExpertLinear { experts } => Some((experts, o.shape.get(1).copied().unwrap_or(1))),
            _ => None,
        });
        let one = |o: &Operand| -> u64 {
            match o.role {
                OperandRole::Cache | OperandRole::State => 0,
                OperandRole::Activation => (rows * o.row_len() * 4) as u64,
                _ => {
                    let last = *o.shape.last().unwrap_or(&0);
                    let mut n: usize = o.shape.iter().rev().skip(1).product();
                    if looked_up {
                        n = n.min(rows);
                    }
                    if let (Some((experts, per_row)), OperandRole::Matrix) = (experts, o.role) {
                        n = n / experts.max(1) * experts.min(rows.saturating_mul(per_row));
                    }
                    o.scheme.row_bytes(last).unwrap_or(0) * n as u64
                }
            }
        };
        self.inputs.iter().chain(&self.outputs).map(one).sum()
    }
}

/// One name means all equal; no stored operand means f32 activations.
pub(crate) fn join_quant(names: &[&str]) -> String {
    match names {
        [] => "f32".into(),
        [first, rest @ ..] if rest.iter().all(|n| n == first) => (*first).into(),
        all => all.join(","),
    }
}
