//! op: expert_sum+sigmoid_mul+add+add+rms_norm. See `common/tail.cu`.

use crate::common::launch::Plain;
use crate::common::tail::kernel;
use graph::{Activation, OpKind};
use registry::{Pattern, PatternOp, Src};

static PATTERN: Pattern = Pattern {
    ops: &[
        PatternOp {
            kind: OpKind::ExpertSum,
            inputs: &[],
        },
        PatternOp {
            kind: OpKind::GatedMul(Activation::Sigmoid),
            inputs: &[],
        },
        PatternOp {
            kind: OpKind::Add,
            inputs: &[Src::Op(0), Src::Op(1)],
        },
        PatternOp {
            kind: OpKind::Add,
            inputs: &[Src::Any, Src::Op(2)],
        },
        PatternOp {
            kind: OpKind::RmsNorm,
            inputs: &[Src::Op(3)],
        },
    ],
    outputs: &[3, 4],
};

static F32: Plain = kernel(&PATTERN);
registry::register!(F32);
