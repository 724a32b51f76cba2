//! Patterns of linears that share their x.

use graph::{Activation, OpKind};
use registry::{Pattern, PatternOp, Src};

const FIRST: PatternOp = PatternOp {
    kind: OpKind::Linear,
    inputs: &[],
};

const SAME: PatternOp = PatternOp {
    kind: OpKind::Linear,
    inputs: &[Src::Same(0, 0)],
};

pub static TWO: Pattern = Pattern {
    ops: &[FIRST, SAME],
    outputs: &[0, 1],
};

pub static THREE: Pattern = Pattern {
    ops: &[FIRST, SAME, SAME],
    outputs: &[0, 1, 2],
};

pub static GATED: Pattern = Pattern {
    ops: &[
        FIRST,
        SAME,
        PatternOp {
            kind: OpKind::GatedMul(Activation::Silu),
            inputs: &[Src::Op(0), Src::Op(1)],
        },
    ],
    outputs: &[2],
};
