//! The composites: every chain of ops that a tree fuses, defined once, so that all
//! trees mean the same by its name. What a chain stores is part of it: one that keeps
//! what another drops, or takes an input from elsewhere, is an entry of its own.
//!
//! In the formulas x·Wᵀ is a linear, whose bias, if it has one, comes from outside.

use crate::pattern::Src::{Any, Op, Same};
use crate::pattern::{Pattern, PatternOp, Src};
use graph::Activation;
use graph::OpKind::{
    self, Add, Attention, CausalConv, ExpertLinear, ExpertSum, GatedDelta, GatedMul, KvAppend,
    Linear, RmsNorm, Rope, Route,
};

const fn op(kind: OpKind, inputs: &'static [Src]) -> PatternOp {
    PatternOp { kind, inputs }
}

/// The first `n` ops of a longer chain.
const fn first(n: usize, of: Pattern) -> &'static [PatternOp] {
    of.ops.split_at(n).0
}

const NORM: PatternOp = op(RmsNorm, &[]);
const LINEAR: PatternOp = op(Linear, &[]);
const EXPERTS: PatternOp = op(ExpertLinear, &[]);
const CONV: PatternOp = op(CausalConv, &[]);

/// A linear of the norm that comes first.
const OF_NORM: PatternOp = op(Linear, &[Op(0)]);

/// A linear of the x that the first op multiplies.
const SAME_X: PatternOp = op(Linear, &[Same(0, 0)]);

/// The first op's x with other matrices of the experts that it chose.
const SAME_EXPERTS: PatternOp = op(ExpertLinear, &[Same(0, 0), Any, Same(0, 2)]);

/// A gated product, silu(gate)·up.
const fn silu_mul(inputs: &'static [Src]) -> PatternOp {
    op(GatedMul(Activation::Silu), inputs)
}

