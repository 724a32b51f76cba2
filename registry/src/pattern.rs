//! The shape of what a kernel covers: one op, or a small graph of ops.

use crate::key::Layer;
use graph::{Activation, OpKind};

/// Where a pattern op's input comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Src {
    /// From outside the pattern.
    Any,
    /// The first output of an earlier op of the pattern.
    Op(usize),
    /// The same value as input `.1` of op `.0`.
    Same(usize, usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatternOp {
    pub kind: OpKind,
    /// Constraints on the leading inputs; further inputs (a bias) are from
    /// outside.
    pub inputs: &'static [Src],
}

/// A connected, convex subgraph with its ops in topological order. A value that
/// is used outside a match must be one of the declared outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    pub ops: &'static [PatternOp],
    /// Ops whose outputs the kernel writes, in the order of its output operands; an
    /// op that has two gives both.
    pub outputs: &'static [usize],
}

macro_rules! singles {
    ($($name:ident = $kind:expr),+ $(,)?) => {
        /// The patterns of the primitives.
        impl Pattern {
            $(pub const $name: Pattern = Pattern {
                ops: &[PatternOp { kind: $kind, inputs: &[] }],
                outputs: &[0],
            };)+
        }
    };
}

singles! {
    EMBED = OpKind::Embed,
    RMS_NORM = OpKind::RmsNorm,
    LINEAR = OpKind::Linear,
    ROPE_TABLE = OpKind::RopeTable,
    ROPE = OpKind::Rope,
    KV_APPEND = OpKind::KvAppend,
    ATTENTION = OpKind::Attention,
    SILU_MUL = OpKind::GatedMul(Activation::Silu),
    GELU_TANH_MUL = OpKind::GatedMul(Activation::GeluTanh),
    GELU_MUL = OpKind::GatedMul(Activation::Gelu),
    SIGMOID_MUL = OpKind::GatedMul(Activation::Sigmoid),
    MUL = OpKind::GatedMul(Activation::Identity),
    SWIGLU_OAI_MUL = OpKind::GatedMul(Activation::SwigluOai),
    ADD = OpKind::Add,
    GATHER_ROWS = OpKind::GatherRows,
    ARGMAX = OpKind::ArgMax,
    TOP_K = OpKind::TopK,
    EXP_SUM = OpKind::ExpSum,
    SCALE = OpKind::Scale,
    SOFTCAP = OpKind::SoftCap,
    ROUTE = OpKind::Route,
    EXPERT_LINEAR = OpKind::ExpertLinear,
    EXPERT_SUM = OpKind::ExpertSum,
    HEAD_LINEAR = OpKind::HeadLinear,
    CAUSAL_CONV = OpKind::CausalConv,
    GATED_DELTA = OpKind::GatedDelta,
    LATENT_APPEND = OpKind::LatentAppend,
    LATENT_ATTENTION = OpKind::LatentAttention,
    ROTATE = OpKind::Rotate,
}

impl Pattern {
    pub fn layer(&self) -> Layer {
        Layer(self.ops.iter().map(|o| o.kind).collect())
    }

    pub fn is_composite(&self) -> bool {
        self.ops.len() > 1
    }

    /// What is wrong with the pattern itself, if anything.
    pub fn check(&self) -> Result<(), String> {
        let mut reached = vec![false; self.ops.len()];
        for (i, op) in self.ops.iter().enumerate() {
            let mut linked = i == 0;
            for src in op.inputs {
                match *src {
                    Src::Any => {}
                    Src::Op(j) if j < i => linked = true,
                    Src::Same(j, k) if j < i && k < 8 => linked = true,
                    bad => return Err(format!("op {i} has source {bad:?}, which is not earlier")),
                }
            }
            reached[i] = linked;
        }
        // Ops may join only later (two norms that meet in one append); the last
        // op must tie the pattern together.
        let joined_later = |i: usize| {
            self.ops[i + 1..]
                .iter()
                .any(|o| o.inputs.contains(&Src::Op(i)))
        };
        for (i, linked) in reached.iter().enumerate() {
            if !linked && !joined_later(i) {
                return Err(format!("op {i} is not connected to the rest"));
            }
        }
        if self.outputs.is_empty() || self.outputs.iter().any(|&o| o >= self.ops.len()) {
            return Err("outputs must name ops of the pattern".into());
        }
        Ok(())
    }
}
