//! Patterns of every shape, with the schemes of their stored operands.

use graph::{Activation, OpKind};
use registry::patterns::{ADD_NORM, CONV_DELTA, EXPERTS_GATE_UP_OAI, NORM_QKV};
use registry::{Act, Pattern, PatternOp, Src};

fn op(kind: OpKind, inputs: &'static [Src]) -> PatternOp {
    PatternOp { kind, inputs }
}

fn pattern(ops: &[PatternOp], outputs: &'static [usize]) -> Pattern {
    Pattern {
        ops: ops.to_vec().leak(),
        outputs,
    }
}

/// What each is, the pattern, its schemes and activation format.
pub fn patterns() -> Vec<(&'static str, Pattern, &'static [&'static str], Act)> {
    use OpKind::*;
    use Src::{Any, Op, Same};
    vec![
        ("add", Pattern::ADD, &["f32"], Act::F32),
        ("linear", Pattern::LINEAR, &["bf16"], Act::Bf16),
        (
            "add, rms_norm; the sum is used again",
            ADD_NORM,
            &["f32"],
            Act::F32,
        ),
        (
            "rms_norm and three linears",
            NORM_QKV,
            &["bf16", "f16", "f32"],
            Act::F32,
        ),
        (
            "gate, up, product, down, residual",
            pattern(
                &[
                    op(Linear, &[]),
                    op(Linear, &[Same(0, 0)]),
                    op(GatedMul(Activation::Silu), &[Op(0), Op(1)]),
                    op(Linear, &[Op(2)]),
                    op(Add, &[Any, Op(3)]),
                ],
                &[4],
            ),
            &["bf16"],
            Act::F32,
        ),
        (
            "norms and ropes of q and k, append",
            pattern(
                &[
                    op(RmsNorm, &[]),
                    op(Rope, &[Op(0)]),
                    op(RmsNorm, &[]),
                    op(Rope, &[Op(2), Same(1, 1)]),
                    op(KvAppend, &[Op(3)]),
                ],
                &[1, 4],
            ),
            &["bf16"],
            Act::F32,
        ),
        (
            "append and attend",
            pattern(&[op(KvAppend, &[]), op(Attention, &[Any, Op(0)])], &[0, 1]),
            &["f16"],
            Act::F32,
        ),
        (
            "attend, project, add",
            pattern(
                &[
                    op(Attention, &[]),
                    op(Linear, &[Op(0)]),
                    op(Add, &[Any, Op(1)]),
                ],
                &[2],
            ),
            &["f16", "bf16"],
            Act::F32,
        ),
        (
            "embed, norm",
            pattern(&[op(Embed, &[]), op(RmsNorm, &[Op(0)])], &[0, 1]),
            &["f16"],
            Act::F32,
        ),
        (
            "table, rope",
            pattern(&[op(RopeTable, &[]), op(Rope, &[Any, Op(0)])], &[0, 1]),
            &["f32"],
            Act::F32,
        ),
        (
            "gather, norm, head, argmax",
            pattern(
                &[
                    op(GatherRows, &[]),
                    op(RmsNorm, &[Op(0)]),
                    op(Linear, &[Op(1)]),
                    op(ArgMax, &[Op(2)]),
                ],
                &[2, 3],
            ),
            &["bf16"],
            Act::Bf16,
        ),
        (
            "gate, up, product, down of experts, their sum",
            pattern(
                &[
                    op(ExpertLinear, &[]),
                    op(ExpertLinear, &[Same(0, 0), Any, Same(0, 2)]),
                    op(GatedMul(Activation::Silu), &[Op(0), Op(1)]),
                    op(ExpertLinear, &[Op(2), Any, Same(0, 2)]),
                    op(ExpertSum, &[Op(3)]),
                ],
                &[4],
            ),
            &["q4_k", "q4_k", "q6_k"],
            Act::F32,
        ),
        (
            "gate, up, product of experts",
            EXPERTS_GATE_UP_OAI,
            &["mxfp4"],
            Act::Bf16,
        ),
        ("route", Pattern::ROUTE, &["f32"], Act::F32),
        (
            "router and its choice",
            pattern(&[op(Linear, &[]), op(Route, &[Op(0)])], &[1]),
            &["f32"],
            Act::F32,
        ),
        (
            "convolutions and the delta rule, what they convolve is used again",
            CONV_DELTA,
            &["f32"],
            Act::F32,
        ),
        (
            "convolutions and the delta rule",
            pattern(CONV_DELTA.ops, &[3]),
            &["f32"],
            Act::F32,
        ),
        (
            "delta rule, norm of heads, gate, output",
            pattern(
                &[
                    op(GatedDelta, &[]),
                    op(RmsNorm, &[Op(0)]),
                    op(GatedMul(Activation::Silu), &[Any, Op(1)]),
                    op(Linear, &[Op(2)]),
                ],
                &[0, 3],
            ),
            &["q8_0"],
            Act::F32,
        ),
        (
            "linears, convolution between them",
            pattern(
                &[
                    op(Linear, &[]),
                    op(CausalConv, &[Op(0)]),
                    op(Linear, &[Op(1)]),
                ],
                &[2],
            ),
            &["bf16"],
            Act::F32,
        ),
        (
            "gate of a row, gated",
            pattern(
                &[op(Linear, &[]), op(GatedMul(Activation::Sigmoid), &[Op(0)])],
                &[1],
            ),
            &["bf16"],
            Act::F16,
        ),
        ("norm", Pattern::RMS_NORM, &["f32"], Act::F32),
        (
            "latent append and attention",
            pattern(
                &[
                    op(LatentAppend, &[]),
                    op(LatentAttention, &[Any, Any, Op(0)]),
                ],
                &[0, 1],
            ),
            &["bf16"],
            Act::F32,
        ),
        (
            "rope into a latent cache that is no output",
            pattern(
                &[
                    op(Rope, &[]),
                    op(LatentAppend, &[Any, Op(0)]),
                    op(LatentAttention, &[Any, Any, Op(1)]),
                ],
                &[2],
            ),
            &["f32"],
            Act::F32,
        ),
        (
            "heads up to latents and down again",
            pattern(
                &[
                    op(HeadLinear, &[]),
                    op(LatentAttention, &[Op(0)]),
                    op(HeadLinear, &[Op(1)]),
                ],
                &[2],
            ),
            &["q4_0", "f16", "q8_0"],
            Act::F32,
        ),
        (
            "rotate, linear",
            pattern(&[op(Rotate, &[]), op(Linear, &[Op(0)])], &[1]),
            &["w4_paro"],
            Act::F32,
        ),
        (
            "attention, gate, output in wide blocks",
            pattern(
                &[
                    op(Attention, &[]),
                    op(GatedMul(Activation::Sigmoid), &[Any, Op(0)]),
                    op(Linear, &[Op(1)]),
                ],
                &[2],
            ),
            &["f16", "q6_k"],
            Act::F32,
        ),
        (
            "head, cap, scale, argmax",
            pattern(
                &[
                    op(Linear, &[]),
                    op(SoftCap, &[Op(0)]),
                    op(Scale, &[Op(1)]),
                    op(ArgMax, &[Op(2)]),
                ],
                &[2, 3],
            ),
            &["f16"],
            Act::F32,
        ),
    ]
}