macro_rules! catalogue {
    ($($(#[$doc:meta])+ $name:ident = $ops:expr, stores $outputs:expr;)+) => {
        $($(#[$doc])+ pub const $name: Pattern = Pattern { ops: $ops, outputs: &$outputs };)+

        /// Every entry with its name.
        pub const ALL: &[(&str, &Pattern)] = &[$((stringify!($name), &$name)),+];
    };
}

catalogue! {
    // Linears and norms.

    /// h = a + b, y = rms_norm(h): a residual and the next norm. Stores h and y.
    ADD_NORM = &[op(Add, &[]), op(RmsNorm, &[Op(0)])], stores [0, 1];

    /// h = residual + x·Wᵀ. Stores h.
    LINEAR_ADD = first(2, LINEAR_ADD_NORM), stores [1];

    /// h = residual + x·Wᵀ, y = rms_norm(h). Stores h and y.
    LINEAR_ADD_NORM = &[LINEAR, op(Add, &[Any, Op(0)]), op(RmsNorm, &[Op(1)])], stores [1, 2];

    /// yᵢ = x·Wᵢᵀ, i = 0, 1: two projections of one x. Stores both.
    LINEAR_PAIR = &[LINEAR, SAME_X], stores [0, 1];

    /// yᵢ = x·Wᵢᵀ, i = 0, 1, 2: the projections to q, k and v. Stores all three.
    QKV = &[LINEAR, SAME_X, SAME_X], stores [0, 1, 2];

    /// `QKV`, and what gates the mixer's output. Stores all four.
    QKV_GATE = &[LINEAR, SAME_X, SAME_X, SAME_X], stores [0, 1, 2, 3];

    /// y = silu(x·Gᵀ)·(x·Uᵀ): SwiGLU's gate and up. Stores y.
    GATE_UP = &[LINEAR, SAME_X, silu_mul(&[Op(0), Op(1)])], stores [2];

    /// y = rms_norm(x)·Wᵀ. Stores y.
    NORM_LINEAR = &[NORM, OF_NORM], stores [1];

    /// yᵢ = rms_norm(x)·Wᵢᵀ, i = 0, 1. Stores both, the norm not.
    NORM_LINEAR_PAIR = &[NORM, OF_NORM, OF_NORM], stores [1, 2];

    /// `QKV` of rms_norm(x). Stores the three, the norm not.
    NORM_QKV = &[NORM, OF_NORM, OF_NORM, OF_NORM], stores [1, 2, 3];

    /// `GATE_UP` of rms_norm(x). Stores the product alone.
    NORM_GATE_UP = &[NORM, OF_NORM, OF_NORM, silu_mul(&[Op(1), Op(2)])], stores [3];

    /// y = silu(z)·rms_norm(x): the gated RMSNorm behind a recurrent mixer. Stores y.
    GATED_NORM = &[NORM, silu_mul(&[Any, Op(0)])], stores [1];

    // Attention. q and k are rotated by the same table.

    /// q' = rope(q), cache' = kv_append(rope(k), v). Stores q' and cache'.
    ROPE_APPEND = first(3, ROPE_ATTEND), stores [0, 2];

    /// `ROPE_APPEND`, o = attention(q', cache'). Stores o, then cache'; q' not.
    ROPE_ATTEND = &[
        op(Rope, &[]),
        op(Rope, &[Any, Same(0, 1)]),
        op(KvAppend, &[Op(1)]),
        op(Attention, &[Op(0), Op(2)]),
    ], stores [3, 2];

    /// `ROPE_APPEND` of rms_norm(q) and rms_norm(k), QK norm. Stores q' and cache'.
    QK_NORM_ROPE_APPEND = first(5, QK_NORM_ROPE_ATTEND), stores [2, 4];

    /// `ROPE_ATTEND` of rms_norm(q) and rms_norm(k), QK norm. Stores o, then cache'; q' not.
    QK_NORM_ROPE_ATTEND = &[
        NORM,
        NORM,
        op(Rope, &[Op(0)]),
        op(Rope, &[Op(1), Same(2, 1)]),
        op(KvAppend, &[Op(3)]),
        op(Attention, &[Op(2), Op(4)]),
    ], stores [5, 4];

    // Gated DeltaNet. A convolution and the rule store their states with their values.

    /// q, k, v = causal_conv of each, o = gated_delta(q, k, v). Stores all four.
    CONV_DELTA = first(4, CONV_DELTA_GATED_NORM), stores [0, 1, 2, 3];

    /// `CONV_DELTA`, y = silu(z)·rms_norm(o). Stores q, k, v, o and y; the norm not.
    CONV_DELTA_GATED_NORM = &[
        CONV,
        CONV,
        CONV,
        op(GatedDelta, &[Op(0), Op(1), Op(2)]),
        op(RmsNorm, &[Op(3)]),
        silu_mul(&[Any, Op(4)]),
    ], stores [0, 1, 2, 3, 5];

    /// `CONV_DELTA_GATED_NORM` with the projections that decay and beta are made of: a, b =
    /// x·Wᵀ of one x. Stores what that does.
    DELTA_NET = &[
        LINEAR,
        SAME_X,
        CONV,
        CONV,
        CONV,
        op(GatedDelta, &[Op(2), Op(3), Op(4), Op(0), Op(1)]),
        op(RmsNorm, &[Op(5)]),
        silu_mul(&[Any, Op(6)]),
    ], stores [2, 3, 4, 5, 7];

    // Mixtures of experts. e runs over the experts that a row chose.

    /// y = x·Wᵀ beside a router, weights and experts = route(x·Rᵀ). Stores all but its logits.
    ROUTER_LINEAR = &[LINEAR, SAME_X, op(Route, &[Op(0)])], stores [1, 2];

    /// yₑ = silu(x·Gₑᵀ)·(x·Uₑᵀ). Stores the products.
    EXPERTS_GATE_UP = first(3, EXPERTS_SHARED_GATE_UP), stores [2];

    /// yₑ = swiglu_oai(x·Gₑᵀ, x·Uₑᵀ): GPT-OSS's clamped SwiGLU. Stores the products.
    EXPERTS_GATE_UP_OAI = &[
        EXPERTS,
        SAME_EXPERTS,
        op(GatedMul(Activation::SwigluOai), &[Op(0), Op(1)]),
    ], stores [2];

    /// `EXPERTS_GATE_UP`, and `GATE_UP` of a shared expert. Stores both products.
    EXPERTS_SHARED_GATE_UP = &[
        EXPERTS,
        SAME_EXPERTS,
        silu_mul(&[Op(0), Op(1)]),
        SAME_X,
        SAME_X,
        silu_mul(&[Op(3), Op(4)]),
    ], stores [2, 5];

    /// y = Σₑ weightsₑ·(xₑ·Dₑᵀ): the experts' down, summed. Stores y.
    EXPERTS_DOWN_SUM = &[EXPERTS, op(ExpertSum, &[Op(0)])], stores [1];

    /// h = residual + (Σₑ weightsₑ·(xₑ·Dₑᵀ) + σ(gate)·(s·Dᵀ)), s of the shared expert. Stores h.
    EXPERTS_SHARED_DOWN_ADD = first(6, EXPERTS_SHARED_DOWN_ADD_NORM), stores [5];

    /// `EXPERTS_SHARED_DOWN_ADD`, y = rms_norm(h). Stores h and y.
    EXPERTS_SHARED_DOWN_ADD_NORM = &[
        EXPERTS,
        op(ExpertSum, &[Op(0)]),
        LINEAR,
        op(GatedMul(Activation::Sigmoid), &[Any, Op(2)]),
        op(Add, &[Op(1), Op(3)]),
        op(Add, &[Any, Op(4)]),
        op(RmsNorm, &[Op(5)]),
    ], stores [5, 6];

    /// h = residual + Σₑ weightsₑ·yₑ, y = rms_norm(h). Stores h and y.
    EXPERT_SUM_ADD_NORM = &[
        op(ExpertSum, &[]),
        op(Add, &[Any, Op(0)]),
        op(RmsNorm, &[Op(1)]),
    ], stores [1, 2];

    /// h = residual + (Σₑ weightsₑ·yₑ + σ(gate)·s), y = rms_norm(h). Stores h and y.
    EXPERT_SUM_SHARED_ADD_NORM = &[
        op(ExpertSum, &[]),
        op(GatedMul(Activation::Sigmoid), &[]),
        op(Add, &[Op(0), Op(1)]),
        op(Add, &[Any, Op(2)]),
        op(RmsNorm, &[Op(3)]),
    ], stores [3, 4];
}
