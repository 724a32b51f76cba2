//! The op vocabulary. What each op requires of its operands is in `infer`.

use std::fmt;

/// The nonlinearity of a gated product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Activation {
    /// x·σ(x)
    Silu,
    /// ½x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))
    GeluTanh,
    /// ½x·(1 + erf(x/√2))
    Gelu,
    /// σ(x)
    Sigmoid,
    /// x: a plain product.
    Identity,
    /// GPT-OSS: x' = min(x, 7) gives x'·σ(1.702·x'), and the other factor becomes
    /// clamp(up, −7, 7) + 1.
    SwigluOai,
}

impl Activation {
    pub const ALL: &[Activation] = &[
        Activation::Silu,
        Activation::GeluTanh,
        Activation::Gelu,
        Activation::Sigmoid,
        Activation::Identity,
        Activation::SwigluOai,
    ];
}

/// Rotary embedding of elements `first..first + rotary_dim` of each head; the
/// others are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RopeSpec {
    pub first: usize,
    pub rotary_dim: usize,
    /// Pairs neighbours, 2i with 2i + 1; otherwise i with i + rotary_dim/2, as
    /// Hugging Face's `rotate_half` does.
    pub interleaved: bool,
}

impl RopeSpec {
    /// The first `rotary_dim` elements in the half-split pairing.
    pub fn half_split(rotary_dim: usize) -> Self {
        RopeSpec {
            first: 0,
            rotary_dim,
            interleaved: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Multiplies q·k before the softmax.
    pub scale: f32,
    /// Position p sees positions in (p − window, p]; `None` sees all of [0, p].
    pub window: Option<usize>,
    /// Scores s become cap·tanh(s/cap) before the softmax.
    pub softcap: Option<f32>,
}

impl AttentionSpec {
    /// Full causal attention.
    pub fn causal(scale: f32) -> Self {
        AttentionSpec {
            scale,
            window: None,
            softcap: None,
        }
    }
}

/// What a router makes of its logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteScore {
    /// Softmax over all experts.
    Softmax,
    /// σ of each logit.
    Sigmoid,
}

/// Only experts of the best groups are eligible: a group's score is the sum of
/// its two largest selection scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteGroups {
    /// Groups of equal size.
    pub count: usize,
    /// How many stay eligible.
    pub keep: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouteSpec {
    pub top_k: usize,
    pub score: RouteScore,
    /// Divides the chosen scores by their sum.
    pub normalise: bool,
    /// Multiplies the weights in the end.
    pub scale: f32,
    pub groups: Option<RouteGroups>,
}

/// A causal depthwise convolution over the rows of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvSpec {
    /// Taps; the last one meets the current row.
    pub kernel: usize,
    /// x·σ(x) on the result.
    pub silu: bool,
}

/// The gated delta rule (Gated DeltaNet, Yang et al. 2024).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeltaSpec {
    /// The decay input holds A_log; otherwise −exp(A_log).
    pub log_decay: bool,
    /// Value head h uses key head h mod key_heads; otherwise h / (value_heads /
    /// key_heads).
    pub tiled: bool,
}

