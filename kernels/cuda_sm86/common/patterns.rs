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

const NORM: PatternOp = PatternOp {
    kind: OpKind::RmsNorm,
    inputs: &[],
};

const OF_NORM: PatternOp = PatternOp {
    kind: OpKind::Linear,
    inputs: &[Src::Op(0)],
};

pub static NORM_ONE: Pattern = Pattern {
    ops: &[NORM, OF_NORM],
    outputs: &[1],
};

pub static NORM_TWO: Pattern = Pattern {
    ops: &[NORM, OF_NORM, OF_NORM],
    outputs: &[1, 2],
};

pub static NORM_THREE: Pattern = Pattern {
    ops: &[NORM, OF_NORM, OF_NORM, OF_NORM],
    outputs: &[1, 2, 3],
};

pub static NORM_GATED: Pattern = Pattern {
    ops: &[
        NORM,
        OF_NORM,
        OF_NORM,
        PatternOp {
            kind: OpKind::GatedMul(Activation::Silu),
            inputs: &[Src::Op(1), Src::Op(2)],
        },
    ],
    outputs: &[3],
};

pub static ADDED: Pattern = Pattern {
    ops: &[
        FIRST,
        PatternOp {
            kind: OpKind::Add,
            inputs: &[Src::Any, Src::Op(0)],
        },
    ],
    outputs: &[1],
};

pub static EXPERTS_GATED: Pattern = Pattern {
    ops: &[
        PatternOp {
            kind: OpKind::ExpertLinear,
            inputs: &[],
        },
        PatternOp {
            kind: OpKind::ExpertLinear,
            inputs: &[Src::Same(0, 0), Src::Any, Src::Same(0, 2)],
        },
        PatternOp {
            kind: OpKind::GatedMul(Activation::Silu),
            inputs: &[Src::Op(0), Src::Op(1)],
        },
    ],
    outputs: &[2],
};
