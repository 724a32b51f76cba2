//! op: expert_sum+add+rms_norm. See `common/tail.cu`.

use crate::common::launch::Plain;
use crate::common::tail::kernel;
use graph::OpKind;
use registry::{Pattern, PatternOp, Src};

static PATTERN: Pattern = Pattern {
    ops: &[
        PatternOp {
            kind: OpKind::ExpertSum,
            inputs: &[],
        },
        PatternOp {
            kind: OpKind::Add,
            inputs: &[Src::Any, Src::Op(0)],
        },
        PatternOp {
            kind: OpKind::RmsNorm,
            inputs: &[Src::Op(1)],
        },
    ],
    outputs: &[1, 2],
};

static F32: Plain = kernel(&PATTERN);
registry::register!(F32);