/// What a node computes. T = rows of the batch, L = rows that need logits.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `table [V, H] → x [T, H]`; the token ids are the step's.
    Embed,
    /// `x [R, …], w [D] → y`: x·rsqrt(mean(x²)+eps)·(w + weight_offset), over the
    /// trailing dimensions whose product is D: per head when x is `[T, heads,
    /// head_dim]` and D is head_dim.
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
    /// `q [T, heads, head_dim], cache, sinks [heads]? → o [T, heads, head_dim]`,
    /// causal, grouped queries: head h reads kv head h / (heads / kv_heads). A
    /// sink is one more score of its head, as it is, whose value is zero.
    Attention(AttentionSpec),
    /// `gate [R, …], up [R, …] → act(gate)·up`; `gate [R, 1]` serves a whole row.
    GatedMul(Activation),
    /// `a, b → a + b`.
    Add,
    /// `x → factor·x`.
    Scale { factor: f32 },
    /// `x → cap·tanh(x/cap)`.
    SoftCap { cap: f32 },
    /// `logits [T, E], bias [E]? → weights [T, k], experts [T, k] u32`. The k
    /// experts of the largest score (plus bias, which takes part in the selection
    /// alone), largest first, ties to the lowest expert.
    Route(RouteSpec),
    /// `x [T, K] or [T, k, K], w [experts·N, K], chosen [T, k] u32, bias
    /// [experts·N]? → y [T, k, N]`: each row times the matrices of its experts;
    /// expert e owns rows e·N up to (e + 1)·N.
    ExpertLinear { experts: usize },
    /// `y [T, k, H], weights [T, k] → [T, H]`: Σⱼ weightsⱼ·yⱼ, j ascending.
    ExpertSum,
    /// `x [T, heads, K], w [heads·N, K] → y [T, heads, N]`: a matrix for each head.
    HeadLinear,
    /// `x [T, C], w [C·kernel], state, bias [C]? → y [T, C], state'`: y[t, c] =
    /// Σᵢ w[c, i]·x[t − kernel + 1 + i, c]; the state holds the last kernel − 1
    /// inputs, `[kernel − 1, C]`, oldest first.
    CausalConv(ConvSpec),
    /// `q, k [T, key_heads, dk], v [T, value_heads, dv], a, b [T, value_heads],
    /// decay, dt_bias [value_heads], state → o [T, value_heads, dv], state'`. For
    /// each value head, with S `[dk, dv]` its state: q ← q·rsqrt(Σq² + 1e-6)/√dk,
    /// k ← k·rsqrt(Σk² + 1e-6), S ← exp(decay·softplus(a + dt_bias))·S, S ← S +
    /// k·(σ(b)·(v − kᵀS)), o = qᵀS.
    GatedDelta(DeltaSpec),
    /// `c [T, L], k [T, 1, R], cache → cache'`: multi-head latent attention keeps
    /// one vector for all heads, c followed by k.
    LatentAppend,
    /// `q_latent [T, heads, L], q_rope [T, heads, R], cache → o [T, heads, L]`:
    /// scores scale·(q_latent·c + q_rope·k), values c; causal.
    LatentAttention { scale: f32 },
    /// `x [R, …], theta [rounds·K/2], pairs [rounds·K], scales [K] → y` as x, with K
    /// a product of trailing dimensions (ParoQuant): x·scales, then within each group
    /// of `group` elements `rounds` times group/2 disjoint Givens rotations; pairs are
    /// local to their group.
    Rotate { rounds: usize, group: usize },
    /// `x [T, H] → y [L, H]`: the rows whose logits were asked for.
    GatherRows,
    /// `logits [L, V] → ids [L]` u32; ties go to the lowest id, NaN is never the
    /// largest, and a row with nothing above −∞ gives `u32::MAX`.
    ArgMax,
    /// `logits [L, V] → top [L, k, 2]` u32: the k largest logits in descending order,
    /// ties to the lowest id, as ids and bits of f32. NaN is larger than any number and
    /// given as `0x7fffffff`, both zeros are +0, and places behind the last logit hold `u32::MAX` and −∞.
    TopK { k: usize },
    /// `logits [L, V], top [L, k, 2] u32 → sums [L, parts, 2]` u32: what probabilities are
    /// shares of. A logit's weight is e^((logit − m) · t), at most 1, in units of 2⁻⁴⁰ rounded
    /// down, where m is the first logit of `top` and t the row's in the step buffer
    /// (`inv_temps`). The weights of each of the `parts` runs of ⌈V / parts⌉ logits are
    /// summed as u64, low word first. All bits are defined (by `sampling::Weigh`), so no
    /// order of summation can change one. A row whose m is not finite sums to 0.
    ExpSum { parts: usize },
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
    GatedMul(Activation),
    Add,
    GatherRows,
    ArgMax,
    TopK,
    ExpSum,
    Scale,
    SoftCap,
    Route,
    ExpertLinear,
    ExpertSum,
    HeadLinear,
    CausalConv,
    GatedDelta,
    LatentAppend,
    LatentAttention,
    Rotate,
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
        OpKind::GatedMul(Activation::Silu),
        OpKind::GatedMul(Activation::GeluTanh),
        OpKind::GatedMul(Activation::Gelu),
        OpKind::GatedMul(Activation::Sigmoid),
        OpKind::GatedMul(Activation::Identity),
        OpKind::GatedMul(Activation::SwigluOai),
        OpKind::Add,
        OpKind::GatherRows,
        OpKind::ArgMax,
        OpKind::TopK,
        OpKind::ExpSum,
        OpKind::Scale,
        OpKind::SoftCap,
        OpKind::Route,
        OpKind::ExpertLinear,
        OpKind::ExpertSum,
        OpKind::HeadLinear,
        OpKind::CausalConv,
        OpKind::GatedDelta,
        OpKind::LatentAppend,
        OpKind::LatentAttention,
        OpKind::Rotate,
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
            OpKind::GatedMul(Activation::Silu) => "silu_mul",
            OpKind::GatedMul(Activation::GeluTanh) => "gelu_tanh_mul",
            OpKind::GatedMul(Activation::Gelu) => "gelu_mul",
            OpKind::GatedMul(Activation::Sigmoid) => "sigmoid_mul",
            OpKind::GatedMul(Activation::Identity) => "mul",
            OpKind::GatedMul(Activation::SwigluOai) => "swiglu_oai_mul",
            OpKind::Add => "add",
            OpKind::GatherRows => "gather_rows",
            OpKind::ArgMax => "argmax",
            OpKind::TopK => "top_k",
            OpKind::ExpSum => "exp_sum",
            OpKind::Scale => "scale",
            OpKind::SoftCap => "softcap",
            OpKind::Route => "route",
            OpKind::ExpertLinear => "expert_linear",
            OpKind::ExpertSum => "expert_sum",
            OpKind::HeadLinear => "head_linear",
            OpKind::CausalConv => "causal_conv",
            OpKind::GatedDelta => "gated_delta",
            OpKind::LatentAppend => "latent_append",
            OpKind::LatentAttention => "latent_attention",
            OpKind::Rotate => "rotate",
        }
    }

    /// The operand whose storage scheme is on the key's quant axis: a weight
    /// matrix or a cache. Ops without one are keyed by their activations, f32.
    pub const fn stored_operand(self) -> Option<usize> {
        match self {
            OpKind::Embed => Some(0),
            OpKind::Linear | OpKind::ExpertLinear | OpKind::HeadLinear => Some(1),
            OpKind::KvAppend | OpKind::LatentAppend => Some(2),
            OpKind::Attention => Some(1),
            OpKind::LatentAttention => Some(2),
            _ => None,
        }
    }

    /// Whether it multiplies activations with a stored matrix, so that their
    /// format ([`crate::Op::Linear`]'s act axis) is part of its numbers.
    pub const fn multiplies(self) -> bool {
        matches!(
            self,
            OpKind::Linear | OpKind::ExpertLinear | OpKind::HeadLinear
        )
    }

    /// Whether an activation format is part of its numbers: of products with a stored
    /// matrix, and of attention, whose queries are multiplied in it. A kernel declares one
    /// format for all such ops of its pattern.
    pub const fn has_act(self) -> bool {
        self.multiplies() || matches!(self, OpKind::Attention)
    }

    /// The input that the op updates in place: its last output is that cache's
    /// next version.
    pub const fn updates(self) -> Option<usize> {
        match self {
            OpKind::KvAppend | OpKind::LatentAppend | OpKind::CausalConv => Some(2),
            OpKind::GatedDelta => Some(7),
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
            Op::GatedMul(act) => OpKind::GatedMul(*act),
            Op::Add => OpKind::Add,
            Op::GatherRows => OpKind::GatherRows,
            Op::ArgMax => OpKind::ArgMax,
            Op::TopK { .. } => OpKind::TopK,
            Op::ExpSum { .. } => OpKind::ExpSum,
            Op::Scale { .. } => OpKind::Scale,
            Op::SoftCap { .. } => OpKind::SoftCap,
            Op::Route(_) => OpKind::Route,
            Op::ExpertLinear { .. } => OpKind::ExpertLinear,
            Op::ExpertSum => OpKind::ExpertSum,
            Op::HeadLinear => OpKind::HeadLinear,
            Op::CausalConv(_) => OpKind::CausalConv,
            Op::GatedDelta(_) => OpKind::GatedDelta,
            Op::LatentAppend => OpKind::LatentAppend,
            Op::LatentAttention { .. } => OpKind::LatentAttention,
            Op::Rotate { .. } => OpKind::Rotate,
        }
    }
}
